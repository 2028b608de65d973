/*
 * VM state in qcow2 images
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/bitmap.h"
#include "qemu/error-report.h"
#include "qemu/units.h"
#include "block/block-io.h"
#include "block/block_int.h"
#include "qcow2.h"
#include "qcow2-vmstate.h"
#include "qcow2-vmstate-check.h"
#include "trace.h"

/* Large enough for any file system to know of it */
#define VMSTATE_MIN_HOLE (64 * KiB)

struct Qcow2VmstateGrowth {
    CoMutex lock;           /* taken around growing */

    /* Written under @lock, read without */
    int64_t file_end;
    bool growing;
    bool refused;           /* the file cannot be grown: do not ask again */

    /* Constant */
    int64_t step;           /* how far the file is kept ahead of the writes */
    int64_t length_before;  /* never cut the file to less than this */
};

bool qcow2_is_given_up(BlockDriverState *bs)
{
    return !bs->drv;
}

/* Releasing */

/* What is to be dropped: the L2 tables that the VM state had in the L1 table */
typedef struct Qcow2VmstateTables {
    BlockDriverState *bs;
    uint64_t *l1_entries;
    unsigned nb_tables;
    unsigned slices_per_table;
    unsigned long *done;    /* one bit a slice */
    int ret;                /* first error */
} Qcow2VmstateTables;

static uint64_t qcow2_vmstate_slice_offset(Qcow2VmstateTables *t,
                                           unsigned table, unsigned slice)
{
    BDRVQcow2State *s = t->bs->opaque;

    return (t->l1_entries[table] & L1E_OFFSET_MASK) +
           slice * s->l2_slice_size * l2_entry_size(s);
}

/* Drop the references of one slice's entries, run by run */
static void GRAPH_RDLOCK qcow2_vmstate_drop_entries(BlockDriverState *bs,
                                                    uint64_t *l2_slice)
{
    BDRVQcow2State *s = bs->opaque;
    uint64_t run_start = 0, run_bytes = 0;
    int i;

    for (i = 0; i < s->l2_slice_size; i++) {
        uint64_t entry = get_l2_entry(s, l2_slice, i);
        uint64_t offset = entry & L2E_OFFSET_MASK;

        if (has_data_file(bs) ||
            qcow2_get_cluster_type(bs, entry) != QCOW2_CLUSTER_NORMAL ||
            offset_into_cluster(s, offset)) {
            /* Rare types and damaged entries: let the general code decide */
            qcow2_free_any_cluster(bs, entry, QCOW2_DISCARD_SNAPSHOT);
            continue;
        }
        if (run_bytes && offset == run_start + run_bytes) {
            run_bytes += s->cluster_size;
            continue;
        }
        if (run_bytes) {
            qcow2_free_clusters(bs, run_start, run_bytes,
                                QCOW2_DISCARD_SNAPSHOT);
        }
        run_start = offset;
        run_bytes = s->cluster_size;
    }
    if (run_bytes) {
        qcow2_free_clusters(bs, run_start, run_bytes, QCOW2_DISCARD_SNAPSHOT);
    }
}

static int GRAPH_RDLOCK qcow2_vmstate_drop_slice(Qcow2VmstateTables *t,
                                                 unsigned table, unsigned slice)
{
    BlockDriverState *bs = t->bs;
    BDRVQcow2State *s = bs->opaque;
    uint64_t l2_offset = t->l1_entries[table] & L1E_OFFSET_MASK;
    uint64_t slice_offset = qcow2_vmstate_slice_offset(t, table, slice);
    uint64_t refcount;
    void *l2_slice;
    int ret;

    ret = qcow2_get_refcount(bs, l2_offset >> s->cluster_bits, &refcount);
    if (ret < 0) {
        return ret;
    }
    ret = qcow2_cache_get(bs, s->l2_table_cache, slice_offset, &l2_slice);
    if (ret < 0) {
        return ret;
    }
    qcow2_vmstate_drop_entries(bs, l2_slice);
    qcow2_cache_put(s->l2_table_cache, &l2_slice);

    if (refcount == 1) {
        /*
         * The table is going to be freed, so it must not be written any more;
         * and on a full disk writing it would fail.
         */
        l2_slice = qcow2_cache_is_table_offset(s->l2_table_cache, slice_offset);
        if (l2_slice) {
            qcow2_cache_discard(s->l2_table_cache, l2_slice);
        }
    }
    return 0;
}

