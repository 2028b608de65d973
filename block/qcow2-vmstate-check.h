/*
 * qcow2: is the VM state of a snapshot all there?
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef BLOCK_QCOW2_VMSTATE_CHECK_H
#define BLOCK_QCOW2_VMSTATE_CHECK_H

#include "block/block-common.h"
#include "block/graph-lock.h"
#include "block/snapshot.h"

/**
 * qcow2_co_vmstate_check_snapshot: Look at VM state before reverting to it
 *
 * See bdrv_vmstate_check_snapshot().  Goes through the tables of the snapshot,
 * which loading needs in the cache anyway.  Takes s->lock for one slice of a
 * table at a time.
 */
int coroutine_fn GRAPH_RDLOCK
qcow2_co_vmstate_check_snapshot(BlockDriverState *bs,
                                const QEMUSnapshotInfo *sn, uint8_t *head,
                                size_t bytes, Error **errp);

#endif /* BLOCK_QCOW2_VMSTATE_CHECK_H */
