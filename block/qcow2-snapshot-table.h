/*
 * Replacing the table of snapshots
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef BLOCK_QCOW2_SNAPSHOT_TABLE_H
#define BLOCK_QCOW2_SNAPSHOT_TABLE_H

#include "block/block-common.h"
#include "block/graph-lock.h"

/**
 * qcow2_snapshot_write_header: Make another table of snapshots the valid one
 *
 * @header, @bytes: the fields of the header that tell of it, in its byte order
 *
 * The new table and all that it refers to is on stable storage.  When this
 * fails, the header is written as it was.  If not even that is possible, it may
 * tell of either table, so that both have to stay: snapshot_table_unknown is
 * set then, until a later call succeeds.
 *
 * With the node drained; may be called in a coroutine.  Returns 0 or -errno.
 */
int GRAPH_RDLOCK qcow2_snapshot_write_header(BlockDriverState *bs,
                                             const void *header, size_t bytes);

#endif /* BLOCK_QCOW2_SNAPSHOT_TABLE_H */
