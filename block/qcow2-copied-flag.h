/*
 * qcow2: COPIED flags of clusters whose count is too high
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The flag says that a cluster may be written in place, which is right as long
 * as one entry refers to it.  By docs/interop/qcow2.txt it is set if the count
 * is one.  Both cannot change at the same time.  Whoever adds references counts
 * them first, so that one who dies in between leaves counts that are too high
 * and flags that are still right: the counts are leaks, and nothing else is to
 * be repaired.
 */

#ifndef BLOCK_QCOW2_COPIED_FLAG_H
#define BLOCK_QCOW2_COPIED_FLAG_H

#include "qcow2.h"

/**
 * qcow2_copied_flag_fits: Is the flag of an entry what it has to be?
 *
 * @entry: of an L1 or L2 table, in host byte order, that has a cluster
 * @refcount: the count on disk of that cluster
 * @references: how many references to each cluster have been found, by index,
 *              as wide as counts are
 * @nb_references: number of clusters in @references
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

#endif /* BLOCK_QCOW2_COPIED_FLAG_H */
