/*
 * qcow2: what a kill leaves of tables and snapshots, as qemu-img check sees it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Whoever adds references counts them first, so that one who dies in between
 * leaves counts that are too high: leaks, and nothing else to be repaired.  Two
 * things are needed for check to say so.
 *
 * - The COPIED flag says that a cluster may be written in place, which is right
 *   as long as one entry refers to it.  By docs/interop/qcow2.txt it is set if
 *   the count is one.  Both cannot change at the same time, and the flag is
 *   still right then, the count too high.
 * - What was counted for a table that was not written may be behind the end of
 *   the file.
 *
 * Both ask what refers to a cluster, so it counts how much of that is known.
 */

#ifndef BLOCK_QCOW2_CHECK_LEAKS_H
#define BLOCK_QCOW2_CHECK_LEAKS_H

#include "qcow2.h"

/* Which references a check has found */
typedef enum Qcow2Found {
    QCOW2_FOUND_SOME,
    QCOW2_FOUND_IN_FILE,    /* all those that are in the file as it is */
    QCOW2_FOUND_ALL,        /* and the file was not cut short in a table */
} Qcow2Found;

/**
 * qcow2_check_found: Are all references known?
 *
 * @res: of the check that has just counted them
 * @file_size: of bdrv_co_getlength(), a multiple of BDRV_SECTOR_SIZE
 *
 * They are not if something is damaged, or was, or if the file ends within a
 * table.  Whether it does is not known of an L1 or L2 table that ends in the
 * last sector.  Tables of bitmaps are not looked at, so that of an image which
 * has some not all is known.
 *
 * In a coroutine, with s->lock.
 */
Qcow2Found coroutine_fn GRAPH_RDLOCK
qcow2_check_found(BlockDriverState *bs, const BdrvCheckResult *res,
                  int64_t file_size);

/**
 * qcow2_copied_flag_fits: Is the flag of an entry what it has to be?
 *
 * @entry: of an L1 or L2 table, in host byte order, that has a cluster
 * @refcount: the count on disk of that cluster
 * @references: how many references to each cluster there are, by index, as wide
 *              as counts are
 * @nb_references: number of clusters in @references; 0 if not all references
 *                 are known: then a set flag fits a count of one only
 *
 * A set flag fits a count of one, and also a count that is only too high: as
 * nobody else refers to the cluster, writing in place is what is to be done.
 * That count is a leak, which is told elsewhere.  A flag that is not set fits
 * all counts but one.
 *
 * Any context; looks at nothing but its arguments.
 */
bool qcow2_copied_flag_fits(BDRVQcow2State *s, uint64_t entry,
                            uint64_t refcount, const void *references,
                            int64_t nb_references);

/**
 * qcow2_check_behind: Look for leaked clusters that the file ends before
 *
 * @res: what is found, and what is repaired, is added to it
 * @fix: with BDRV_FIX_LEAKS, the counts become 0; nothing is discarded
 * @found: unless it is QCOW2_FOUND_ALL, nothing happens: a table may have told
 *         of these clusters
 * @first: number of the first cluster that is behind the end of the file, and
 *         behind all that is referred to
 *
 * Looks at the refcount block of @first and at the next ones, of these up to
 * one that has nothing: what is allocated last is there, and an image must not
 * make it last longer.  For qemu-img check; does nothing when an image is
 * repaired while it is opened.
 *
 * In a coroutine, with s->lock.  A refcount block that cannot be read, or a
 * count that cannot be changed, is a check error.
 */
void coroutine_fn GRAPH_RDLOCK qcow2_check_behind(BlockDriverState *bs,
                                                  BdrvCheckResult *res,
                                                  BdrvCheckMode fix,
                                                  Qcow2Found found,
                                                  int64_t first);

#endif /* BLOCK_QCOW2_CHECK_LEAKS_H */