/* Drop the slices that are not done yet; with @cached, only those in memory */
static void GRAPH_RDLOCK qcow2_vmstate_drop_slices(Qcow2VmstateTables *t,
                                                   bool cached)
{
    BDRVQcow2State *s = t->bs->opaque;
    size_t i, nb_slices = (size_t)t->nb_tables * t->slices_per_table;

    for (i = 0; i < nb_slices; i++) {
        unsigned table = i / t->slices_per_table;
        unsigned slice = i % t->slices_per_table;
        int ret;

        if (test_bit(i, t->done)) {
            continue;
        }
        if (cached && !qcow2_cache_is_table_offset(
                s->l2_table_cache,
                qcow2_vmstate_slice_offset(t, table, slice))) {
            continue;
        }
        set_bit(i, t->done);
        ret = qcow2_vmstate_drop_slice(t, table, slice);
        if (ret < 0 && t->ret == 0) {
            t->ret = ret;
        }
    }
}

/* @l1_entries, all in use, are gone from disk and memory already */
static int GRAPH_RDLOCK qcow2_vmstate_drop_tables(BlockDriverState *bs,
                                                  uint64_t *l1_entries,
                                                  unsigned nb_tables)
{
    BDRVQcow2State *s = bs->opaque;
    unsigned slices_per_table = s->l2_size / s->l2_slice_size;
    g_autofree unsigned long *done =
        bitmap_try_new((long)nb_tables * slices_per_table);
    Qcow2VmstateTables t = {
        .bs = bs,
        .l1_entries = l1_entries,
        .nb_tables = nb_tables,
        .slices_per_table = slices_per_table,
        .done = done,
    };
    unsigned i;

    if (!done) {
        return -ENOMEM;
    }
    s->cache_discards = true;

    /*
     * Reading a slice may evict another one, and an evicted dirty slice is
     * written, which fails when the disk is full.  So get rid of the dirty ones
     * first, and of the space they point to.
     */
    qcow2_vmstate_drop_slices(&t, true);
    qcow2_process_discards(bs, 0);
    qcow2_vmstate_drop_slices(&t, false);

    for (i = 0; i < nb_tables; i++) {
        qcow2_free_clusters(bs, l1_entries[i] & L1E_OFFSET_MASK,
                            s->cluster_size, QCOW2_DISCARD_SNAPSHOT);
    }

    s->cache_discards = false;
    qcow2_process_discards(bs, 0);
    return t.ret;
}

/* Clear the active L1 table from entry @first on, on disk, durably */
static int GRAPH_RDLOCK qcow2_vmstate_clear_l1(BlockDriverState *bs, int first,
                                               int count)
{
    BDRVQcow2State *s = bs->opaque;
    int64_t offset = s->l1_table_offset + first * L1E_SIZE;
    g_autofree uint64_t *zeroes = g_try_new0(uint64_t, count);
    int ret;

    if (!zeroes) {
        return -ENOMEM;
    }
    ret = qcow2_pre_write_overlap_check(bs, QCOW2_OL_ACTIVE_L1, offset,
                                        count * L1E_SIZE, false);
    if (ret < 0) {
        return ret;
    }
    return bdrv_pwrite_sync(bs->file, offset, count * L1E_SIZE, zeroes, 0);
}

/*
 * Can entry @index of the active L1 table stand for a table of VM state, as far
 * as can be told without the other entries?  It must be in use, and be no other
 * metadata as well.
 */
static bool GRAPH_RDLOCK qcow2_vmstate_l1_entry_is_sane(BlockDriverState *bs,
                                                        int index)
{
    BDRVQcow2State *s = bs->opaque;
    uint64_t l2_offset = s->l1_table[index] & L1E_OFFSET_MASK;
    uint64_t refcount;

    if (!l2_offset || offset_into_cluster(s, l2_offset)) {
        return false;
    }
    /* A refcount that cannot be read says nothing against the entry */
    if (qcow2_get_refcount(bs, l2_offset >> s->cluster_bits, &refcount) == 0 &&
        refcount == 0) {
        return false;
    }
    return qcow2_check_metadata_overlap(
               bs, QCOW2_OL_ACTIVE_L2 | QCOW2_OL_INACTIVE_L2, l2_offset,
               s->cluster_size) == 0;
}

