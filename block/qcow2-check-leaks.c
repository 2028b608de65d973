/*
 * qcow2: what a kill leaves of tables and snapshots, as qemu-img check sees it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/block_int.h"
#include "qcow2-check-leaks.h"

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

/* Returns 0, or -errno if the count could not be read or changed */
static int coroutine_fn GRAPH_RDLOCK
qcow2_check_cluster_behind(BlockDriverState *bs, BdrvCheckResult *res,
                           bool repair, int64_t cluster)
{
    uint64_t refcount;
    int ret = qcow2_get_refcount(bs, cluster, &refcount);

    if (ret < 0 || refcount == 0) {
        return ret;
    }
    fprintf(stderr, "%s cluster %" PRId64 " refcount=%" PRIu64
            " reference=0\n", repair ? "Repairing" : "Leaked", cluster,
            refcount);
    if (repair) {
        ret = qcow2_update_cluster_refcount(bs, cluster, refcount, true,
                                            QCOW2_DISCARD_NEVER);
    }
    if (repair && ret == 0) {
        res->leaks_fixed++;
    } else {
        res->leaks++;
    }
    return ret;
}

void coroutine_fn qcow2_check_behind(BlockDriverState *bs,
                                     BdrvCheckResult *res, BdrvCheckMode fix,
                                     int64_t first)
{
    BDRVQcow2State *s = bs->opaque;
    int64_t end = (int64_t)s->refcount_table_size << s->refcount_block_bits;
    int64_t cluster = first;

    while (cluster < end) {
        int64_t table_index = cluster >> s->refcount_block_bits;

        if (!(s->refcount_table[table_index] & REFT_OFFSET_MASK)) {
            cluster = (table_index + 1) << s->refcount_block_bits;
            continue;
        }
        if (qcow2_check_cluster_behind(bs, res, fix & BDRV_FIX_LEAKS,
                                       cluster) < 0) {
            res->check_errors++;
        }
        cluster++;
    }
}
