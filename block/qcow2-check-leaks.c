/*
 * qcow2: what a kill leaves of tables and snapshots, as qemu-img check sees it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "block/block_int.h"
#include "qemu/bswap.h"
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

static int64_t qcow2_tables_end(BDRVQcow2State *s, const uint64_t *l1_table,
                                int64_t l1_size)
{
    int64_t end = 0;

    for (int64_t i = 0; i < l1_size; i++) {
        int64_t offset = l1_table[i] & L1E_OFFSET_MASK;

        if (offset) {
            end = MAX(end, offset + s->cluster_size);
        }
    }
    return end;
}

static int64_t qcow2_refcounts_end(BDRVQcow2State *s)
{
    int64_t end = s->refcount_table_offset +
                  (uint64_t)s->refcount_table_size * REFTABLE_ENTRY_SIZE;

    for (int64_t i = 0; i < s->refcount_table_size; i++) {
        int64_t offset = s->refcount_table[i] & REFT_OFFSET_MASK;

        if (offset) {
            end = MAX(end, offset + s->cluster_size);
        }
    }
    return end;
}

/* Returns -errno if its L1 table cannot be read */
static int64_t coroutine_fn GRAPH_RDLOCK
qcow2_snapshot_tables_end(BlockDriverState *bs, const QCowSnapshot *sn)
{
    BDRVQcow2State *s = bs->opaque;
    int64_t bytes = (int64_t)sn->l1_size * L1E_SIZE;
    g_autofree uint64_t *l1_table = g_try_malloc(bytes);
    int ret;

    if (bytes && !l1_table) {
        return -ENOMEM;
    }
    ret = bdrv_co_pread(bs->file, sn->l1_table_offset, bytes, l1_table, 0);
    if (ret < 0) {
        return ret;
    }
    for (uint32_t i = 0; i < sn->l1_size; i++) {
        be64_to_cpus(&l1_table[i]);
    }
    return MAX((int64_t)sn->l1_table_offset + bytes,
               qcow2_tables_end(s, l1_table, sn->l1_size));
}

/*
 * Where the last one of the L1 and L2 tables ends, in the file, or -errno.
 * Those of bitmaps are not looked at, so that there must be none.
 */
static int64_t coroutine_fn GRAPH_RDLOCK
qcow2_references_end(BlockDriverState *bs)
{
    BDRVQcow2State *s = bs->opaque;
    int64_t end = s->l1_table_offset + (uint64_t)s->l1_size * L1E_SIZE;

    if (s->nb_bitmaps) {
        return -ENOTSUP;
    }
    end = MAX(end, qcow2_tables_end(s, s->l1_table, s->l1_size));
    for (unsigned i = 0; i < s->nb_snapshots; i++) {
        int64_t ret = qcow2_snapshot_tables_end(bs, &s->snapshots[i]);

        if (ret < 0) {
            return ret;
        }
        end = MAX(end, ret);
    }
    return end;
}

/* The last byte is of a name, so it is not zero if it is in the file */
static bool coroutine_fn GRAPH_RDLOCK
qcow2_snapshot_table_is_whole(BlockDriverState *bs)
{
    BDRVQcow2State *s = bs->opaque;
    uint8_t last = 0;

    return !s->snapshots_size ||
           (bdrv_co_pread(bs->file, s->snapshots_offset + s->snapshots_size - 1,
                          1, &last, 0) == 0 && last);
}

Qcow2Found coroutine_fn qcow2_check_found(BlockDriverState *bs,
                                          const BdrvCheckResult *res,
                                          int64_t file_size)
{
    BDRVQcow2State *s = bs->opaque;
    int64_t end;

    if (res->corruptions || res->corruptions_fixed || res->check_errors ||
        !qcow2_snapshot_table_is_whole(bs)) {
        return QCOW2_FOUND_SOME;
    }
    end = qcow2_references_end(bs);
    if (end < 0 || MAX(end, qcow2_refcounts_end(s)) > file_size) {
        return QCOW2_FOUND_SOME;
    }
    /* @file_size is rounded up.  Counts that are missing free nothing. */
    return end > file_size - (int64_t)BDRV_SECTOR_SIZE ? QCOW2_FOUND_IN_FILE
                                                       : QCOW2_FOUND_ALL;
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
                                     Qcow2Found found, int64_t first)
{
    BDRVQcow2State *s = bs->opaque;
    int64_t max = INT_MAX - s->refcount_block_size;
    int64_t next = QEMU_ALIGN_UP(first + 1, s->refcount_block_size);
    bool repair = fix & BDRV_FIX_LEAKS;

    if (found != QCOW2_FOUND_ALL || !(bs->open_flags & BDRV_O_CHECK)) {
        return;
    }
    qcow2_check_block_behind(bs, res, repair, first);
    while (next < max && qcow2_check_block_behind(bs, res, repair, next)) {
        next += s->refcount_block_size;
    }
}
