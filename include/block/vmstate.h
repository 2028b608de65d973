/*
 * VM state kept by a node: what surrounds reading and writing it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * bdrv_{readv,writev}_vmstate() move the bytes.  The functions here tell the
 * node that keeps them when a save begins and ends and when the bytes are not
 * wanted any more.  Like those two, they go through filters to the first node
 * whose driver implements them.
 */

#ifndef BLOCK_VMSTATE_H
#define BLOCK_VMSTATE_H

#include "block/block-common.h"
#include "block/snapshot.h"
#include "block/graph-lock.h"
#include "qemu/units.h"

/*
 * How far a file is grown ahead of VM state, by default and at most, in bytes:
 * what a crash leaves behind is told from space that somebody reserved by that
 */
#define VMSTATE_GROWTH_STEP (128 * MiB)

/**
 * BdrvVmstateOps: callbacks of a format driver that stores VM state
 *
 * All are optional; a missing one does nothing and succeeds.  They are called
 * as the function of the same name below is, on the node that stores the VM
 * state itself, and take what locks of the driver they need.  @co_begin_save
 * either begins or leaves nothing behind; @co_end_save is only called after it.
 */
typedef struct BdrvVmstateOps {
    /* Can @bs take part in a snapshot with VM state at all? */
    bool (*check)(BlockDriverState *bs, Error **errp) GRAPH_RDLOCK_PTR;

    int coroutine_fn (*co_begin_save)(BlockDriverState *bs, int64_t growth_step,
                                      Error **errp) GRAPH_RDLOCK_PTR;
    void coroutine_fn (*co_end_save)(BlockDriverState *bs) GRAPH_RDLOCK_PTR;
    int coroutine_fn (*co_release)(BlockDriverState *bs, Error **errp)
        GRAPH_RDLOCK_PTR;
    int coroutine_fn (*co_check_snapshot)(BlockDriverState *bs,
                                          const QEMUSnapshotInfo *sn,
                                          uint8_t *head, size_t bytes,
                                          Error **errp) GRAPH_RDLOCK_PTR;
} BdrvVmstateOps;

/**
 * bdrv_vmstate_wants_thread: Should VM state be read in a thread of its own?
 *
 * Yes for NBD, if the node is in the main loop: receiving takes its thread as
 * long as loading does.  The driver must cope with requests from outside the
 * node's AioContext, which this one does and not all do (gluster and nvme do
 * not); where storage is a file, the kernel brings the data, and the thread is
 * not worth it.
 *
 * Main loop thread.
 */
bool GRAPH_RDLOCK bdrv_vmstate_wants_thread(BlockDriverState *bs);

/**
 * bdrv_vmstate_check: Refuse a node that cannot be part of a snapshot
 *
 * For reasons that only the driver knows, such as an external data file.  Says
 * yes to a node without any snapshot support: that is for bdrv_can_snapshot().
 *
 * Main loop thread.  Returns false with @errp naming the node and the reason.
 */
bool GRAPH_RDLOCK bdrv_vmstate_check(BlockDriverState *bs, Error **errp);

/**
 * bdrv_vmstate_begin_save: VM state is going to be written to @bs
 *
 * Releases what earlier saves or loads left behind, as
 * bdrv_vmstate_release() does, and lets the driver prepare.  After success,
 * and only then, bdrv_vmstate_end_save() must follow.
 *
 * @growth_step: how far, in bytes, the driver may grow its file ahead of the
 *               writes, up to VMSTATE_GROWTH_STEP; 0 for not at all
 *
 * No VM state request may be in flight, and @bs must be drained.
 *
 * Returns 0, or -errno with @errp set and nothing begun.
 */
int coroutine_fn GRAPH_RDLOCK
bdrv_co_vmstate_begin_save(BlockDriverState *bs, int64_t growth_step,
                           Error **errp);
int co_wrapper_bdrv_rdlock
bdrv_vmstate_begin_save(BlockDriverState *bs, int64_t growth_step,
                        Error **errp);

/**
 * bdrv_vmstate_end_save: No more VM state will be written to @bs
 *
 * Takes back what the driver prepared.  Neither keeps nor releases the VM state
 * itself.  Cannot fail: what cannot be taken back now is taken back by the next
 * save, or when the node is closed.  Same conditions as at the beginning.  Does
 * nothing for a node that has lost its medium meanwhile.
 */
void coroutine_fn GRAPH_RDLOCK bdrv_co_vmstate_end_save(BlockDriverState *bs);
void co_wrapper_bdrv_rdlock bdrv_vmstate_end_save(BlockDriverState *bs);

/**
 * bdrv_vmstate_release: Free the VM state in the active layer of @bs
 *
 * Snapshots keep theirs.  To be called when VM state has been loaded, or when
 * saving it failed.  Costs next to nothing if there is none.
 *
 * No VM state request may be in flight, and @bs must be drained.
 *
 * Returns 0, or -errno with @errp set.  After a failure the image is
 * consistent, but space may stay allocated or leaked; with -ENOMEDIUM, damage
 * was found, and the image takes no more requests.
 */
int coroutine_fn GRAPH_RDLOCK
bdrv_co_vmstate_release(BlockDriverState *bs, Error **errp);
int co_wrapper_bdrv_rdlock
bdrv_vmstate_release(BlockDriverState *bs, Error **errp);

/**
 * bdrv_vmstate_check_snapshot: Is the VM state of a snapshot all there?
 *
 * To be asked before anything is reverted.  Looks whether there is a place in
 * the image file for each byte of it, and reads the first ones; that what lies
 * in these places can be read, and is right, shows only when it is loaded.
 *
 * @sn: as bdrv_snapshot_find() returned it for @bs
 * @head: filled with the first bytes of the VM state
 * @bytes: how many, at most BDRV_SECTOR_SIZE
 *
 * Main loop thread or coroutine; the VM may be running.
 *
 * Returns the number of bytes in @head, which is 0 if the driver cannot tell
 * anything, or -errno with @errp naming node, snapshot and offset.
 */
int coroutine_fn GRAPH_RDLOCK
bdrv_co_vmstate_check_snapshot(BlockDriverState *bs, const QEMUSnapshotInfo *sn,
                               uint8_t *head, size_t bytes, Error **errp);
int co_wrapper_bdrv_rdlock
bdrv_vmstate_check_snapshot(BlockDriverState *bs, const QEMUSnapshotInfo *sn,
                            uint8_t *head, size_t bytes, Error **errp);

#endif /* BLOCK_VMSTATE_H */
