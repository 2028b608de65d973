/*
 * Looking before a snapshot is taken or reverted to
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/graph-lock.h"
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

/* qcow2 would cut it, and it could not be found by it again */
static bool snapshot_check_name(const char *name, Error **errp)
{
    QEMUSnapshotInfo sn;

    if (name && strlen(name) >= sizeof(sn.name)) {
        error_setg(errp, "A snapshot name has at most %zu bytes, this one has "
                   "%zu", sizeof(sn.name) - 1, strlen(name));
        return false;
    }
    return true;
}

/* A node that is named twice would get two snapshots of one name */
static bool snapshot_check_devices(strList *devices, Error **errp)
{
    for (; devices; devices = devices->next) {
        for (strList *other = devices->next; other; other = other->next) {
            if (!strcmp(devices->value, other->value)) {
                error_setg(errp, "Node '%s' is named more than once",
                           devices->value);
                return false;
            }
        }
    }
    return true;
}

static bool snapshot_check_migration(Error **errp)
{
    if (migration_is_running()) {
        error_setg(errp, "There's a migration process in progress");
        return false;
    }
    return true;
}

bool snapshot_check_save(const char *name, strList *devices, Error **errp)
{
    static const MigrationCapability caps[] = {
        MIGRATION_CAPABILITY_MULTIFD,
        MIGRATION_CAPABILITY_MAPPED_RAM,
        MIGRATION_CAPABILITY_BACKGROUND_SNAPSHOT,
    };

    return snapshot_check_migration(errp) &&
           snapshot_check_capabilities(caps, ARRAY_SIZE(caps), errp) &&
           snapshot_check_name(name, errp) &&
           snapshot_check_devices(devices, errp);
}

bool snapshot_check_load(Error **errp)
{
    static const MigrationCapability caps[] = {
        MIGRATION_CAPABILITY_MULTIFD,
        MIGRATION_CAPABILITY_MAPPED_RAM,
    };

    return snapshot_check_migration(errp) &&
           snapshot_check_capabilities(caps, ARRAY_SIZE(caps), errp);
}

/* What is looked at, for messages */
typedef struct SnapshotState {
    BlockDriverState *bs;   /* keeps it */
    const char *tag;
} SnapshotState;

static bool GRAPH_RDLOCK G_GNUC_PRINTF(3, 4)
snapshot_state_damaged(const SnapshotState *s, Error **errp,
                       const char *fmt, ...)
{
    g_autofree char *what = NULL;
    va_list ap;

    va_start(ap, fmt);
    what = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    error_setg(errp, "VM state of snapshot '%s' in node '%s' is damaged: %s",
               s->tag, bdrv_get_device_or_node_name(s->bs), what);
    return false;
}

/*
 * The stream begins with a magic number, a version and, but for very old
 * machine types, a section that has the name of the machine type.
 */
static bool GRAPH_RDLOCK
snapshot_check_machine(const SnapshotState *s, const uint8_t *p, size_t bytes,
                       Error **errp)
{
    const char *machine = MACHINE_GET_CLASS(current_machine)->name;
    uint32_t len;

    if (!migrate_get_current()->send_configuration) {
        return true;
    }
    if (bytes < 5 || p[0] != QEMU_VM_CONFIGURATION) {
        return snapshot_state_damaged(s, errp, "it does not name a machine "
                                      "type at offset 8");
    }
    len = ldl_be_p(p + 1);
    if (len > bytes - 5) {
        return snapshot_state_damaged(s, errp, "it has a machine type of %"
                                      PRIu32 " bytes at offset 9", len);
    }
    for (uint32_t i = 0; i < len; i++) {
        if (!qemu_isgraph(p[5 + i])) {
            return snapshot_state_damaged(s, errp, "it has no machine type at "
                                          "offset 13");
        }
    }
    if (len != strlen(machine) || memcmp(p + 5, machine, len)) {
        error_setg(errp, "Snapshot '%s' in node '%s' is of a machine of type "
                   "'%.*s', this one is of type '%s'", s->tag,
                   bdrv_get_device_or_node_name(s->bs), (int)len, p + 5,
                   machine);
        return false;
    }
    return true;
}

static bool GRAPH_RDLOCK
snapshot_check_head(const SnapshotState *s, const uint8_t *head, size_t bytes,
                    Error **errp)
{
    uint32_t version;

    if (bytes < 8 || ldl_be_p(head) != QEMU_VM_FILE_MAGIC) {
        return snapshot_state_damaged(s, errp, "it does not begin like one");
    }
    version = ldl_be_p(head + 4);
    if (version != QEMU_VM_FILE_VERSION) {
        error_setg(errp, "VM state of snapshot '%s' in node '%s' has version %"
                   PRIu32 ", only version %d can be loaded", s->tag,
                   bdrv_get_device_or_node_name(s->bs), version,
                   QEMU_VM_FILE_VERSION);
        return false;
    }
    return snapshot_check_machine(s, head + 8, bytes - 8, errp);
}

/* @ret: what looking for the state's clusters returned */
static bool GRAPH_RDLOCK
snapshot_check_found(BlockDriverState *bs, const QEMUSnapshotInfo *sn, int ret,
                     const uint8_t *head, Error **errp)
{
    SnapshotState s = { .bs = bs, .tag = sn->name };

    if (ret <= 0) {
        return ret == 0;
    }
    return snapshot_check_head(&s, head, MIN(ret, sn->vm_state_size), errp);
}

bool snapshot_check_state(BlockDriverState *bs, const QEMUSnapshotInfo *sn,
                          Error **errp)
{
    uint8_t head[SNAPSHOT_HEAD_BYTES];
    int ret = bdrv_vmstate_check_snapshot(bs, sn, head, sizeof(head), errp);

    GRAPH_RDLOCK_GUARD_MAINLOOP();

    return snapshot_check_found(bs, sn, ret, head, errp);
}

bool coroutine_fn snapshot_co_check_state(BlockDriverState *bs,
                                          const QEMUSnapshotInfo *sn,
                                          Error **errp)
{
    uint8_t head[SNAPSHOT_HEAD_BYTES];
    int ret;

    GRAPH_RDLOCK_GUARD();

    ret = bdrv_co_vmstate_check_snapshot(bs, sn, head, sizeof(head), errp);
    return snapshot_check_found(bs, sn, ret, head, errp);
}
