/*
 * qcow2: L2 tables for VM state, several at a time
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A new L2 table costs up to four flushes: it and its refcount have to be on
 * disk before the L1 table says where it is.  With small clusters a table is
 * full soon, at 4 KiB after 2 MiB of VM state.  As VM state is written in one
 * sweep, it is known that the next tables will be needed as well.
 */

#ifndef BLOCK_QCOW2_VMSTATE_TABLES_H
#define BLOCK_QCOW2_VMSTATE_TABLES_H

#include "block/block-common.h"
#include "block/graph-lock.h"

/**
 * qcow2_vmstate_add_tables: Have L2 tables before VM state is written
 *
 * Where [@offset, @offset + @bytes) of the virtual disk has no table yet, makes
 * empty ones for it and for what follows, in one go.  Does nothing when a
 * single one would reach far enough.  Tables that are not needed in the end
 * stay empty; they are freed with the rest of the VM state.  Does nothing
 * either when no save has begun, as with "qemu-io -c 'write -b'".
 *
 * In the AioContext of @bs, without s->lock.
 *
 * Returns 0, also when there is no room for that many; or -errno, and then some
 * empty tables may be there.
 */
int coroutine_fn GRAPH_RDLOCK
qcow2_vmstate_add_tables(BlockDriverState *bs, int64_t offset, int64_t bytes);

#endif /* BLOCK_QCOW2_VMSTATE_TABLES_H */
