/*
 * qcow2: is the VM state of a snapshot all there?
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "block/block_int.h"
#include "qapi/error.h"
#include "qcow2.h"
#include "qcow2-vmstate-check.h"

typedef struct Qcow2StateCheck {
    BlockDriverState *bs;
    const QCowSnapshot *sn;
    int64_t file_size;
    uint64_t *l2_offsets;   /* of the tables of VM state */
    int64_t first_cluster;  /* where VM state begins in the image file */
    Error **errp;
} Qcow2StateCheck;

static int GRAPH_RDLOCK
qcow2_state_damaged(Qcow2StateCheck *c, uint64_t offset, const char *what)
{
    error_setg(c->errp, "VM state of snapshot '%s' in node '%s' is damaged: %s "
               "at offset %" PRIu64 " of %" PRIu64, c->sn->name,
               bdrv_get_device_or_node_name(c->bs), what, offset,
               c->sn->vm_state_size);
    return -EIO;
}

static int GRAPH_RDLOCK
qcow2_state_unreadable(Qcow2StateCheck *c, uint64_t offset, int ret)
{
    error_setg_errno(c->errp, -ret, "VM state of snapshot '%s' in node '%s' "
                     "cannot be read at offset %" PRIu64 " of %" PRIu64,
                     c->sn->name, bdrv_get_device_or_node_name(c->bs), offset,
                     c->sn->vm_state_size);
    return ret;
}

static const QCowSnapshot *qcow2_state_find_snapshot(BDRVQcow2State *s,
                                                     const char *id)
{
    for (int i = 0; i < s->nb_snapshots; i++) {
        if (!strcmp(s->snapshots[i].id_str, id)) {
            return &s->snapshots[i];
        }
    }
    return NULL;
}

/* Is @offset that of a cluster whose first @bytes lie in the file? */
static bool qcow2_state_is_cluster(Qcow2StateCheck *c, uint64_t offset,
                                   uint64_t bytes)
{
    BDRVQcow2State *s = c->bs->opaque;

    return offset && !offset_into_cluster(s, offset) &&
           offset + bytes <= c->file_size;
}

/* How much VM state one L2 table can hold, in bytes */
static uint64_t qcow2_state_table_bytes(BDRVQcow2State *s)
{
    return UINT64_C(1) << (s->cluster_bits + s->l2_bits);
}

static int coroutine_fn GRAPH_RDLOCK qcow2_state_read_l1(Qcow2StateCheck *c)
{
    BDRVQcow2State *s = c->bs->opaque;
    uint64_t table_bytes = qcow2_state_table_bytes(s);
    uint64_t first = size_to_l1(s, c->sn->disk_size);
    uint64_t count = DIV_ROUND_UP(c->sn->vm_state_size, table_bytes);
    int ret;

    if (first + count > c->sn->l1_size) {
        return qcow2_state_damaged(c, (MAX(c->sn->l1_size, first) - first) *
                                      table_bytes, "it ends");
    }
    c->l2_offsets = g_try_new(uint64_t, count);
    if (!c->l2_offsets) {
        return qcow2_state_unreadable(c, 0, -ENOMEM);
    }
    ret = bdrv_co_pread(c->bs->file, c->sn->l1_table_offset + first * L1E_SIZE,
                        count * L1E_SIZE, c->l2_offsets, 0);
    if (ret < 0) {
        return qcow2_state_unreadable(c, 0, ret);
    }
    for (uint64_t i = 0; i < count; i++) {
        c->l2_offsets[i] = be64_to_cpu(c->l2_offsets[i]) & L1E_OFFSET_MASK;
        if (!qcow2_state_is_cluster(c, c->l2_offsets[i], s->cluster_size)) {
            return qcow2_state_damaged(c, i * table_bytes,
                                       "an L2 table is missing");
        }
    }
    return 0;
}

