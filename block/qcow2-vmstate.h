/*
 * VM state in qcow2 images
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * qcow2 keeps the VM state of the active layer behind the end of the virtual
 * disk: from L1 index l1_vm_state_index on.
 */

#ifndef BLOCK_QCOW2_VMSTATE_H
#define BLOCK_QCOW2_VMSTATE_H

#include "block/block-common.h"
#include "block/graph-lock.h"
#include "block/vmstate.h"

/* State of growing the image file ahead of VM state that is being written */
typedef struct Qcow2VmstateGrowth Qcow2VmstateGrowth;

extern const BdrvVmstateOps qcow2_vmstate_ops;

/**
 * qcow2_vmstate_release: Drop the VM state from the active L1 table
 *
 * Clears the L1 entries on disk, flushes, and only then drops the references to
 * L2 tables and clusters.  A crash in between leaks clusters, nothing worse.
 * Snapshots that reference the same clusters keep them.
 *
 * In or outside coroutines; with s->lock held, or with the node drained.
 *
 * Returns 0 or -errno.  If clearing the L1 entries failed, the VM state is
 * still there.  If dropping references failed, the rest has been dropped, and
 * the clusters concerned are leaked.
 */
int GRAPH_RDLOCK qcow2_vmstate_release(BlockDriverState *bs);

/**
 * qcow2_vmstate_grow_file: Extend the image file before [@offset, @offset +
 * @bytes) of it is written
 *
 * On many file systems, O_DIRECT writes that extend a file wait for each other.
 * While VM state is saved, this keeps the end of the file a step ahead of the
 * writes.  Best effort: a file that refuses is written without.
 *
 * Called without s->lock.
 */
void coroutine_fn GRAPH_RDLOCK
qcow2_vmstate_grow_file(BlockDriverState *bs, Qcow2VmstateGrowth *growth,
                        int64_t offset, int64_t bytes);

/**
 * qcow2_vmstate_trim_on_close: Cut off what a crashed save left behind
 *
 * Drops the part of the image file behind the last used cluster if it is a hole
 * no larger than what a save would leave, or if it has data and clusters have
 * been allocated since the image was opened (so that its refcounts were trusted
 * already).  Best effort.
 *
 * Main loop thread, outside coroutines, before the caches are destroyed.
 */
void GRAPH_RDLOCK qcow2_vmstate_trim_on_close(BlockDriverState *bs);

#endif /* BLOCK_QCOW2_VMSTATE_H */
