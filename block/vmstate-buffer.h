/*
 * I/O buffers of the VM state stream engines
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef BLOCK_VMSTATE_BUFFER_H
#define BLOCK_VMSTATE_BUFFER_H

#include "block/block.h"

/* Buffers of a multiple of this many bytes get the most out of huge pages */
#define VMSTATE_BUFFER_UNIT (2 * MiB)

/*
 * Allocate @size bytes that requests to @bs may use directly, in huge pages if
 * the host gives any: with O_DIRECT the kernel pins and describes a buffer page
 * by page, which shows both in CPU time and in the size of the requests that
 * the disk sees.
 *
 * Any thread.  Returns NULL if there is no memory.  To be freed with
 * vmstate_buffer_free() and the same @size.
 */
uint8_t *vmstate_buffer_try_alloc(BlockDriverState *bs, size_t size);

/* @buf may be NULL */
void vmstate_buffer_free(uint8_t *buf, size_t size);

#endif /* BLOCK_VMSTATE_BUFFER_H */
