/*
 * qcow2: a new snapshot takes VM state over
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/memalign.h"
#include "qemu/units.h"
#include "block/block-io.h"
#include "block/block_int.h"
#include "qcow2.h"
#include "qcow2-vmstate-handover.h"

/* Tables that lie in a row are read and written at once, up to this size */
#define ROW_MAX_BYTES (1 * MiB)

static void GRAPH_RDLOCK qcow2_handover_clear_flags(BlockDriverState *bs,
                                                    uint8_t *tables, int count)
{
    BDRVQcow2State *s = bs->opaque;
    int i, j;

    for (i = 0; i < count; i++) {
        uint64_t *l2 = (uint64_t *)(tables + ((size_t)i << s->cluster_bits));

        for (j = 0; j < s->l2_size; j++) {
            set_l2_entry(s, l2, j, get_l2_entry(s, l2, j) & ~QCOW_OFLAG_COPIED);
        }
    }
}

/* What the cache has is not what is on disk now */
static void qcow2_handover_drop_cached(BlockDriverState *bs, int64_t offset,
                                       int64_t bytes)
{
    BDRVQcow2State *s = bs->opaque;
    int slice_bytes = s->l2_slice_size * l2_entry_size(s);
    int64_t at;

    for (at = offset; at < offset + bytes; at += slice_bytes) {
        void *slice = qcow2_cache_is_table_offset(s->l2_table_cache, at);

        if (slice) {
            qcow2_cache_discard(s->l2_table_cache, slice);
        }
    }
}

/* @count tables from @offset of the file on */
static int GRAPH_RDLOCK qcow2_handover_row(BlockDriverState *bs, int64_t offset,
                                           int count)
{
    BDRVQcow2State *s = bs->opaque;
    int64_t bytes = (int64_t)count << s->cluster_bits;
    uint8_t *tables = qemu_try_blockalign(bs->file->bs, bytes);
    int ret;

    if (!tables) {
        return -ENOMEM;
    }
    BLKDBG_EVENT(bs->file, BLKDBG_L2_LOAD);
    ret = bdrv_pread(bs->file, offset, bytes, tables, 0);
    if (ret == 0) {
        qcow2_handover_clear_flags(bs, tables, count);
        ret = qcow2_pre_write_overlap_check(bs, 0, offset, bytes, false);
    }
    if (ret == 0) {
        BLKDBG_EVENT(bs->file, BLKDBG_L2_UPDATE);
        ret = bdrv_pwrite(bs->file, offset, bytes, tables, 0);
        qcow2_handover_drop_cached(bs, offset, bytes);
    }
    qemu_vfree(tables);
    return ret;
}

/* How many of @entries, which are sorted, are of tables in a row */
static int qcow2_handover_row_length(BDRVQcow2State *s, const uint64_t *entries,
                                     int count)
{
    int max = MIN(count, MAX(ROW_MAX_BYTES >> s->cluster_bits, 1));
    int i = 1;

    while (i < max && (entries[i] & L1E_OFFSET_MASK) ==
                      (entries[i - 1] & L1E_OFFSET_MASK) + s->cluster_size) {
        i++;
    }
    return i;
}

int qcow2_vmstate_hand_over(BlockDriverState *bs, Qcow2DetachedVmstate *vmstate)
{
    int ret = qcow2_vmstate_detach(bs, vmstate);
    int i = 0;

    GLOBAL_STATE_CODE();

    while (ret == 0 && i < vmstate->nb_tables) {
        const uint64_t *entries = &vmstate->l1_entries[i];
        int count = qcow2_handover_row_length(bs->opaque, entries,
                                              vmstate->nb_tables - i);

        ret = qcow2_handover_row(bs, entries[0] & L1E_OFFSET_MASK, count);
        i += count;
    }
    return ret;
}
