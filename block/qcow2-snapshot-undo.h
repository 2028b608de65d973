/*
 * Taking back a disk snapshot, or a revert to one, that failed half way
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * All functions run in the main loop with the node drained, outside
 * coroutines.  They are best effort: what they cannot take back is leaked, and
 * "qemu-img check -r leaks" frees it.  A pass over the tables that fails half
 * way takes back itself what it has done.
 */

#ifndef BLOCK_QCOW2_SNAPSHOT_UNDO_H
#define BLOCK_QCOW2_SNAPSHOT_UNDO_H

#include "block/block-common.h"
#include "block/graph-lock.h"
#include "qcow2-vmstate.h"

/**
 * qcow2_snapshot_undo_create: Give back the L1 table of a new snapshot
 *
 * @l1_table_offset: where it was allocated, in bytes; 0 if it was not
 * @l1_size: number of its entries
 * @has_refs: the clusters of the disk in the table were given a reference more,
 *            all of them
 * @vmstate: what the snapshot was to take over, which is freed instead
 *
 * Only leaks while snapshot_table_unknown is set, or if the image was found to
 * be corrupt.
 */
void GRAPH_RDLOCK
qcow2_snapshot_undo_create(BlockDriverState *bs, int64_t l1_table_offset,
                           int l1_size, bool has_refs,
                           Qcow2DetachedVmstate *vmstate);

/**
 * qcow2_snapshot_undo_goto: Keep the active L1 table that was to be replaced
 *
 * @sn_l1_table_offset, @sn_l1_size: L1 table of the snapshot, whose clusters
 *                                   were given a reference more, all of them
 * @write_failed: writing the new table over the active one failed, so that
 *                nobody knows what is on disk: write the old one again.  If not
 *                even that is possible, the image is marked corrupt and takes
 *                no more requests, as guest and disk would differ.
 *
 * Only leaks if the image was found to be corrupt before.
 */
void GRAPH_RDLOCK
qcow2_snapshot_undo_goto(BlockDriverState *bs, int64_t sn_l1_table_offset,
                         int sn_l1_size, bool write_failed);

/**
 * qcow2_snapshot_goto_unclean: The revert is done, but cleaning up failed
 *
 * @ret: why, as -errno
 *
 * The active L1 table is the snapshot's, on disk and in memory, and no cluster
 * is taken for unshared, so this is no failure of the revert.  Warns that
 * clusters are leaked, or will be copied although nobody shares them.
 */
void GRAPH_RDLOCK qcow2_snapshot_goto_unclean(BlockDriverState *bs, int ret);

#endif /* BLOCK_QCOW2_SNAPSHOT_UNDO_H */
