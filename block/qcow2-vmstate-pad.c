/*
 * qcow2: VM state requests of any offset and size
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/memalign.h"
#include "block/block-io.h"
#include "block/block_int.h"
#include "qcow2-vmstate.h"
#include "qcow2-vmstate-pad.h"

/* A request, and the whole sectors in which it lies */
typedef struct Qcow2PaddedRequest {
    BlockDriverState *bs;
    size_t sector;          /* in bytes */
    int64_t start;          /* of the first sector, in the virtual disk */
    size_t bytes;           /* of all sectors */
    size_t head;            /* from @start to the request, in bytes */
    size_t tail;            /* from the request to the end of its last sector */
} Qcow2PaddedRequest;

static Qcow2PaddedRequest qcow2_vmstate_pad(BlockDriverState *bs,
                                            int64_t offset, size_t bytes)
{
    size_t sector = bs->bl.request_alignment;
    int64_t start = QEMU_ALIGN_DOWN(offset, sector);
    int64_t end = QEMU_ALIGN_UP(offset + bytes, sector);

    return (Qcow2PaddedRequest) {
        .bs = bs,
        .sector = sector,
        .start = start,
        .bytes = end - start,
        .head = offset - start,
        .tail = end - (offset + bytes),
    };
}

static bool qcow2_vmstate_is_padded(const Qcow2PaddedRequest *r)
{
    return r->head || r->tail;
}

/* Read @bytes, whole sectors, from byte @at of the padded request on */
static int coroutine_fn GRAPH_RDLOCK
qcow2_vmstate_read_sectors(const Qcow2PaddedRequest *r, uint8_t *buf,
                           size_t at, size_t bytes)
{
    QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, buf + at, bytes);

    if (qcow2_is_given_up(r->bs)) {
        return -ENOMEDIUM;
    }
    return r->bs->drv->bdrv_co_preadv_part(r->bs, r->start + at, bytes, &qiov,
                                           0, 0);
}

/* Read what has to be kept of the first and the last sector */
static int coroutine_fn GRAPH_RDLOCK
qcow2_vmstate_read_edges(const Qcow2PaddedRequest *r, uint8_t *buf)
{
    size_t last = r->bytes - r->sector;
    int ret = 0;

    if (r->head) {
        ret = qcow2_vmstate_read_sectors(r, buf, 0, r->sector);
    }
    if (ret == 0 && r->tail && !(r->head && last == 0)) {
        ret = qcow2_vmstate_read_sectors(r, buf, last, r->sector);
    }
    return ret;
}

static int coroutine_fn GRAPH_RDLOCK
qcow2_vmstate_write_sectors(BlockDriverState *bs, int64_t offset,
                            QEMUIOVector *qiov)
{
    if (qcow2_is_given_up(bs)) {
        return -ENOMEDIUM;
    }
    return bs->drv->bdrv_co_pwritev_part(bs, offset, qiov->size, qiov, 0, 0);
}

int coroutine_fn qcow2_vmstate_co_pwritev(BlockDriverState *bs, int64_t offset,
                                          QEMUIOVector *qiov)
{
    Qcow2PaddedRequest r = qcow2_vmstate_pad(bs, offset, qiov->size);
    QEMUIOVector padded;
    uint8_t *buf;
    int ret;

    if (!qcow2_vmstate_is_padded(&r)) {
        return qcow2_vmstate_write_sectors(bs, offset, qiov);
    }
    buf = qemu_try_blockalign(bs, r.bytes);
    if (!buf) {
        return -ENOMEM;
    }
    ret = qcow2_vmstate_read_edges(&r, buf);
    if (ret == 0) {
        qemu_iovec_to_buf(qiov, 0, buf + r.head, qiov->size);
        qemu_iovec_init_buf(&padded, buf, r.bytes);
        ret = qcow2_vmstate_write_sectors(bs, r.start, &padded);
    }
    qemu_vfree(buf);
    return ret;
}

int coroutine_fn qcow2_vmstate_co_preadv(BlockDriverState *bs, int64_t offset,
                                         QEMUIOVector *qiov)
{
    Qcow2PaddedRequest r = qcow2_vmstate_pad(bs, offset, qiov->size);
    uint8_t *buf;
    int ret;

    if (!qcow2_vmstate_is_padded(&r)) {
        return bs->drv->bdrv_co_preadv_part(bs, offset, qiov->size, qiov, 0, 0);
    }
    buf = qemu_try_blockalign(bs, r.bytes);
    if (!buf) {
        return -ENOMEM;
    }
    ret = qcow2_vmstate_read_sectors(&r, buf, 0, r.bytes);
    if (ret == 0) {
        qemu_iovec_from_buf(qiov, 0, buf + r.head, qiov->size);
    }
    qemu_vfree(buf);
    return ret;
}
