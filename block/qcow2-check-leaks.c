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

/*
 * Does a table end behind the end of a file of @file_size bytes?  Check takes
 * no offence if it is by less than a cluster, and reads entries of zero there.
 *
 * Returns 0 if none does.
 */
static int coroutine_fn GRAPH_RDLOCK
qcow2_check_tables_cut(BlockDriverState *bs, int64_t file_size)
{
    BDRVQcow2State *s = bs->opaque;
    int overlap_check = s->overlap_check;
    int ret;

    /* Those of bitmaps are not among all that can be asked for */
    if (s->nb_bitmaps) {
        return -ENOTSUP;
    }
    /* Nobody else uses the image */
    s->overlap_check = QCOW2_OL_ALL;
    ret = qcow2_check_metadata_overlap(bs, 0, file_size, s->cluster_size);
    s->overlap_check = overlap_check;
    return ret;
}

bool coroutine_fn qcow2_check_found_all(BlockDriverState *bs,
                                        const BdrvCheckResult *res,
                                        int64_t file_size)
{
    return !res->corruptions && !res->corruptions_fixed &&
           !res->check_errors && qcow2_check_tables_cut(bs, file_size) == 0;
}

static void coroutine_fn GRAPH_RDLOCK
qcow2_check_leak_behind(BlockDriverState *bs, BdrvCheckResult *res, bool repair,
                        int64_t cluster, uint64_t refcount)
{
    fprintf(stderr, "%s cluster %" PRId64 " refcount=%" PRIu64
            " reference=0\n", repair ? "Repairing" : "Leaked", cluster,
            refcount);
    if (!repair) {
        res->leaks++;
    } else if (qcow2_update_cluster_refcount(bs, cluster, refcount, true,
                                             QCOW2_DISCARD_NEVER) < 0) {
        res->leaks++;
        res->check_errors++;
    } else {
        res->leaks_fixed++;
    }
}

/* A copy of the refcount block that counts @cluster, NULL if there is none */
static int coroutine_fn GRAPH_RDLOCK
qcow2_check_read_refblock(BlockDriverState *bs, int64_t cluster,
                          void **refcounts)
{
    BDRVQcow2State *s = bs->opaque;
    int64_t table_index = cluster >> s->refcount_block_bits;
    int64_t offset = 0;
    void *block;
    int ret;

    *refcounts = NULL;
    if (table_index < s->refcount_table_size) {
        offset = s->refcount_table[table_index] & REFT_OFFSET_MASK;
    }
    if (!offset) {
        return 0;
    }
    ret = qcow2_cache_get(bs, s->refcount_block_cache, offset, &block);
    if (ret == 0) {
        *refcounts = g_memdup2(block, s->cluster_size);
        qcow2_cache_put(s->refcount_block_cache, &block);
    }
    return ret;
}

/* Returns whether there are leaks in the block of @first, from that one on */
static bool coroutine_fn GRAPH_RDLOCK
qcow2_check_block_behind(BlockDriverState *bs, BdrvCheckResult *res,
                         bool repair, int64_t first)
{
    BDRVQcow2State *s = bs->opaque;
    int64_t base = QEMU_ALIGN_DOWN(first, s->refcount_block_size);
    g_autofree void *refcounts = NULL;
    bool found = false;
    int ret = qcow2_check_read_refblock(bs, first, &refcounts);

    if (ret < 0) {
        fprintf(stderr, "Can't get refcount for cluster %" PRId64 ": %s\n",
                first, strerror(-ret));
        res->check_errors++;
        return false;
    }
    for (int64_t i = first - base; refcounts && i < s->refcount_block_size;
         i++) {
        uint64_t refcount = s->get_refcount(refcounts, i);

        if (refcount) {
            qcow2_check_leak_behind(bs, res, repair, base + i, refcount);
            found = true;
        }
    }
    return found;
}

void coroutine_fn qcow2_check_behind(BlockDriverState *bs,
                                     BdrvCheckResult *res, BdrvCheckMode fix,
                                     int64_t first)
{
    BDRVQcow2State *s = bs->opaque;
    int64_t max = INT_MAX - s->refcount_block_size;
    int64_t next = QEMU_ALIGN_UP(first + 1, s->refcount_block_size);
    bool repair = fix & BDRV_FIX_LEAKS;

    if (!(bs->open_flags & BDRV_O_CHECK)) {
        return;
    }
    qcow2_check_block_behind(bs, res, repair, first);
    while (next < max && qcow2_check_block_behind(bs, res, repair, next)) {
        next += s->refcount_block_size;
    }
}
