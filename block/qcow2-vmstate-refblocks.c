/*
 * qcow2: refcount blocks for VM state, several at a time
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/memalign.h"
#include "block/block-io.h"
#include "block/block_int.h"
#include "qcow2.h"
#include "qcow2-vmstate-refblocks.h"
#include "trace.h"

/*
 * The first block of a row counts all, so a crash must link all or none: their
 * entries are in one sector.
 */
#define ENTRIES_IN_SECTOR (BDRV_SECTOR_SIZE / REFTABLE_ENTRY_SIZE)

/*
 * A row of blocks that are to be made.  They lie at the beginning of what they
 * describe, so the first of them counts them all.
 */
typedef struct Qcow2NewRefblocks {
    BlockDriverState *bs;
    int first;              /* index in the refcount table */
    int count;
    int64_t offset;         /* in the file */
} Qcow2NewRefblocks;

static void qcow2_vmstate_plan_refblocks(Qcow2NewRefblocks *r,
                                         int64_t clusters)
{
    BDRVQcow2State *s = r->bs->opaque;
    int64_t first = (int64_t)s->max_refcount_table_index + 1;
    int64_t left = (first << s->refcount_block_bits) -
                   (int64_t)s->free_cluster_index;
    int64_t count = DIV_ROUND_UP(MAX(clusters - left, 0),
                                 s->refcount_block_size);
    int64_t room = MIN(ENTRIES_IN_SECTOR - first % ENTRIES_IN_SECTOR,
                       MAX((int64_t)s->refcount_table_size - first, 0));

    r->first = first;
    r->count = MIN(MIN(count, s->refcount_block_size), room);
    r->offset = first << (s->refcount_block_bits + s->cluster_bits);
}

/* What the caches still have of clusters that were given up after an error */
static void qcow2_vmstate_forget_cached(const Qcow2NewRefblocks *r)
{
    BDRVQcow2State *s = r->bs->opaque;
    Qcow2Cache *caches[] = { s->refcount_block_cache, s->l2_table_cache };
    int64_t end = r->offset + ((int64_t)r->count << s->cluster_bits);
    int slice_bytes = s->l2_slice_size * l2_entry_size(s);
    int64_t at;
    int i;

    for (at = r->offset; at < end; at += slice_bytes) {
        for (i = 0; i < ARRAY_SIZE(caches); i++) {
            void *table = qcow2_cache_is_table_offset(caches[i], at);

            if (table) {
                qcow2_cache_discard(caches[i], table);
            }
        }
    }
}

/* On disk when this returns 0 */
static int GRAPH_RDLOCK
qcow2_vmstate_write_refblocks(const Qcow2NewRefblocks *r)
{
    BlockDriverState *bs = r->bs;
    BDRVQcow2State *s = bs->opaque;
    size_t bytes = (size_t)r->count << s->cluster_bits;
    void *blocks;
    int i, ret;

    ret = qcow2_pre_write_overlap_check(bs, 0, r->offset, bytes, false);
    if (ret < 0) {
        return ret;
    }
    blocks = qemu_try_blockalign0(bs->file->bs, bytes);
    if (!blocks) {
        return -ENOMEM;
    }
    for (i = 0; i < r->count; i++) {
        s->set_refcount(blocks, i, 1);
    }
    BLKDBG_EVENT(bs->file, BLKDBG_REFBLOCK_ALLOC_WRITE);
    ret = bdrv_pwrite_sync(bs->file, r->offset, bytes, blocks, 0);
    qemu_vfree(blocks);
    return ret;
}

static int64_t qcow2_vmstate_refblock_offset(const Qcow2NewRefblocks *r, int i)
{
    BDRVQcow2State *s = r->bs->opaque;

    return r->offset + ((int64_t)(i - r->first) << s->cluster_bits);
}

/*
 * Write the part of the refcount table where the new entries are, in sectors;
 * without them unless @linked
 */
static int GRAPH_RDLOCK
qcow2_vmstate_write_reftable(const Qcow2NewRefblocks *r, bool linked)
{
    BlockDriverState *bs = r->bs;
    BDRVQcow2State *s = bs->opaque;
    int align = MAX(MIN(bs->file->bs->bl.request_alignment, s->cluster_size) /
                    REFTABLE_ENTRY_SIZE, 1);
    int begin = QEMU_ALIGN_DOWN(r->first, align);
    int end = r->first + r->count;
    int aligned_end = QEMU_ALIGN_UP(end, align);
    g_autofree uint64_t *entries = g_try_new0(uint64_t, aligned_end - begin);
    int i;

    if (!entries) {
        return -ENOMEM;
    }
    for (i = begin; i < MIN(aligned_end, s->refcount_table_size); i++) {
        bool is_new = linked && i >= r->first && i < end;

        entries[i - begin] = cpu_to_be64(
            is_new ? qcow2_vmstate_refblock_offset(r, i)
                   : s->refcount_table[i]);
    }
    BLKDBG_EVENT(bs->file, BLKDBG_REFBLOCK_ALLOC_HOOKUP);
    return bdrv_pwrite_sync(bs->file,
                            s->refcount_table_offset +
                            begin * REFTABLE_ENTRY_SIZE,
                            (aligned_end - begin) * REFTABLE_ENTRY_SIZE,
                            entries, 0);
}

static int GRAPH_RDLOCK
qcow2_vmstate_make_refblocks(const Qcow2NewRefblocks *r)
{
    BDRVQcow2State *s = r->bs->opaque;
    int i, ret;

    qcow2_vmstate_forget_cached(r);
    ret = qcow2_vmstate_write_refblocks(r);
    if (ret < 0) {
        return ret;
    }
    ret = qcow2_vmstate_write_reftable(r, true);
    if (ret < 0) {
        /*
         * The table on disk must not tell of blocks that memory does not know,
         * as their clusters are going to be used for something else.
         */
        if (qcow2_vmstate_write_reftable(r, false) < 0) {
            /* Then leak them; the first block will be replaced */
            qcow2_alloc_clusters_at(r->bs, r->offset + s->cluster_size,
                                    r->count - 1);
        }
        return ret;
    }
    for (i = r->first; i < r->first + r->count; i++) {
        s->refcount_table[i] = qcow2_vmstate_refblock_offset(r, i);
    }
    s->max_refcount_table_index = r->first + r->count - 1;
    return 0;
}

int qcow2_vmstate_add_refblocks(BlockDriverState *bs, int64_t clusters)
{
    Qcow2NewRefblocks r = { .bs = bs };
    int ret;

    qcow2_vmstate_plan_refblocks(&r, clusters);
    if (r.count <= 1) {
        return 0;
    }
    ret = qcow2_vmstate_make_refblocks(&r);
    trace_vmstate_qcow2_add_refblocks(bdrv_get_node_name(bs), r.first, r.count,
                                      ret);
    return ret;
}
