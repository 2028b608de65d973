/*
 * Programs without VMs have no snapshots of them
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "migration/snapshot-guard.h"

bool snapshot_guard_allows_cancel(Job *job, Error **errp)
{
    return true;
}

bool snapshot_guard_allows_qmp(const char *name, Error **errp)
{
    return true;
}
