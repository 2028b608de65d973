/*
 * qcow2: L2 tables for VM state, several at a time
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "qemu/memalign.h"
#include "qemu/units.h"
#include "block/block-io.h"
#include "block/block_int.h"
#include "qcow2.h"
#include "qcow2-vmstate-refblocks.h"
#include "qcow2-vmstate-row.h"
#include "qcow2-vmstate-tables.h"
#include "trace.h"

/*
 * A row begins with a few tables and gets as long as all rows before it, so
 * that no more tables are left over in the end than are in use.
 */
#define TABLES_MIN 4

/* How much VM state the tables of the longest row hold */
#define TABLES_REACH (128 * MiB)

/* But with tiny clusters, they shall not take more than this */
#define TABLES_MAX_BYTES (1 * MiB)

/* How many tables to make when VM state has @tables, and @needed are missing */
static int qcow2_vmstate_row_length(BDRVQcow2State *s, int tables, int needed)
{
    int64_t reach = (int64_t)s->l2_size << s->cluster_bits;
    int max = MIN(DIV_ROUND_UP(TABLES_REACH, reach),
                  MAX(TABLES_MAX_BYTES >> s->cluster_bits, 1));

    return MIN(max, MAX(MAX(tables, needed), TABLES_MIN));
}

/* Find out which tables to make for [@offset, @end).  Called with s->lock. */
static void qcow2_vmstate_plan_tables(Qcow2MetadataRow *t, int64_t offset,
                                      int64_t end)
{
    BDRVQcow2State *s = t->bs->opaque;
    int last = offset_to_l1_index(s, end - 1);
    int i = offset_to_l1_index(s, offset);
    int max;

    while (i <= last && i < s->l1_size && s->l1_table[i]) {
        i++;
    }
    t->first = i;
    t->count = 0;
    if (i > last) {
        return;
    }
    max = qcow2_vmstate_row_length(s, i - s->l1_vm_state_index, last - i + 1);
    while (t->count < max && (i >= s->l1_size || !s->l1_table[i])) {
        t->count++;
        i++;
    }
}

/*
 * Write empty tables.  They, and that they are in use, are on disk when this
 * returns 0.  Called with s->lock held.
 */
static int coroutine_fn GRAPH_RDLOCK
qcow2_vmstate_write_tables(const Qcow2MetadataRow *t)
{
    BDRVQcow2State *s = t->bs->opaque;
    void *zeroes = qcow2_row_try_alloc(t);
    int ret;

    if (!zeroes) {
        return -ENOMEM;
    }
    ret = qcow2_row_write(t, zeroes, BLKDBG_L2_ALLOC_WRITE);
    qemu_vfree(zeroes);
    if (ret < 0) {
        return ret;
    }
    /* This flushes the file even if no refcount block is dirty */
    return qcow2_cache_flush(t->bs, s->refcount_block_cache);
}

/* So that nobody has to read zeroes.  Called with s->lock held. */
static int GRAPH_RDLOCK qcow2_vmstate_cache_tables(const Qcow2MetadataRow *t)
{
    BDRVQcow2State *s = t->bs->opaque;
    int slice_bytes = s->l2_slice_size * l2_entry_size(s);
    int64_t end = t->offset + qcow2_row_bytes(t);
    int64_t at;

    for (at = t->offset; at < end; at += slice_bytes) {
        void *slice;
        int ret = qcow2_cache_get_empty(t->bs, s->l2_table_cache, at, &slice);

        if (ret < 0) {
            return ret;
        }
        memset(slice, 0, slice_bytes);
        qcow2_cache_put(s->l2_table_cache, &slice);
    }
    return 0;
}

/* Called with s->lock held */
static int coroutine_fn GRAPH_RDLOCK
qcow2_vmstate_link_tables(const Qcow2MetadataRow *t)
{
    BDRVQcow2State *s = t->bs->opaque;

    qcow2_row_set_entries(t, s->l1_table, QCOW_OFLAG_COPIED);
    /*
     * If this fails, nobody knows whether the entries are on disk.  So they
     * stay in memory, and whoever releases the VM state clears both.
     */
    return qcow2_row_write_entries(t, s->l1_table, s->l1_size,
                                   s->l1_table_offset, QCOW2_OL_ACTIVE_L1,
                                   BLKDBG_L1_UPDATE);
}

/*
 * Allocate and write, but do not link.  On disk when this returns 0; otherwise
 * all is as it was.  Called with s->lock held.
 */
static int coroutine_fn GRAPH_RDLOCK
qcow2_vmstate_prepare_tables(Qcow2MetadataRow *t)
{
    BDRVQcow2State *s = t->bs->opaque;
    int ret;

    ret = qcow2_vmstate_add_refblocks(t->bs,
                                      (int64_t)t->count * (s->l2_size + 1));
    if (ret < 0) {
        return ret;
    }
    ret = qcow2_grow_l1_table(t->bs, t->first + t->count, false);
    if (ret < 0) {
        return ret;
    }
    t->offset = qcow2_alloc_clusters(t->bs, qcow2_row_bytes(t));
    if (t->offset <= 0) {
        return t->offset ?: -EIO;
    }
    ret = qcow2_vmstate_write_tables(t);
    if (ret == 0) {
        ret = qcow2_vmstate_cache_tables(t);
    }
    if (ret < 0 && !qcow2_is_given_up(t->bs)) {
        qcow2_free_clusters(t->bs, t->offset, qcow2_row_bytes(t),
                            QCOW2_DISCARD_NEVER);
    }
    return ret;
}

/* Called with s->lock held */
static int coroutine_fn GRAPH_RDLOCK
qcow2_vmstate_make_tables(Qcow2MetadataRow *t)
{
    BDRVQcow2State *s = t->bs->opaque;
    uint64_t free_cluster_index = s->free_cluster_index;
    int ret = qcow2_vmstate_prepare_tables(t);

    /* A row does not fit into smaller holes, but what comes next may */
    s->free_cluster_index = MIN(s->free_cluster_index, free_cluster_index);

    trace_vmstate_qcow2_add_tables(bdrv_get_node_name(t->bs), t->first,
                                   t->count, ret);
    if (ret == -ENOSPC || ret == -EFBIG || ret == -ENOMEM) {
        /* There may be room for a single one */
        return 0;
    }
    return ret < 0 ? ret : qcow2_vmstate_link_tables(t);
}

int coroutine_fn qcow2_vmstate_add_tables(BlockDriverState *bs, int64_t offset,
                                          int64_t bytes)
{
    BDRVQcow2State *s = bs->opaque;
    Qcow2MetadataRow t = { .bs = bs };

    if (!s->vmstate_growth) {
        return 0;
    }
    QEMU_LOCK_GUARD(&s->lock);
    if (qcow2_is_given_up(bs)) {
        return -ENOMEDIUM;
    }
    qcow2_vmstate_plan_tables(&t, offset, offset + bytes);
    return t.count > 1 ? qcow2_vmstate_make_tables(&t) : 0;
}
