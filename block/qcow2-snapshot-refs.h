/*
 * qcow2: references of whole snapshots
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Creating, deleting and reverting to a snapshot counts references of every
 * cluster of the disk, and corrects the COPIED flag of every entry of its L2
 * tables.  Done cluster by cluster, alternating between counts and flags, this
 * takes longer than all the rest if the disk is large: whenever a slice of an
 * L2 table leaves the cache, the counts must have been flushed to disk before.
 *
 * So first all counts are changed, then all flags; clusters that lie in the
 * image as they do on the disk are worked on a whole run at a time; and L2
 * tables are read and written whole, past the cache.
 *
 * The functions are called in qcow2_update_snapshot_refcount(), one after the
 * other, under the conditions of that function: nobody else uses the image.
 */

#ifndef BLOCK_QCOW2_SNAPSHOT_REFS_H
#define BLOCK_QCOW2_SNAPSHOT_REFS_H

#include "block/block-common.h"
#include "block/graph-lock.h"

/**
 * qcow2_snapshot_add_refs: Count references to everything below an L1 table
 *
 * @l1_table: in memory, in host byte order; not changed
 * @l1_size: number of its entries
 * @addend: 1, 0 or -1, added to the reference count of each L2 table and of
 *          each cluster that they refer to
 *
 * Leaves the COPIED flags alone.  When this returns, the counts are on disk and
 * the cache of L2 tables has nothing to write.
 *
 * Returns 0, or -errno.  References that were added until then have been taken
 * back, as far as that was possible: what was not leaks.
 */
int GRAPH_RDLOCK qcow2_snapshot_add_refs(BlockDriverState *bs,
                                         const uint64_t *l1_table, int l1_size,
                                         int addend);

/**
 * qcow2_snapshot_undo_refs: Take back references that were added, and all flags
 *
 * @l1_table, @l1_size: of a successful call of qcow2_snapshot_add_refs()
 *
 * Best effort: what cannot be taken back is leaked.
 */
void GRAPH_RDLOCK qcow2_snapshot_undo_refs(BlockDriverState *bs,
                                           const uint64_t *l1_table,
                                           int l1_size);

/**
 * qcow2_snapshot_set_copied: Correct the COPIED flags in an L2 table
 *
 * @l2_offset: of the table in the image, in bytes, aligned
 *
 * Returns 0 or -errno; damage to the table is reported and makes the image
 * unusable.  After an error the flags on disk are those of before or, if it was
 * the write that failed, some of both.
 */
int GRAPH_RDLOCK qcow2_snapshot_set_copied(BlockDriverState *bs,
                                           int64_t l2_offset);

#endif /* BLOCK_QCOW2_SNAPSHOT_REFS_H */