static int qcow2_vmstate_compare_offsets(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a & L1E_OFFSET_MASK;
    uint64_t right = *(const uint64_t *)b & L1E_OFFSET_MASK;

    return left < right ? -1 : left > right;
}

/*
 * The offset of a table that an entry of @l1_entries, which this sorts, shares
 * with another entry of the active L1 table, or 0 if there is none
 */
static uint64_t qcow2_vmstate_find_shared_table(BDRVQcow2State *s,
                                                uint64_t *l1_entries,
                                                int count)
{
    int i;

    qsort(l1_entries, count, sizeof(l1_entries[0]),
          qcow2_vmstate_compare_offsets);
    for (i = 1; i < count; i++) {
        if (!qcow2_vmstate_compare_offsets(&l1_entries[i - 1],
                                           &l1_entries[i])) {
            return l1_entries[i] & L1E_OFFSET_MASK;
        }
    }
    for (i = 0; i < s->l1_vm_state_index; i++) {
        if (s->l1_table[i] &&
            bsearch(&s->l1_table[i], l1_entries, count, sizeof(l1_entries[0]),
                    qcow2_vmstate_compare_offsets)) {
            return s->l1_table[i] & L1E_OFFSET_MASK;
        }
    }
    return 0;
}

static int GRAPH_RDLOCK qcow2_vmstate_bad_l1_entry(BlockDriverState *bs,
                                                   int index)
{
    BDRVQcow2State *s = bs->opaque;

    qcow2_signal_corruption(bs, false, -1, -1, "L2 table offset 0x%" PRIx64
                            " invalid (L1 index: 0x%x)",
                            (uint64_t)(s->l1_table[index] & L1E_OFFSET_MASK),
                            index);
    return -EIO;
}

static int qcow2_vmstate_find_l1_index(BDRVQcow2State *s, uint64_t l2_offset)
{
    int i = s->l1_vm_state_index;

    while ((s->l1_table[i] & L1E_OFFSET_MASK) != l2_offset) {
        i++;
    }
    return i;
}

/*
 * Collect the L1 entries of VM state that are in use.  On success, returns
 * their number; if that is not 0, @l1_entries is to be freed by the caller.
 * Returns -EIO if one of them cannot be right, or -ENOMEM.
 */
static int GRAPH_RDLOCK qcow2_vmstate_collect_l1(BlockDriverState *bs,
                                                 uint64_t **l1_entries)
{
    BDRVQcow2State *s = bs->opaque;
    int count = s->l1_size - s->l1_vm_state_index;
    g_autofree uint64_t *entries = NULL;
    int i, nb_tables = 0;
    uint64_t shared;

    if (count <= 0) {
        return 0;
    }
    entries = g_try_new(uint64_t, count);
    if (!entries) {
        return -ENOMEM;
    }
    for (i = s->l1_vm_state_index; i < s->l1_size; i++) {
        if (!s->l1_table[i]) {
            continue;
        }
        if (!qcow2_vmstate_l1_entry_is_sane(bs, i)) {
            return qcow2_vmstate_bad_l1_entry(bs, i);
        }
        entries[nb_tables++] = s->l1_table[i];
    }
    shared = qcow2_vmstate_find_shared_table(s, entries, nb_tables);
    if (shared) {
        return qcow2_vmstate_bad_l1_entry(
            bs, qcow2_vmstate_find_l1_index(s, shared));
    }
    if (nb_tables) {
        *l1_entries = g_steal_pointer(&entries);
    }
    return nb_tables;
}

int qcow2_vmstate_check_l1(BlockDriverState *bs)
{
    g_autofree uint64_t *l1_entries = NULL;
    int ret = qcow2_vmstate_collect_l1(bs, &l1_entries);

    return MIN(ret, 0);
}

int qcow2_vmstate_detach(BlockDriverState *bs, Qcow2DetachedVmstate *vmstate)
{
    BDRVQcow2State *s = bs->opaque;
    int first = s->l1_vm_state_index;
    int count = s->l1_size - first;
    g_autofree uint64_t *l1_entries = NULL;
    int nb_tables, ret;

    nb_tables = qcow2_vmstate_collect_l1(bs, &l1_entries);
    if (nb_tables <= 0) {
        return nb_tables;
    }
    if (qcow2_is_given_up(bs)) {
        return -ENOMEDIUM;
    }

    ret = qcow2_vmstate_clear_l1(bs, first, count);
    trace_vmstate_qcow2_release(bdrv_get_node_name(bs), nb_tables, ret);
    if (ret < 0) {
        return ret;
    }
    memset(&s->l1_table[first], 0, count * L1E_SIZE);
    vmstate->l1_entries = g_steal_pointer(&l1_entries);
    vmstate->nb_tables = nb_tables;
    return 0;
}

