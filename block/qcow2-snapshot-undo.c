/*
 * Taking back a disk snapshot, or a revert to one, that failed half way
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "block/block-io.h"
#include "block/block_int.h"
#include "qcow2.h"
#include "qcow2-snapshot-refs.h"
#include "qcow2-snapshot-undo.h"

/* Drop the references that a snapshot's L1 table got from a copy of it */
static void GRAPH_RDLOCK qcow2_snapshot_drop_refs(BlockDriverState *bs,
                                                  int64_t l1_table_offset,
                                                  int l1_size)
{
    g_autofree uint64_t *l1_table = g_try_new(uint64_t, l1_size);
    int i;

    if (!l1_table || bdrv_pread(bs->file, l1_table_offset, l1_size * L1E_SIZE,
                                l1_table, 0) < 0) {
        return;
    }
    for (i = 0; i < l1_size; i++) {
        be64_to_cpus(&l1_table[i]);
    }
    qcow2_snapshot_undo_refs(bs, l1_table, l1_size);
}

void qcow2_snapshot_undo_create(BlockDriverState *bs, int64_t l1_table_offset,
                                int l1_size, bool has_refs,
                                Qcow2DetachedVmstate *vmstate)
{
    BDRVQcow2State *s = bs->opaque;

    GLOBAL_STATE_CODE();

    if (s->snapshot_table_unknown || qcow2_is_given_up(bs)) {
        g_clear_pointer(&vmstate->l1_entries, g_free);
        return;
    }
    qcow2_vmstate_drop(bs, vmstate);
    if (has_refs) {
        qcow2_snapshot_drop_refs(bs, l1_table_offset,
                                 MIN(l1_size, s->l1_vm_state_index));
    }
    if (l1_table_offset > 0) {
        /* If they were free by a count that is wrong, they are somebody's */
        qcow2_free_clusters(bs, l1_table_offset, l1_size * L1E_SIZE,
                            QCOW2_DISCARD_NEVER);
    }
}

static int GRAPH_RDLOCK qcow2_snapshot_rewrite_l1(BlockDriverState *bs)
{
    BDRVQcow2State *s = bs->opaque;
    g_autofree uint64_t *l1_table = g_try_new(uint64_t, s->l1_size);
    int i;

    if (!l1_table) {
        return -ENOMEM;
    }
    for (i = 0; i < s->l1_size; i++) {
        l1_table[i] = cpu_to_be64(s->l1_table[i]);
    }
    return bdrv_pwrite_sync(bs->file, s->l1_table_offset,
                            s->l1_size * L1E_SIZE, l1_table, 0);
}

void qcow2_snapshot_undo_goto(BlockDriverState *bs, int64_t sn_l1_table_offset,
                              int sn_l1_size, bool write_failed)
{
    GLOBAL_STATE_CODE();

    if (qcow2_is_given_up(bs)) {
        return;
    }
    if (write_failed && qcow2_snapshot_rewrite_l1(bs) < 0) {
        /* Both tables are referenced now, so nothing is lost */
        qcow2_signal_corruption(bs, true, -1, -1, "Reverting to a snapshot "
                                "failed, and so did restoring the active L1 "
                                "table");
        return;
    }
    qcow2_snapshot_drop_refs(bs, sn_l1_table_offset, sn_l1_size);
}

void qcow2_snapshot_goto_unclean(BlockDriverState *bs, int ret)
{
    GLOBAL_STATE_CODE();

    warn_report("Node '%s' was reverted, but cleaning up after it failed: %s; "
                "'qemu-img check -r all' frees what is leaked",
                bdrv_get_device_or_node_name(bs), strerror(-ret));
}
