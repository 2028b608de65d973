/*
 * qcow2: a file that is long enough for what is counted
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef BLOCK_QCOW2_EXTEND_H
#define BLOCK_QCOW2_EXTEND_H

#include "block/block-common.h"
#include "block/graph-lock.h"

/**
 * qcow2_extend_file: Make the file reach to the end of what was allocated
 *
 * @offset, @bytes: in the image file, clusters that are counted in memory only;
 *                  nothing happens if @bytes is 0
 *
 * To be called before the counts are flushed for something that is written
 * afterwards.  qemu-img check looks no further than the file.  If the process
 * were killed in between, there would be a leak that neither check nor the next
 * save can find.
 *
 * Writes zeroes, and only behind the end of the file: should the counts be
 * wrong, it is not somebody's data that they replace.
 *
 * In a coroutine or the main loop, with s->lock or the node drained, as for
 * qcow2_alloc_clusters().  Returns 0, or -errno; the file may be longer then.
 */
int GRAPH_RDLOCK qcow2_extend_file(BlockDriverState *bs, int64_t offset,
                                   int64_t bytes);

#endif /* BLOCK_QCOW2_EXTEND_H */
