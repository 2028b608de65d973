/*
 * Replacing the table of snapshots
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "block/block_int.h"
#include "qcow2.h"
#include "qcow2-snapshot-table.h"

int qcow2_snapshot_write_header(BlockDriverState *bs, const void *header,
                                size_t bytes)
{
    BDRVQcow2State *s = bs->opaque;
    const int64_t offset = offsetof(QCowHeader, nb_snapshots);
    g_autofree void *old_header = g_malloc(bytes);
    int ret;

    ret = bdrv_pread(bs->file, offset, bytes, old_header, 0);
    if (ret < 0) {
        return ret;
    }
    ret = bdrv_pwrite_sync(bs->file, offset, bytes, header, 0);
    /* If only the flush failed, the header tells of the new table by now */
    s->snapshot_table_unknown =
        ret < 0 &&
        (bdrv_pwrite_sync(bs->file, offset, bytes, old_header, 0) < 0 ||
         s->snapshot_table_unknown);
    return ret;
}