/* Nothing is done, and there is nothing to be told, once @bs is given up */
static int GRAPH_RDLOCK
qcow2_vmstate_drop_and_flush(BlockDriverState *bs,
                             const Qcow2DetachedVmstate *vmstate)
{
    int ret, flush_ret;

    if (qcow2_is_given_up(bs)) {
        return 0;
    }
    ret = qcow2_vmstate_drop_tables(bs, vmstate->l1_entries,
                                    vmstate->nb_tables);
    if (qcow2_is_given_up(bs)) {
        return 0;
    }
    /* Others may not do so for a long time, and a kill would leak it */
    flush_ret = qcow2_flush_caches(bs);
    return ret < 0 ? ret : flush_ret;
}

void qcow2_vmstate_drop(BlockDriverState *bs, Qcow2DetachedVmstate *vmstate)
{
    int ret;

    if (!vmstate->l1_entries) {
        return;
    }
    ret = qcow2_vmstate_drop_and_flush(bs, vmstate);
    if (ret < 0) {
        warn_report("Some clusters of old VM state in node '%s' could not be "
                    "freed: %s; 'qemu-img check -r leaks' frees them",
                    bdrv_get_device_or_node_name(bs), strerror(-ret));
    }
    g_clear_pointer(&vmstate->l1_entries, g_free);
}

int qcow2_vmstate_release(BlockDriverState *bs)
{
    Qcow2DetachedVmstate vmstate = { 0 };
    int ret = qcow2_vmstate_detach(bs, &vmstate);

    qcow2_vmstate_drop(bs, &vmstate);
    return qcow2_is_given_up(bs) ? -ENOMEDIUM : ret;
}

static int coroutine_fn GRAPH_RDLOCK
qcow2_co_vmstate_release(BlockDriverState *bs, Error **errp)
{
    BDRVQcow2State *s = bs->opaque;
    int ret;

    qemu_co_mutex_lock(&s->lock);
    ret = qcow2_vmstate_release(bs);
    qemu_co_mutex_unlock(&s->lock);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not release old VM state in node "
                         "'%s'", bdrv_get_device_or_node_name(bs));
    }
    return ret;
}

/* Length of the file */

/*
 * Offset behind the last used cluster of a file of @file_size bytes, or -errno.
 * Called with s->lock held or the node drained.
 */
static int64_t GRAPH_RDLOCK qcow2_vmstate_find_end(BlockDriverState *bs,
                                                   int64_t file_size)
{
    BDRVQcow2State *s = bs->opaque;
    int64_t i = size_to_clusters(s, file_size);

    while (i > 0) {
        int64_t table_index = (i - 1) >> s->refcount_block_bits;
        uint64_t refcount;
        int ret;

        if (table_index >= s->refcount_table_size ||
            !(s->refcount_table[table_index] & REFT_OFFSET_MASK)) {
            /* Nothing that this refcount block would cover is in use */
            i = table_index << s->refcount_block_bits;
            continue;
        }
        ret = qcow2_get_refcount(bs, i - 1, &refcount);
        if (ret < 0) {
            return ret;
        }
        if (refcount) {
            return i << s->cluster_bits;
        }
        i--;
    }
    /* Not even the header is in use: these refcounts are not to be trusted */
    return -EIO;
}

/*
 * How long the file needs to be: an upper bound for cutting it, at least @floor
 * bytes.  Returns @file_size if there is nothing to cut off.
 */
static int64_t GRAPH_RDLOCK qcow2_vmstate_needed_size(BlockDriverState *bs,
                                                      int64_t file_size,
                                                      int64_t floor)
{
    int64_t end = qcow2_vmstate_find_end(bs, file_size);

    if (end < 0) {
        return file_size;
    }
    return MIN(MAX(end, floor), file_size);
}

/* Can and may the file be cut? */
static bool GRAPH_RDLOCK qcow2_vmstate_can_trim(BlockDriverState *bs)
{
    BDRVQcow2State *s = bs->opaque;

    return !has_data_file(bs) && !s->signaled_corruption &&
           !(s->incompatible_features & QCOW2_INCOMPAT_CORRUPT) &&
           bs->file->bs->drv && !bs->file->bs->drv->is_format &&
           (bs->file->perm & BLK_PERM_RESIZE);
}

