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
 * qcow2_is_given_up: Whether @bs has no driver any more
 *
 * That is so once the image was found to be corrupt beyond what single requests
 * can fail for.  Counts are wrong then, and what they call free may be in use:
 * nothing is to be allocated or discarded any more.  It may happen while a
 * request waits.
 *
 * In or outside coroutines, in the node's AioContext or with the node drained.
 */
bool qcow2_is_given_up(BlockDriverState *bs);

/* VM state that has left the active L1 table, with its references */
typedef struct Qcow2DetachedVmstate {
    uint64_t *l1_entries;   /* by offset; NULL if none; for g_free() */
    unsigned nb_tables;
} Qcow2DetachedVmstate;

/**
 * qcow2_vmstate_detach: Take the VM state out of the active L1 table
 *
 * Clears the L1 entries on disk and flushes.  The references to L2 tables and
 * clusters stay and are the caller's: a snapshot may take them over; if none
 * does, they are to be dropped.  A crash in between leaks them.
 *
 * @vmstate: zeroed by the caller
 *
 * In or outside coroutines; with s->lock held, or with the node drained.
 *
 * Returns 0, or -errno with the VM state still there: its L1 entries are
 * damaged or could not be cleared.
 */
int GRAPH_RDLOCK qcow2_vmstate_detach(BlockDriverState *bs,
                                      Qcow2DetachedVmstate *vmstate);

/**
 * qcow2_vmstate_drop: Free VM state that nobody takes over
 *
 * Snapshots that reference the same clusters keep them.  Clusters that cannot
 * be freed are leaked, with a warning; all are if the image is given up.  What
 * could be freed is so on disk.  Then @vmstate is empty; nothing happens if it
 * was so before.
 *
 * In or outside coroutines; with s->lock held, or with the node drained.
 */
void GRAPH_RDLOCK qcow2_vmstate_drop(BlockDriverState *bs,
                                     Qcow2DetachedVmstate *vmstate);

/**
 * qcow2_vmstate_release: Drop the VM state from the active L1 table
 *
 * Clears the L1 entries on disk, flushes, and only then drops the references to
 * L2 tables and clusters.  A crash in between leaks clusters, nothing worse.
 * Snapshots that reference the same clusters keep them.
 *
 * In or outside coroutines; with s->lock held, or with the node drained.
 *
 * Returns 0, or -errno with the VM state still there: its L1 entries are
 * damaged or could not be cleared.  Clusters that cannot be freed afterwards
 * are leaked, with a warning.  Returns -ENOMEDIUM if the image is given up.
 */
int GRAPH_RDLOCK qcow2_vmstate_release(BlockDriverState *bs);

/**
 * qcow2_vmstate_check_l1: Can the entries of VM state in the active L1 table be
 * right?
 *
 * To be asked before references of the whole active layer are counted up or
 * down: an entry that points nowhere, or to something that is no table of VM
 * state, would take others' clusters with it.
 *
 * In or outside coroutines; with s->lock held, or with the node drained.
 *
 * Returns 0, or -EIO; then nothing is changed and the damage was reported.
 */
int GRAPH_RDLOCK qcow2_vmstate_check_l1(BlockDriverState *bs);

/**
 * qcow2_vmstate_grow_file: Extend the image file before [@offset, @offset +
 * @bytes) of it is written
 *
 * On many file systems, O_DIRECT writes that extend a file wait for each other.
 * While VM state is saved, this keeps the end of the file a step ahead of the
 * writes.  Best effort: a file that refuses is written without.
 *
 * Called without s->lock, which is taken to make the file longer.
 */
void coroutine_fn GRAPH_RDLOCK
qcow2_vmstate_grow_file(BlockDriverState *bs, Qcow2VmstateGrowth *growth,
                        int64_t offset, int64_t bytes);

/**
 * qcow2_vmstate_trim_on_close: Cut off what a crashed save left behind
 *
 * Cuts off the hole at the end of the image file if there is no used cluster in
 * it and it is no larger than what a save leaves.  Data in front of it that no
 * refcount covers is left alone, as the refcounts may be what is wrong; it goes
 * with the next save, which knows it by a short hole that is kept behind it.
 * Best effort.
 *
 * Main loop thread, outside coroutines, before the caches are destroyed.
 */
void GRAPH_RDLOCK qcow2_vmstate_trim_on_close(BlockDriverState *bs);

#endif /* BLOCK_QCOW2_VMSTATE_H */
