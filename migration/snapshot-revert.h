/*
 * Reverting a running VM to a snapshot
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * All functions belong to the main loop thread with the BQL, outside
 * coroutines.
 */

#ifndef MIGRATION_SNAPSHOT_REVERT_H
#define MIGRATION_SNAPSHOT_REVERT_H

#include "qapi/qapi-builtin-types.h"

/**
 * snapshot_revert: Stop the VM, revert it to a snapshot, let it go on
 *
 * Parameters are those of load_snapshot().
 *
 * On success the VM is in the run state it was in before.  On failure, too, if
 * no disk was reverted: the guest does not notice.  Once a disk was reverted,
 * memory does not fit the disks any more, so the VM stays stopped ("restore-vm"
 * if it was running), and the message says what is left to do.
 *
 * Returns true on success, false with @errp set on failure.
 */
bool snapshot_revert(const char *name, const char *vmstate, bool has_devices,
                     strList *devices, Error **errp);

/**
 * load_snapshot_moving: load_snapshot(), which also tells about the disks
 *
 * @disks_moved: set to true if any disk was reverted, left alone otherwise
 *
 * Implemented in savevm.c.  The VM must be stopped.
 */
bool load_snapshot_moving(const char *name, const char *vmstate,
                          bool has_devices, strList *devices,
                          bool *disks_moved, Error **errp);

#endif /* MIGRATION_SNAPSHOT_REVERT_H */
