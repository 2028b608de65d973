/*
 * qcow2: VM state requests of any offset and size
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * VM state is read and written without the generic code that fits requests to
 * what a driver can do, as it lies behind the end of the disk.  qcow2 takes any
 * bytes, except in an encrypted image: that is encrypted by sectors.
 */

#ifndef BLOCK_QCOW2_VMSTATE_PAD_H
#define BLOCK_QCOW2_VMSTATE_PAD_H

#include "block/block-common.h"
#include "block/graph-lock.h"

/**
 * qcow2_vmstate_co_pwritev: Write all of @qiov at @offset of the virtual disk
 *
 * Where the request begins or ends inside of a sector, the rest of that sector
 * is kept: it is read first.  So two requests that share a sector must not be
 * in flight at the same time.
 *
 * @offset: in bytes; it and the size of @qiov have been checked
 *
 * In the AioContext of @bs, without s->lock.  Returns 0, or -errno: then some
 * of the sectors may have been written.
 */
int coroutine_fn GRAPH_RDLOCK
qcow2_vmstate_co_pwritev(BlockDriverState *bs, int64_t offset,
                         QEMUIOVector *qiov);

/**
 * qcow2_vmstate_co_preadv: Fill all of @qiov from @offset of the virtual disk
 *
 * Same conditions; requests may share sectors.  Returns 0, or -errno with the
 * contents of @qiov undefined.
 */
int coroutine_fn GRAPH_RDLOCK
qcow2_vmstate_co_preadv(BlockDriverState *bs, int64_t offset,
                        QEMUIOVector *qiov);

#endif /* BLOCK_QCOW2_VMSTATE_PAD_H */
