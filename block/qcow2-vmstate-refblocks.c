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
#include "qcow2-vmstate-row.h"
#include "trace.h"

/*
 * The first block of a row counts all, so a crash must link all or none: their
 * entries are in one sector.
 */
#define ENTRIES_IN_SECTOR (BDRV_SECTOR_SIZE / REFTABLE_ENTRY_SIZE)

/*
 * The blocks of a row lie at the beginning of what they describe, so the first
 * of them counts them all.
 */
static void qcow2_vmstate_plan_refblocks(Qcow2MetadataRow *r, int64_t clusters)
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

/* On disk when this returns 0 */
static int GRAPH_RDLOCK
qcow2_vmstate_write_refblocks(const Qcow2MetadataRow *r)
{
    BDRVQcow2State *s = r->bs->opaque;
    void *blocks = qcow2_row_try_alloc(r);
    int i, ret;

    if (!blocks) {
        return -ENOMEM;
    }
    for (i = 0; i < r->count; i++) {
        s->set_refcount(blocks, i, 1);
    }
    ret = qcow2_row_write(r, blocks, BLKDBG_REFBLOCK_ALLOC_WRITE);
    qemu_vfree(blocks);
    return ret < 0 ? ret : bdrv_flush(r->bs->file->bs);
}

/* Write the part of the refcount table where the entries of a row are */
static int GRAPH_RDLOCK
qcow2_vmstate_write_reftable(const Qcow2MetadataRow *r)
{
    BDRVQcow2State *s = r->bs->opaque;

    return qcow2_row_write_entries(r, s->refcount_table, s->refcount_table_size,
                                   s->refcount_table_offset,
                                   QCOW2_OL_REFCOUNT_TABLE,
                                   BLKDBG_REFBLOCK_ALLOC_HOOKUP);
}

static int GRAPH_RDLOCK
qcow2_vmstate_make_refblocks(const Qcow2MetadataRow *r)
{
    BDRVQcow2State *s = r->bs->opaque;
    int ret;

    /* They may have been something else, and given up after an error */
    qcow2_row_forget_cached(r, s->refcount_block_cache);
    qcow2_row_forget_cached(r, s->l2_table_cache);
    ret = qcow2_vmstate_write_refblocks(r);
    if (ret < 0) {
        return ret;
    }
    qcow2_row_set_entries(r, s->refcount_table, 0);
    s->max_refcount_table_index = r->first + r->count - 1;
    ret = qcow2_vmstate_write_reftable(r);
    if (ret < 0) {
        /*
         * The table on disk must not tell of blocks that memory does not know,
         * as their clusters are going to be used for something else.
         */
        memset(&s->refcount_table[r->first], 0,
               r->count * REFTABLE_ENTRY_SIZE);
        s->max_refcount_table_index = r->first - 1;
        if (qcow2_vmstate_write_reftable(r) < 0) {
            /* Then leak them; the first block will be replaced */
            qcow2_alloc_clusters_at(r->bs, r->offset + s->cluster_size,
                                    r->count - 1);
        }
    }
    return ret;
}

int qcow2_vmstate_add_refblocks(BlockDriverState *bs, int64_t clusters)
{
    Qcow2MetadataRow r = { .bs = bs };
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
