/*
 * qcow2: clusters of metadata that are made in a row
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/memalign.h"
#include "block/block-io.h"
#include "block/block_int.h"
#include "qcow2-vmstate-row.h"

void *qcow2_row_try_alloc(const Qcow2MetadataRow *row)
{
    return qemu_try_blockalign0(row->bs->file->bs, qcow2_row_bytes(row));
}

int qcow2_row_write(const Qcow2MetadataRow *row, const void *tables,
                    BlkdebugEvent event)
{
    BlockDriverState *bs = row->bs;
    int64_t bytes = qcow2_row_bytes(row);
    int ret = qcow2_pre_write_overlap_check(bs, 0, row->offset, bytes, false);

    if (ret < 0) {
        return ret;
    }
    BLKDBG_EVENT(bs->file, event);
    return bdrv_pwrite(bs->file, row->offset, bytes, tables, 0);
}

void qcow2_row_set_entries(const Qcow2MetadataRow *row, uint64_t *table,
                           uint64_t flags)
{
    BDRVQcow2State *s = row->bs->opaque;
    int i;

    for (i = 0; i < row->count; i++) {
        table[row->first + i] =
            (row->offset + ((int64_t)i << s->cluster_bits)) | flags;
    }
}

int qcow2_row_write_entries(const Qcow2MetadataRow *row, const uint64_t *table,
                            int size, int64_t table_offset, int ign,
                            BlkdebugEvent event)
{
    BlockDriverState *bs = row->bs;
    BDRVQcow2State *s = bs->opaque;
    int sector = MIN(bs->file->bs->bl.request_alignment, s->cluster_size);
    int align = MAX(sector / sizeof(uint64_t), 1);
    int begin = QEMU_ALIGN_DOWN(row->first, align);
    int end = QEMU_ALIGN_UP(row->first + row->count, align);
    int64_t offset = table_offset + begin * sizeof(uint64_t);
    size_t bytes = (end - begin) * sizeof(uint64_t);
    g_autofree uint64_t *entries = g_try_new0(uint64_t, end - begin);
    int i, ret;

    if (!entries) {
        return -ENOMEM;
    }
    for (i = begin; i < MIN(end, size); i++) {
        entries[i - begin] = cpu_to_be64(table[i]);
    }
    ret = qcow2_pre_write_overlap_check(bs, ign, offset, bytes, false);
    if (ret < 0) {
        return ret;
    }
    BLKDBG_EVENT(bs->file, event);
    return bdrv_pwrite_sync(bs->file, offset, bytes, entries, 0);
}

void qcow2_row_forget_cached(const Qcow2MetadataRow *row, Qcow2Cache *cache)
{
    BDRVQcow2State *s = row->bs->opaque;
    int64_t end = row->offset + qcow2_row_bytes(row);
    int slice_bytes = s->l2_slice_size * l2_entry_size(s);
    int64_t at;

    /* Of refcount blocks, which are whole, no slice but the first is found */
    for (at = row->offset; at < end; at += slice_bytes) {
        void *table = qcow2_cache_is_table_offset(cache, at);

        if (table) {
            qcow2_cache_discard(cache, table);
        }
    }
}
