/*
 * qcow2: references of whole snapshots
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "block/block_int.h"
#include "qemu/memalign.h"
#include "qcow2.h"
#include "qcow2-snapshot-refs.h"

/* Entries of L2 tables in a row, of clusters in a row */
typedef struct Qcow2Run {
    int index;              /* of the first entry */
    int count;              /* of entries; 0 if there is none of that kind */
    uint64_t cluster;       /* that the first entry refers to */
} Qcow2Run;

/* What happens to the counts */
typedef struct Qcow2RefChange {
    int addend;             /* -1 or 1 */
    enum qcow2_discard_type type;   /* for clusters that nobody uses then */
} Qcow2RefChange;

static const Qcow2RefChange qcow2_add_ref = { 1, QCOW2_DISCARD_NEVER };
static const Qcow2RefChange qcow2_drop_ref = { -1, QCOW2_DISCARD_SNAPSHOT };
/*
 * What has no reference left once one that was added is gone had none before,
 * although it is in use: the count is wrong, which can be repaired as long as
 * the data is there.
 */
static const Qcow2RefChange qcow2_undo_ref = { -1, QCOW2_DISCARD_NEVER };

/* The cluster that entry @index refers to, or 0 if it is not an ordinary one */
static uint64_t GRAPH_RDLOCK qcow2_run_cluster(BlockDriverState *bs,
                                               uint64_t *l2, int index)
{
    BDRVQcow2State *s = bs->opaque;
    uint64_t entry = get_l2_entry(s, l2, index);
    uint64_t offset = entry & L2E_OFFSET_MASK;
    QCow2ClusterType type = qcow2_get_cluster_type(bs, entry);

    if ((type != QCOW2_CLUSTER_NORMAL && type != QCOW2_CLUSTER_ZERO_ALLOC) ||
        offset_into_cluster(s, offset)) {
        return 0;
    }
    return offset >> s->cluster_bits;
}

static int qcow2_run_block_index(BDRVQcow2State *s, uint64_t cluster)
{
    return cluster & (s->refcount_block_size - 1);
}

/* A run at @index, before @end, whose counts are all in one refcount block */
static Qcow2Run GRAPH_RDLOCK qcow2_run_find(BlockDriverState *bs, uint64_t *l2,
                                            int index, int end)
{
    BDRVQcow2State *s = bs->opaque;
    Qcow2Run run = {
        .index = index,
        .cluster = qcow2_run_cluster(bs, l2, index),
    };
    int max;

    if (!run.cluster) {
        return run;
    }
    max = MIN(end - index, s->refcount_block_size -
                           qcow2_run_block_index(s, run.cluster));
    for (run.count = 1; run.count < max; run.count++) {
        if (qcow2_run_cluster(bs, l2, index + run.count) !=
            run.cluster + run.count) {
            break;
        }
    }
    return run;
}

/*
 * Get the refcount block of a run from the cache, and cut the run off where the
 * counts are not between @min and @max any more.  @block is to be put back only
 * if the run is not empty then.
 */
static int GRAPH_RDLOCK qcow2_run_get_block(BlockDriverState *bs, Qcow2Run *run,
                                            uint64_t min, uint64_t max,
                                            void **block)
{
    BDRVQcow2State *s = bs->opaque;
    uint64_t table_index = run->cluster >> s->refcount_block_bits;
    int first = qcow2_run_block_index(s, run->cluster);
    uint64_t offset = 0;
    int i, ret;

    if (table_index < s->refcount_table_size) {
        offset = s->refcount_table[table_index] & REFT_OFFSET_MASK;
    }
    if (run->count == 0 || !offset || offset_into_cluster(s, offset)) {
        run->count = 0;
        return 0;
    }
    ret = qcow2_cache_get(bs, s->refcount_block_cache, offset, block);
    if (ret < 0) {
        return ret;
    }
    for (i = 0; i < run->count; i++) {
        uint64_t refcount = s->get_refcount(*block, first + i);

        if (refcount < min || refcount > max) {
            break;
        }
    }
    run->count = i;
    if (i == 0) {
        qcow2_cache_put(s->refcount_block_cache, block);
    }
    return 0;
}

/*
 * Count the beginning of a run, as far as its clusters stay in use and their
 * counts do not overflow.  Returns the number of entries, or -errno.
 */