/* Where the last data in [@offset, @end) ends; @offset if all is a hole */
static int64_t GRAPH_RDLOCK qcow2_vmstate_data_end(BlockDriverState *bs,
                                                   int64_t offset, int64_t end)
{
    int64_t data_end = offset;

    while (offset < end) {
        int64_t pnum;
        int ret = bdrv_block_status(bs, offset, end - offset, &pnum, NULL,
                                    NULL);

        if (ret < 0 || pnum == 0) {
            return end;
        }
        offset += pnum;
        if (!(ret & BDRV_BLOCK_ZERO)) {
            data_end = offset;
        }
    }
    return data_end;
}

/*
 * Does a file of @file_size bytes, whose last data ends at @data_end, look like
 * what a save left behind that did not get to its end?  It then ends in a hole
 * of a few steps.  A larger one has been reserved by somebody.
 */
static bool qcow2_vmstate_is_leftover(int64_t data_end, int64_t file_size)
{
    return data_end < file_size &&
           file_size - data_end <= 2 * VMSTATE_GROWTH_STEP;
}

static void coroutine_mixed_fn GRAPH_RDLOCK
qcow2_vmstate_cut_file(BlockDriverState *bs, int64_t file_size, int64_t needed)
{
    /* On disk, too, nothing shall point behind the end */
    int ret = qcow2_flush_caches(bs);

    if (ret == 0) {
        ret = bdrv_truncate(bs->file, needed, false, PREALLOC_MODE_OFF, 0,
                            NULL);
    }
    trace_vmstate_qcow2_trim(bdrv_get_node_name(bs), file_size, needed, ret);
}

/*
 * Cut the file to what is needed, but not below @length_before if that is >= 0.
 * If it is not, only leftovers of a save are cut off.
 *
 * Called with s->lock held, the node drained, no VM state request in flight.
 */
static void coroutine_fn GRAPH_RDLOCK
qcow2_vmstate_co_trim(BlockDriverState *bs, int64_t length_before)
{
    int64_t file_size, needed;

    if (!qcow2_vmstate_can_trim(bs)) {
        return;
    }
    file_size = bdrv_co_getlength(bs->file->bs);
    if (file_size < 0) {
        return;
    }
    needed = qcow2_vmstate_needed_size(bs, file_size, length_before);
    if (needed == file_size) {
        return;
    }
    if (length_before < 0 && !qcow2_vmstate_is_leftover(
            qcow2_vmstate_data_end(bs->file->bs, needed, file_size),
            file_size)) {
        return;
    }
    qcow2_vmstate_cut_file(bs, file_size, needed);
}

void qcow2_vmstate_trim_on_close(BlockDriverState *bs)
{
    BDRVQcow2State *s = bs->opaque;
    int64_t file_size, needed, data_end;

    GLOBAL_STATE_CODE();

    if ((s->flags & (BDRV_O_INACTIVE | BDRV_O_CHECK)) ||
        !bdrv_is_writable(bs) || !qcow2_vmstate_can_trim(bs)) {
        return;
    }
    file_size = bdrv_getlength(bs->file->bs);
    if (file_size < 0) {
        return;
    }
    needed = qcow2_vmstate_needed_size(bs, file_size, -1);
    data_end = qcow2_vmstate_data_end(bs->file->bs, needed, file_size);
    if (!qcow2_vmstate_is_leftover(data_end, file_size)) {
        return;
    }
    if (data_end > needed) {
        /* By a hole the next save knows that the data may go */
        needed = data_end + MAX(s->cluster_size, VMSTATE_MIN_HOLE);
    }
    if (needed < file_size) {
        qcow2_vmstate_cut_file(bs, file_size, needed);
    }
}

/*
 * Called with growth->lock and s->lock held.  Metadata is written under s->lock
 * and extends the file as well: were it written between the two calls, what is
 * behind the target would be cut off.
 */
