/*
 * qcow2: COPIED flags of clusters whose count is too high
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/block_int.h"
#include "qcow2-copied-flag.h"

QEMU_BUILD_BUG_ON(L1E_OFFSET_MASK != L2E_OFFSET_MASK);

/* Nobody refers to the cluster but the entry that is looked at */
static bool qcow2_is_only_reference(BDRVQcow2State *s, uint64_t entry,
                                    const void *references,
                                    int64_t nb_references)
{
    int64_t cluster = (entry & L2E_OFFSET_MASK) >> s->cluster_bits;

    return cluster < nb_references &&
           s->get_refcount(references, cluster) == 1;
}

bool qcow2_copied_flag_fits(BDRVQcow2State *s, uint64_t entry,
                            uint64_t refcount, const void *references,
                            int64_t nb_references)
{
    if (!(entry & QCOW_OFLAG_COPIED)) {
        return refcount != 1;
    }
    return refcount == 1 ||
           (refcount > 1 &&
            qcow2_is_only_reference(s, entry, references, nb_references));
}
