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
#include "qcow2-vmstate-row.h"

/* Tables that lie in a row are read and written at once, up to this size */
#define ROW_MAX_BYTES (1 * MiB)

static void GRAPH_RDLOCK
qcow2_handover_clear_flags(const Qcow2MetadataRow *row, uint8_t *tables)
{
    BDRVQcow2State *s = row->bs->opaque;
    int i, j;

    for (i = 0; i < row->count; i++) {
        uint64_t *l2 = (uint64_t *)(tables + ((size_t)i << s->cluster_bits));

        for (j = 0; j < s->l2_size; j++) {
            set_l2_entry(s, l2, j, get_l2_entry(s, l2, j) & ~QCOW_OFLAG_COPIED);
        }
    }
}

static int GRAPH_RDLOCK qcow2_handover_row(const Qcow2MetadataRow *row)
{
    BlockDriverState *bs = row->bs;
    BDRVQcow2State *s = bs->opaque;
    uint8_t *tables = qcow2_row_try_alloc(row);
    int ret;

    if (!tables) {
        return -ENOMEM;
    }
    BLKDBG_EVENT(bs->file, BLKDBG_L2_LOAD);
    ret = bdrv_pread(bs->file, row->offset, qcow2_row_bytes(row), tables, 0);
    if (ret == 0) {
        qcow2_handover_clear_flags(row, tables);
        ret = qcow2_row_write(row, tables, BLKDBG_L2_UPDATE);
        /* What the cache has is not what is on disk now */
        qcow2_row_forget_cached(row, s->l2_table_cache);
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
        Qcow2MetadataRow row = {
            .bs = bs,
            .count = qcow2_handover_row_length(bs->opaque, entries,
                                               vmstate->nb_tables - i),
            .offset = entries[0] & L1E_OFFSET_MASK,
        };

        ret = qcow2_handover_row(&row);
        i += row.count;
    }
    return ret;
}
