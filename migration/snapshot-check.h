/*
 * Looking before a snapshot is taken or reverted to
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_SNAPSHOT_CHECK_H
#define MIGRATION_SNAPSHOT_CHECK_H

#include "block/snapshot.h"
#include "qapi/qapi-builtin-types.h"

/**
 * snapshot_exists_on_any: Does any of @devices have a snapshot @name?
 *
 * bdrv_all_has_snapshot() asks whether all of them have it.  A name that is
 * taken on some disks only must be refused as well: if the new snapshot failed,
 * cleaning up by name would delete the old one.
 *
 * @has_devices, @devices: as for save_snapshot(); without devices, asks
 *                         bdrv_all_has_snapshot()
 *
 * Main loop thread with the BQL, outside coroutines.  Returns 1 or 0, or -1
 * with @errp set.
 */
int snapshot_exists_on_any(const char *name, bool has_devices,
                           strList *devices, Error **errp);

/**
 * snapshot_check_save: Can a snapshot of that name be saved on these nodes?
 *
 * @name: NULL if the name is to be made
 * @devices: the nodes by name; NULL for all of them
 *
 * Looks at the names as such, not at what they stand for, whether a migration
 * is under way, and at migration capabilities: some change what is in the
 * stream, or look for channels besides it.
 *
 * Main loop thread.  Returns false with @errp naming what stands against it.
 */
bool snapshot_check_save(const char *name, strList *devices, Error **errp);

/**
 * snapshot_check_load: Do migrations allow to load a snapshot?
 *
 * One that is under way does not, and neither do some capabilities.
 *
 * Main loop thread.  Returns false with @errp naming what stands against it.
 */
bool snapshot_check_load(Error **errp);

/**
 * snapshot_check_state:
 * snapshot_co_check_state: Can the VM state of a snapshot be loaded at all?
 *
 * To be asked before any disk is reverted.  Looks whether all of it is there,
 * and whether it begins like the state of a machine like this one.
 *
 * @bs: node that keeps the VM state
 * @sn: the snapshot, as bdrv_snapshot_find() returned it
 *
 * Main loop thread with the BQL; the first outside coroutines, the second in
 * one, so that the monitor answers meanwhile.  The VM may be running.  Returns
 * false with @errp set if it cannot.
 */
bool snapshot_check_state(BlockDriverState *bs, const QEMUSnapshotInfo *sn,
                          Error **errp);
bool coroutine_fn snapshot_co_check_state(BlockDriverState *bs,
                                          const QEMUSnapshotInfo *sn,
                                          Error **errp);

#endif /* MIGRATION_SNAPSHOT_CHECK_H */
