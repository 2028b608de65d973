/*
 * Looking before a snapshot is taken or reverted to
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/snapshot.h"
#include "block/vmstate.h"
#include "hw/boards.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/ctype.h"
#include "migration.h"
#include "savevm.h"
#include "snapshot-check.h"

/* Bytes of the beginning of a stream; machine types have shorter names */
#define SNAPSHOT_HEAD_BYTES 256

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

/* None of @count capabilities at @caps must be on */
static bool snapshot_check_capabilities(const MigrationCapability *caps,
                                        size_t count, Error **errp)
{
    for (size_t i = 0; i < count; i++) {
        if (migrate_get_current()->capabilities[caps[i]]) {
            error_setg(errp, "Snapshots do not work with migration capability "
                       "'%s'", MigrationCapability_str(caps[i]));
            return false;
        }
    }
    return true;
}

bool snapshot_check_save(Error **errp)
{
    static const MigrationCapability caps[] = {
        MIGRATION_CAPABILITY_MULTIFD,
        MIGRATION_CAPABILITY_MAPPED_RAM,
        MIGRATION_CAPABILITY_BACKGROUND_SNAPSHOT,
    };

    return snapshot_check_capabilities(caps, ARRAY_SIZE(caps), errp);
}

bool snapshot_check_load(Error **errp)
{
    static const MigrationCapability caps[] = {
        MIGRATION_CAPABILITY_MULTIFD,
        MIGRATION_CAPABILITY_MAPPED_RAM,
    };

    return snapshot_check_capabilities(caps, ARRAY_SIZE(caps), errp);
}

/*
 * The stream begins with a magic number, a version and, but for very old machine
 * types, a section that has the name of the machine type.
 */
static bool snapshot_check_machine(const char *tag, const uint8_t *p,
                                   size_t bytes, Error **errp)
{
    const char *machine = MACHINE_GET_CLASS(current_machine)->name;
    uint32_t len;

    if (!migrate_get_current()->send_configuration) {
        return true;
    }
    if (bytes < 5 || p[0] != QEMU_VM_CONFIGURATION) {
        error_setg(errp, "VM state of snapshot '%s' is damaged: it does not "
                   "name a machine type at offset 8", tag);
        return false;
    }
    len = ldl_be_p(p + 1);
    if (len > bytes - 5) {
        error_setg(errp, "VM state of snapshot '%s' is damaged: it has a "
                   "machine type of %" PRIu32 " bytes at offset 9", tag, len);
        return false;
    }
    for (uint32_t i = 0; i < len; i++) {
        if (!qemu_isgraph(p[5 + i])) {
            error_setg(errp, "VM state of snapshot '%s' is damaged: it has no "
                       "machine type at offset 13", tag);
            return false;
        }
    }
    if (len != strlen(machine) || memcmp(p + 5, machine, len)) {
        error_setg(errp, "Snapshot '%s' is of a machine of type '%.*s', this "
                   "one is of type '%s'", tag, (int)len, p + 5, machine);
        return false;
    }
    return true;
}

static bool snapshot_check_head(const char *tag, const uint8_t *head,
                                size_t bytes, Error **errp)
{
    uint32_t version;

    if (bytes < 8 || ldl_be_p(head) != QEMU_VM_FILE_MAGIC) {
        error_setg(errp, "VM state of snapshot '%s' is damaged: it does not "
                   "begin like one", tag);
        return false;
    }
    version = ldl_be_p(head + 4);
    if (version != QEMU_VM_FILE_VERSION) {
        error_setg(errp, "VM state of snapshot '%s' has version %" PRIu32
                   ", only version %d can be loaded", tag, version,
                   QEMU_VM_FILE_VERSION);
        return false;
    }
    return snapshot_check_machine(tag, head + 8, bytes - 8, errp);
}

bool snapshot_check_state(BlockDriverState *bs, const QEMUSnapshotInfo *sn,
                          Error **errp)
{
    uint8_t head[SNAPSHOT_HEAD_BYTES];
    int ret = bdrv_vmstate_check_snapshot(bs, sn, head, sizeof(head), errp);

    if (ret <= 0) {
        return ret == 0;
    }
    return snapshot_check_head(sn->name, head, MIN(ret, sn->vm_state_size),
                               errp);
}
