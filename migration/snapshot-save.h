/*
 * Saving a snapshot while the monitor answers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_SNAPSHOT_SAVE_H
#define MIGRATION_SNAPSHOT_SAVE_H

#include "snapshot-op.h"

/**
 * snapshot_save_co: Stop the VM, save a snapshot, let the VM go on
 *
 * Guest RAM is walked by a thread of its own, which fills the stream.  All the
 * rest happens in the main loop.
 *
 * On failure, -ECANCELED included, there is no new snapshot on any disk and no
 * space in use for it, and the VM goes on as before.
 *
 * Coroutine in the main loop's AioContext.  Returns 0, or -errno with @errp
 * set.
 */
int coroutine_fn snapshot_save_co(SnapshotOp *op, Error **errp);

#endif /* MIGRATION_SNAPSHOT_SAVE_H */
