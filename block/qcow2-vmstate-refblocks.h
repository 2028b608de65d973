/*
 * qcow2: refcount blocks for VM state, several at a time
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A new refcount block costs up to four flushes, and with small clusters one is
 * full soon: at 4 KiB it is for 8 MiB of the image.
 */

#ifndef BLOCK_QCOW2_VMSTATE_REFBLOCKS_H
#define BLOCK_QCOW2_VMSTATE_REFBLOCKS_H

#include "block/block-common.h"
#include "block/graph-lock.h"

/**
 * qcow2_vmstate_add_refblocks: Have refcount blocks before they are needed
 *
 * @clusters: how many are going to be allocated
 *
 * Makes what blocks are missing for so many clusters behind the last one in
 * use, in one go.  Does nothing when a single one would do, or when the
 * refcount table has no room: qcow2 makes a longer one when it needs it.
 * Blocks that are not needed in the end stay; later allocations use them.
 *
 * With s->lock held, in or outside coroutines.
 *
 * Returns 0, or -errno with all as it was, but that some blocks may be on disk
 * that nobody needs.
 */
int GRAPH_RDLOCK qcow2_vmstate_add_refblocks(BlockDriverState *bs,
                                             int64_t clusters);

#endif /* BLOCK_QCOW2_VMSTATE_REFBLOCKS_H */
