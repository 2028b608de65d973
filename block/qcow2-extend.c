/*
 * qcow2: a file that is long enough for what is counted
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "block/block_int.h"
#include "qcow2-extend.h"

int qcow2_extend_file(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    int64_t end = offset + bytes;
    int64_t length = bdrv_getlength(bs->file->bs);
    int64_t from = MAX(offset, length);

    if (length < 0) {
        return length;
    }
    if (bytes == 0 || from >= end) {
        return 0;
    }
    return bdrv_pwrite_zeroes(bs->file, from, end - from, 0);
}
