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

/* Returns whether there was a flag in @l2 */
static bool qcow2_handover_clear_flags(BDRVQcow2State *s, uint64_t *l2)
{
    uint64_t all = 0;
    int i;

    for (i = 0; i < s->l2_size; i++) {
        uint64_t entry = get_l2_entry(s, l2, i);

        all |= entry;
        set_l2_entry(s, l2, i, entry & ~QCOW_OFLAG_COPIED);
    }
    return all & QCOW_OFLAG_COPIED;
}

/* Write @count tables of a row, beginning with table @first */
static int GRAPH_RDLOCK
qcow2_handover_write(const Qcow2MetadataRow *row, const uint8_t *tables,
                     int first, int count)
{
    BDRVQcow2State *s = row->bs->opaque;
    size_t at = (size_t)first << s->cluster_bits;
    Qcow2MetadataRow part = {
        .bs = row->bs,
        .count = count,
        .offset = row->offset + at,
    };
    int ret;

    if (count == 0) {
        return 0;
    }
    ret = qcow2_row_write(&part, tables + at, BLKDBG_L2_UPDATE);
    /* What the cache has is not what is on disk now */
    qcow2_row_forget_cached(&part, s->l2_table_cache);
    return ret;
}

/*
 * Clear the flags of all tables of a row, and write those that had any.  The
 * others may be in use by another snapshot as well, and are not ours to write.
 */
static int GRAPH_RDLOCK qcow2_handover_update(const Qcow2MetadataRow *row,
                                              uint8_t *tables)
{
    BDRVQcow2State *s = row->bs->opaque;
    int first = 0, i, ret = 0;

    for (i = 0; i <= row->count && ret == 0; i++) {
        uint8_t *table = tables + ((size_t)i << s->cluster_bits);

        if (i == row->count ||
            !qcow2_handover_clear_flags(s, (uint64_t *)table)) {
            ret = qcow2_handover_write(row, tables, first, i - first);
            first = i + 1;
        }
    }
    return ret;
}

static int GRAPH_RDLOCK qcow2_handover_row(const Qcow2MetadataRow *row)
{
    BlockDriverState *bs = row->bs;
    uint8_t *tables = qcow2_row_try_alloc(row);
    int ret;

    if (!tables) {
        return -ENOMEM;
    }
    BLKDBG_EVENT(bs->file, BLKDBG_L2_LOAD);
    ret = bdrv_pread(bs->file, row->offset, qcow2_row_bytes(row), tables, 0);
    if (ret == 0) {
        ret = qcow2_handover_update(row, tables);
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
