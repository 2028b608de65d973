/*
 * Looking before a snapshot is taken
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/snapshot.h"
#include "snapshot-check.h"

int snapshot_exists_on_any(const char *name, bool has_devices,
                           strList *devices, Error **errp)
{
    strList *device;

    if (!has_devices) {
        return bdrv_all_has_snapshot(name, false, NULL, errp);
    }
    for (device = devices; device; device = device->next) {
        strList one = { .value = device->value };
        int ret = bdrv_all_has_snapshot(name, true, &one, errp);

        if (ret != 0) {
            return ret;
        }
    }
    return 0;
}
