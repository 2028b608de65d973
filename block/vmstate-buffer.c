/*
 * I/O buffers of the VM state stream engines
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/madvise.h"
#include "qemu/units.h"
#include "block/block_int.h"
#include "vmstate-buffer.h"

uint8_t *vmstate_buffer_try_alloc(BlockDriverState *bs, size_t size)
{
    uint64_t align;
    void *buf = qemu_anon_ram_alloc(size, &align, false, false);

    if (!buf) {
        return NULL;
    }
    if (align < bdrv_opt_mem_align(bs)) {
        /* No known driver wants more than a huge page, on any host */
        qemu_anon_ram_free(buf, size);
        return NULL;
    }
    /* Without huge pages it is only slower */
    qemu_madvise(buf, size, QEMU_MADV_HUGEPAGE);
    return buf;
}

void vmstate_buffer_free(uint8_t *buf, size_t size)
{
    if (buf) {
        qemu_anon_ram_free(buf, size);
    }
}
