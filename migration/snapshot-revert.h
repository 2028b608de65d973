/*
 * Reverting a running VM to a snapshot
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Main loop thread with the BQL, outside coroutines unless said otherwise.
 */

#ifndef MIGRATION_SNAPSHOT_REVERT_H
#define MIGRATION_SNAPSHOT_REVERT_H

#include "snapshot-op.h"

/**
 * snapshot_revert_co: Stop the VM, revert it to a snapshot, let it go on
 *
 * Stopping the VM, reverting the disks and resetting the machine happen in one
 * go.  Then the VM state is read in the coroutine, which gives way to others
 * every half millisecond.  As soon as a disk has been reverted the operation
 * cannot be cancelled any more.
 *
 * On success the VM is in the run state it was in before.  On failure, too, if
 * no disk was reverted: the guest does not notice.  Once a disk was reverted,
 * memory does not fit the disks any more, so the VM stays stopped ("restore-vm"
 * if it was running), and the message says what is left to do.
 *
 * Coroutine in the main loop's AioContext.  Returns 0, or -errno with @errp
 * set.
 */
int coroutine_fn snapshot_revert_co(SnapshotOp *op, Error **errp);

#endif /* MIGRATION_SNAPSHOT_REVERT_H */