static int GRAPH_RDLOCK qcow2_run_add_refs(BlockDriverState *bs, Qcow2Run run,
                                           int addend)
{
    BDRVQcow2State *s = bs->opaque;
    int first = qcow2_run_block_index(s, run.cluster);
    void *block;
    int ret;

    ret = qcow2_run_get_block(bs, &run, addend < 0 ? 2 : 1,
                              addend < 0 ? s->refcount_max
                                         : s->refcount_max - 1, &block);
    if (ret < 0 || run.count == 0) {
        return ret;
    }
    for (int i = 0; i < run.count; i++) {
        s->set_refcount(block, first + i,
                        s->get_refcount(block, first + i) + addend);
    }
    qcow2_cache_entry_mark_dirty(s->refcount_block_cache, block);
    qcow2_cache_put(s->refcount_block_cache, &block);
    return run.count;
}

/* Returns -EIO if @offset, from entry @index of the table, is not aligned */
static int GRAPH_RDLOCK qcow2_entry_check_offset(BlockDriverState *bs,
                                                 int64_t l2_offset, int index,
                                                 uint64_t offset)
{
    if (!offset_into_cluster(bs->opaque, offset)) {
        return 0;
    }
    qcow2_signal_corruption(bs, true, -1, -1, "Cluster allocation offset 0x%"
                            PRIx64 " unaligned (L2 offset: 0x%" PRIx64
                            ", L2 index: 0x%x)", offset, l2_offset, index);
    return -EIO;
}

