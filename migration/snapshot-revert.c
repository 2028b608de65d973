/*
 * Reverting a running VM to a snapshot
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "migration/snapshot.h"
#include "system/runstate.h"
#include "snapshot-revert.h"

bool load_snapshot(const char *name, const char *vmstate,
                   bool has_devices, strList *devices, Error **errp)
{
    bool disks_moved = false;

    return load_snapshot_moving(name, vmstate, has_devices, devices,
                                &disks_moved, errp);
}

bool snapshot_revert(const char *name, const char *vmstate, bool has_devices,
                     strList *devices, Error **errp)
{
    ERRP_GUARD();
    RunState saved_state = runstate_get();
    bool disks_moved = false;
    bool ok;

    vm_stop(RUN_STATE_RESTORE_VM);

    ok = load_snapshot_moving(name, vmstate, has_devices, devices,
                              &disks_moved, errp);
    if (ok || !disks_moved) {
        load_snapshot_resume(saved_state);
    } else {
        error_prepend(errp, "Disks were reverted to snapshot '%s', but the VM "
                      "as a whole could not be, so it stays stopped; revert to "
                      "a snapshot again or reset the VM before continuing: ",
                      name);
    }
    return ok;
}