/* A slice of an L2 table that has what is at @offset of the VM state first */
static int coroutine_fn GRAPH_RDLOCK
qcow2_state_check_slice(Qcow2StateCheck *c, uint64_t offset,
                        const uint64_t *l2_slice)
{
    BDRVQcow2State *s = c->bs->opaque;

    for (int i = 0; i < s->l2_slice_size && offset < c->sn->vm_state_size;
         i++, offset += s->cluster_size) {
        uint64_t entry = get_l2_entry(s, (uint64_t *)l2_slice, i);
        uint64_t bytes = MIN(s->cluster_size, c->sn->vm_state_size - offset);

        switch (qcow2_get_cluster_type(c->bs, entry)) {
        case QCOW2_CLUSTER_NORMAL:
            if (!qcow2_state_is_cluster(c, entry & L2E_OFFSET_MASK, bytes)) {
                return qcow2_state_damaged(c, offset, "a cluster is not in the "
                                           "image file");
            }
            if (offset == 0) {
                c->first_cluster = entry & L2E_OFFSET_MASK;
            }
            break;
        case QCOW2_CLUSTER_UNALLOCATED:
            return qcow2_state_damaged(c, offset, "a cluster is missing");
        default:
            /* Zeroes or compressed: nothing that QEMU writes, but readable */
            break;
        }
    }
    return 0;
}

static int coroutine_fn GRAPH_RDLOCK qcow2_state_check_l2(Qcow2StateCheck *c)
{
    BDRVQcow2State *s = c->bs->opaque;
    uint64_t slice_bytes = (uint64_t)s->l2_slice_size << s->cluster_bits;
    uint64_t table_bytes = qcow2_state_table_bytes(s);
    uint64_t offset;
    int ret = 0;

    for (offset = 0; offset < c->sn->vm_state_size && ret == 0;
         offset += slice_bytes) {
        uint64_t in_table = (offset % table_bytes) >> s->cluster_bits;
        void *l2_slice;

        /* The guest may be running: its requests get their turn in between */
        qemu_co_mutex_lock(&s->lock);
        ret = qcow2_cache_get(c->bs, s->l2_table_cache,
                              c->l2_offsets[offset / table_bytes] +
                              in_table * l2_entry_size(s), &l2_slice);
        if (ret < 0) {
            qcow2_state_unreadable(c, offset, ret);
        } else {
            ret = qcow2_state_check_slice(c, offset, l2_slice);
            qcow2_cache_put(s->l2_table_cache, &l2_slice);
        }
        qemu_co_mutex_unlock(&s->lock);
    }
    return ret;
}

static int coroutine_fn GRAPH_RDLOCK
qcow2_state_read_head(Qcow2StateCheck *c, uint8_t *head, size_t bytes)
{
    BDRVQcow2State *s = c->bs->opaque;
    uint64_t guest_offset = size_to_l1(s, c->sn->disk_size) *
                            qcow2_state_table_bytes(s);
    g_autofree uint8_t *buf = g_malloc(BDRV_SECTOR_SIZE);
    int ret;

    assert(bytes <= BDRV_SECTOR_SIZE);
    if (!c->first_cluster) {
        return 0;
    }
    ret = bdrv_co_pread(c->bs->file, c->first_cluster, BDRV_SECTOR_SIZE, buf,
                        0);
    if (ret == 0 && s->crypto) {
        ret = qcow2_co_decrypt(c->bs, c->first_cluster, guest_offset, buf,
                               BDRV_SECTOR_SIZE);
    }
    if (ret < 0) {
        return qcow2_state_unreadable(c, 0, ret);
    }
    memcpy(head, buf, bytes);
    return bytes;
}

int coroutine_fn qcow2_co_vmstate_check_snapshot(BlockDriverState *bs,
                                                 const QEMUSnapshotInfo *sn,
                                                 uint8_t *head, size_t bytes,
                                                 Error **errp)
{
    BDRVQcow2State *s = bs->opaque;
    Qcow2StateCheck c = {
        .bs = bs,
        .sn = qcow2_state_find_snapshot(s, sn->id_str),
        .file_size = bdrv_co_getlength(bs->file->bs),
        .errp = errp,
    };
    int ret;

    if (!c.sn) {
        error_setg(errp, "Node '%s' has no snapshot '%s'",
                   bdrv_get_device_or_node_name(bs), sn->name);
        return -ENOENT;
    }
    if (c.file_size < 0) {
        return qcow2_state_unreadable(&c, 0, c.file_size);
    }
    ret = qcow2_validate_table(bs, c.sn->l1_table_offset, c.sn->l1_size,
                               L1E_SIZE, QCOW_MAX_L1_SIZE, "Snapshot L1 table",
                               errp);
    if (ret == 0) {
        ret = qcow2_state_read_l1(&c);
    }
    if (ret == 0) {
        ret = qcow2_state_check_l2(&c);
    }
    if (ret == 0) {
        ret = qcow2_state_read_head(&c, head, bytes);
    }
    g_free(c.l2_offsets);
    return ret;
}