static void coroutine_fn GRAPH_RDLOCK
qcow2_vmstate_grow_locked(BlockDriverState *bs, Qcow2VmstateGrowth *growth,
                          int64_t end)
{
    int64_t target = QEMU_ALIGN_UP(end, growth->step) + growth->step;
    int64_t from = bdrv_co_getlength(bs->file->bs);
    int ret;

    if (from >= target) {
        /* Never cut it here */
        qatomic_set_i64(&growth->file_end, from);
        return;
    }
    ret = bdrv_co_truncate(bs->file, target, false, PREALLOC_MODE_OFF, 0, NULL);
    if (ret < 0) {
        qatomic_set(&growth->refused, true);
    } else {
        qatomic_set_i64(&growth->file_end, target);
    }
    trace_vmstate_qcow2_grow(bdrv_get_node_name(bs), from, target, ret);
}

void coroutine_fn qcow2_vmstate_grow_file(BlockDriverState *bs,
                                          Qcow2VmstateGrowth *growth,
                                          int64_t offset, int64_t bytes)
{
    BDRVQcow2State *s = bs->opaque;
    int64_t end = offset + bytes;
    int64_t file_end = qatomic_read_i64(&growth->file_end);

    if (end + growth->step / 2 <= file_end ||
        qatomic_read(&growth->refused)) {
        return;
    }
    if (end <= file_end && qatomic_read(&growth->growing)) {
        /* Still inside the file, and somebody else is at it */
        return;
    }

    qemu_co_mutex_lock(&growth->lock);
    if (end + growth->step / 2 > growth->file_end &&
        !growth->refused) {
        qatomic_set(&growth->growing, true);
        qemu_co_mutex_lock(&s->lock);
        if (!qcow2_is_given_up(bs)) {
            qcow2_vmstate_grow_locked(bs, growth, end);
        }
        qemu_co_mutex_unlock(&s->lock);
        qatomic_set(&growth->growing, false);
    }
    qemu_co_mutex_unlock(&growth->lock);
}

/* Callbacks */

static bool GRAPH_RDLOCK qcow2_vmstate_check(BlockDriverState *bs,
                                             Error **errp)
{
    if (has_data_file(bs)) {
        error_setg(errp, "Node '%s' has an external data file, which internal "
                   "snapshots do not support",
                   bdrv_get_device_or_node_name(bs));
        return false;
    }
    return true;
}

static int coroutine_fn GRAPH_RDLOCK
qcow2_co_vmstate_begin_save(BlockDriverState *bs, int64_t growth_step,
                            Error **errp)
{
    BDRVQcow2State *s = bs->opaque;
    Qcow2VmstateGrowth *growth;
    int64_t file_size;
    int ret;

    assert(!s->vmstate_growth);

    if (s->refcount_max == 1) {
        /* Reverting would need a second reference to each cluster */
        error_setg(errp, "Node '%s' counts references with one bit, so no "
                   "cluster of it can be in a snapshot",
                   bdrv_get_device_or_node_name(bs));
        return -ENOTSUP;
    }
    ret = qcow2_co_vmstate_release(bs, errp);
    if (ret < 0) {
        return ret;
    }

    qemu_co_mutex_lock(&s->lock);
    qcow2_vmstate_co_trim(bs, -1);
    qemu_co_mutex_unlock(&s->lock);

    if (growth_step == 0) {
        return 0;
    }
    file_size = bdrv_co_getlength(bs->file->bs);
    growth = g_new0(Qcow2VmstateGrowth, 1);
    qemu_co_mutex_init(&growth->lock);
    /* What cannot be cut back must not be grown */
    growth->refused = file_size < 0 || !qcow2_vmstate_can_trim(bs);
    growth->file_end = file_size;
    growth->step = growth_step;
    growth->length_before = file_size;
    s->vmstate_growth = growth;
    return 0;
}

static void coroutine_fn GRAPH_RDLOCK
qcow2_co_vmstate_end_save(BlockDriverState *bs)
{
    BDRVQcow2State *s = bs->opaque;
    Qcow2VmstateGrowth *growth = g_steal_pointer(&s->vmstate_growth);

    if (!growth) {
        return;
    }
    /* Even if growing was refused: writes have made the file longer, too */
    qemu_co_mutex_lock(&s->lock);
    qcow2_vmstate_co_trim(bs, growth->length_before);
    qemu_co_mutex_unlock(&s->lock);
    g_free(growth);
}

const BdrvVmstateOps qcow2_vmstate_ops = {
    .check = qcow2_vmstate_check,
    .co_begin_save = qcow2_co_vmstate_begin_save,
    .co_end_save = qcow2_co_vmstate_end_save,
    .co_release = qcow2_co_vmstate_release,
    .co_check_snapshot = qcow2_co_vmstate_check_snapshot,
};