/* The ordinary way, for all the rest */
static int GRAPH_RDLOCK qcow2_entry_add_ref(BlockDriverState *bs,
                                            int64_t l2_offset, uint64_t *l2,
                                            int index, Qcow2RefChange change)
{
    BDRVQcow2State *s = bs->opaque;
    uint64_t entry = get_l2_entry(s, l2, index);
    uint64_t offset = entry & L2E_OFFSET_MASK;
    uint64_t cluster, last;
    int bytes = 1;
    int ret;

    switch (qcow2_get_cluster_type(bs, entry)) {
    case QCOW2_CLUSTER_COMPRESSED:
        qcow2_parse_compressed_l2_entry(bs, entry, &offset, &bytes);
        break;

    case QCOW2_CLUSTER_NORMAL:
    case QCOW2_CLUSTER_ZERO_ALLOC:
        ret = qcow2_entry_check_offset(bs, l2_offset, index, offset);
        if (ret < 0) {
            return ret;
        }
        break;

    default:
        return 0;
    }

    last = (offset + bytes - 1) >> s->cluster_bits;
    for (cluster = offset >> s->cluster_bits; cluster <= last; cluster++) {
        ret = qcow2_update_cluster_refcount(bs, cluster, 1, change.addend < 0,
                                            change.type);
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

/* Count the first @end entries.  Returns for how many of them that was done. */
static int GRAPH_RDLOCK qcow2_entries_add_refs(BlockDriverState *bs,
                                               int64_t l2_offset, uint64_t *l2,
                                               int end,
                                               Qcow2RefChange change,
                                               int *first_error)
{
    Qcow2Run run = { 0 };
    int index = 0;

    while (index < end) {
        int ret = 0;

        /* What is left of a run is looked for only once */
        if (run.count == 0) {
            run = qcow2_run_find(bs, l2, index, end);
        }
        if (run.count > 0) {
            ret = qcow2_run_add_refs(bs, run, change.addend);
        }
        if (ret == 0) {
            ret = qcow2_entry_add_ref(bs, l2_offset, l2, index, change);
            ret = ret < 0 ? ret : 1;
        }
        if (ret < 0) {
            *first_error = ret;
            break;
        }
        index += ret;
        run.index += ret;
        run.cluster += ret;
        run.count = MAX(run.count - ret, 0);
    }
    return index;
}

static int GRAPH_RDLOCK qcow2_read_table(BlockDriverState *bs, int64_t offset,
                                         uint64_t **l2)
{
    BDRVQcow2State *s = bs->opaque;
    int ret;

    *l2 = qemu_try_blockalign(bs->file->bs, s->cluster_size);
    if (!*l2) {
        return -ENOMEM;
    }
    BLKDBG_EVENT(bs->file, BLKDBG_L2_LOAD);
    ret = bdrv_pread(bs->file, offset, s->cluster_size, *l2, 0);
    if (ret < 0) {
        qemu_vfree(*l2);
    }
    return ret;
}

/* The table and all that it refers to; of a table that fails, nothing */
static int GRAPH_RDLOCK qcow2_table_add_refs(BlockDriverState *bs,
                                             int64_t l2_offset,
                                             Qcow2RefChange change)
{
    BDRVQcow2State *s = bs->opaque;
    uint64_t *l2;
    int done, ret, ignored;

    ret = qcow2_read_table(bs, l2_offset, &l2);
    if (ret < 0) {
        return ret;
    }
    done = qcow2_entries_add_refs(bs, l2_offset, l2, s->l2_size, change, &ret);
    if (ret == 0) {
        ret = qcow2_update_cluster_refcount(bs, l2_offset >> s->cluster_bits, 1,
                                            change.addend < 0, change.type);
    }
    if (ret < 0 && change.addend > 0) {
        qcow2_entries_add_refs(bs, l2_offset, l2, done, qcow2_undo_ref,
                               &ignored);
    }
    qemu_vfree(l2);
    return ret;
}

/* Returns how many entries of the L1 table were counted */
static int GRAPH_RDLOCK qcow2_tables_add_refs(BlockDriverState *bs,
                                              const uint64_t *l1_table,
                                              int l1_size,
                                              Qcow2RefChange change,
                                              int *first_error)
{
    BDRVQcow2State *s = bs->opaque;

    for (int i = 0; i < l1_size; i++) {
        int64_t l2_offset = l1_table[i] & L1E_OFFSET_MASK;
        int ret = 0;

        if (offset_into_cluster(s, l2_offset)) {
            qcow2_signal_corruption(bs, true, -1, -1, "L2 table offset 0x%"
                                    PRIx64 " unaligned (L1 index: 0x%x)",
                                    l2_offset, i);
            ret = -EIO;
        } else if (l2_offset) {
            ret = qcow2_table_add_refs(bs, l2_offset, change);
        }
        if (ret < 0) {
            *first_error = ret;
            return i;
        }
    }
    return l1_size;
}

/* All or, if references were to be added, as little as possible */
static int GRAPH_RDLOCK qcow2_snapshot_change_refs(BlockDriverState *bs,
                                                   const uint64_t *l1_table,
                                                   int l1_size,
                                                   Qcow2RefChange change)
{
    BDRVQcow2State *s = bs->opaque;
    int done, ignored;
    int ret = 0;

    done = qcow2_tables_add_refs(bs, l1_table, l1_size, change, &ret);
    if (ret == 0) {
        /* No flag must get to disk before the count that it tells about */
        ret = qcow2_cache_flush(bs, s->refcount_block_cache);
    }
    if (ret < 0 && change.addend > 0) {
        qcow2_tables_add_refs(bs, l1_table, done, qcow2_undo_ref, &ignored);
    }
    return ret;
}

int qcow2_snapshot_add_refs(BlockDriverState *bs, const uint64_t *l1_table,
                            int l1_size, int addend)
{
    BDRVQcow2State *s = bs->opaque;
    /* Tables are read past the cache */
    int ret = qcow2_cache_flush(bs, s->l2_table_cache);

    if (ret < 0 || !addend) {
        return ret;
    }
    return qcow2_snapshot_change_refs(bs, l1_table, l1_size,
                                      addend > 0 ? qcow2_add_ref
                                                 : qcow2_drop_ref);
}

void qcow2_snapshot_undo_refs(BlockDriverState *bs, const uint64_t *l1_table,
                              int l1_size)
{
    BDRVQcow2State *s = bs->opaque;

    if (qcow2_cache_flush(bs, s->l2_table_cache) < 0) {
        return;
    }
    qcow2_snapshot_change_refs(bs, l1_table, l1_size, qcow2_undo_ref);
    /* Clusters of the active layer may be written in place again */
    qcow2_update_snapshot_refcount(bs, s->l1_table_offset, s->l1_size, 0);
}

static bool qcow2_entry_set_copied(BDRVQcow2State *s, uint64_t *l2, int index,
                                   bool copied)
{
    uint64_t old_entry = get_l2_entry(s, l2, index);
    uint64_t entry = old_entry & ~QCOW_OFLAG_COPIED;

    if (copied) {
        entry |= QCOW_OFLAG_COPIED;
    }
    if (entry == old_entry) {
        return false;
    }
    set_l2_entry(s, l2, index, entry);
    return true;
}

/*
 * Correct a run of entries from @index on, of which the first one refers to an
 * ordinary cluster.  Returns their number, 0 if something is wrong with it, or
 * -errno.
 */
static int GRAPH_RDLOCK qcow2_run_set_copied(BlockDriverState *bs, uint64_t *l2,
                                             int index, bool *changed)
{
    BDRVQcow2State *s = bs->opaque;
    Qcow2Run run = qcow2_run_find(bs, l2, index, s->l2_size);
    int first = qcow2_run_block_index(s, run.cluster);
    void *block;
    int ret;

    ret = qcow2_run_get_block(bs, &run, 1, s->refcount_max, &block);
    if (ret < 0 || run.count == 0) {
        return ret;
    }
    for (int i = 0; i < run.count; i++) {
        *changed |= qcow2_entry_set_copied(
            s, l2, index + i, s->get_refcount(block, first + i) == 1);
    }
    qcow2_cache_put(s->refcount_block_cache, &block);
    return run.count;
}

/* The ordinary way.  Returns 1, the number of entries, or -errno. */
static int GRAPH_RDLOCK qcow2_one_set_copied(BlockDriverState *bs,
                                             int64_t l2_offset, uint64_t *l2,
                                             int index, bool *changed)
{
    BDRVQcow2State *s = bs->opaque;
    uint64_t offset = get_l2_entry(s, l2, index) & L2E_OFFSET_MASK;
    uint64_t refcount;
    int ret = qcow2_entry_check_offset(bs, l2_offset, index, offset);

    if (ret == 0) {
        ret = qcow2_get_refcount(bs, offset >> s->cluster_bits, &refcount);
    }
    if (ret < 0) {
        return ret;
    }
    *changed |= qcow2_entry_set_copied(s, l2, index, refcount == 1);
    return 1;
}

/* Like qcow2_snapshot_set_copied(), in memory */
static int GRAPH_RDLOCK qcow2_entries_set_copied(BlockDriverState *bs,
                                                 int64_t l2_offset,
                                                 uint64_t *l2, bool *changed)
{
    BDRVQcow2State *s = bs->opaque;
    int index = 0;

    while (index < s->l2_size) {
        int ret;

        switch (qcow2_get_cluster_type(bs, get_l2_entry(s, l2, index))) {
        case QCOW2_CLUSTER_NORMAL:
        case QCOW2_CLUSTER_ZERO_ALLOC:
            ret = qcow2_run_set_copied(bs, l2, index, changed);
            if (ret == 0) {
                ret = qcow2_one_set_copied(bs, l2_offset, l2, index, changed);
            }
            if (ret < 0) {
                return ret;
            }
            index += ret;
            break;

        default:
            /* Compressed clusters are never written in place */
            *changed |= qcow2_entry_set_copied(s, l2, index, false);
            index++;
        }
    }
    return 0;
}

static int GRAPH_RDLOCK qcow2_write_table(BlockDriverState *bs, int64_t offset,
                                          uint64_t *l2)
{
    BDRVQcow2State *s = bs->opaque;
    int ret = qcow2_pre_write_overlap_check(bs, QCOW2_OL_ACTIVE_L2, offset,
                                            s->cluster_size, false);

    if (ret < 0) {
        return ret;
    }
    BLKDBG_EVENT(bs->file, BLKDBG_L2_UPDATE);
    return bdrv_pwrite(bs->file, offset, s->cluster_size, l2, 0);
}

/* Old slices must not stay there, and whoever is next needs the new ones */
static int GRAPH_RDLOCK qcow2_put_table_in_cache(BlockDriverState *bs,
                                                 int64_t offset, uint64_t *l2)
{
    BDRVQcow2State *s = bs->opaque;
    int slice_bytes = s->l2_slice_size * l2_entry_size(s);

    for (int at = 0; at < s->cluster_size; at += slice_bytes) {
        void *slice;
        int ret = qcow2_cache_get_empty(bs, s->l2_table_cache, offset + at,
                                        &slice);

        if (ret < 0) {
            return ret;
        }
        memcpy(slice, (uint8_t *)l2 + at, slice_bytes);
        qcow2_cache_put(s->l2_table_cache, &slice);
    }
    return 0;
}

int qcow2_snapshot_set_copied(BlockDriverState *bs, int64_t l2_offset)
{
    bool changed = false;
    uint64_t *l2;
    int ret;

    ret = qcow2_read_table(bs, l2_offset, &l2);
    if (ret < 0) {
        return ret;
    }
    ret = qcow2_entries_set_copied(bs, l2_offset, l2, &changed);
    if (ret == 0 && changed) {
        ret = qcow2_write_table(bs, l2_offset, l2);
    }
    if (ret == 0) {
        ret = qcow2_put_table_in_cache(bs, l2_offset, l2);
    }
    qemu_vfree(l2);
    return ret;
}
