/*
 * Reverting a running VM to a snapshot
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/block.h"
#include "block/snapshot.h"
#include "migration/misc.h"
#include "migration/snapshot-guard.h"
#include "migration/snapshot.h"
#include "qapi/error.h"
#include "qemu/yank.h"
#include "system/runstate.h"
#include "system/system.h"
#include "migration.h"
#include "savevm.h"
#include "snapshot-check.h"
#include "snapshot-co.h"
#include "snapshot-params.h"
#include "snapshot-revert.h"
#include "snapshot-stream.h"
#include "yank_functions.h"

static void snapshot_revert_explain(const char *name, Error **errp)
{
    error_prepend(errp, "Disks were reverted to snapshot '%s', but the VM "
                  "as a whole could not be, so it stays stopped; revert to "
                  "a snapshot again or reset the VM before continuing: ",
                  name);
}

typedef struct SnapshotRevert {
    SnapshotOp *op;
    BlockDriverState *bs;   /* keeps the VM state; a reference */
    QEMUSnapshotInfo sn;
    QEMUFile *file;         /* of the migration core, once it is set */
    bool disks_moved;

    /* What is to be undone or ended */
    bool yank_registered;
    bool vm_held;

    /* The result so far: @err is set if and only if @ret is < 0 */
    int ret;
    Error *err;
} SnapshotRevert;

static bool snapshot_revert_find_state(SnapshotRevert *r, Error **errp)
{
    SnapshotOp *op = r->op;
    BlockDriverState *bs = bdrv_all_find_vmstate_bs(op->vmstate,
                                                    op->has_devices,
                                                    op->devices, errp);
    int ret;

    if (!bs) {
        return false;
    }
    bdrv_ref(bs);
    bdrv_unref(r->bs);
    r->bs = bs;

    ret = bdrv_snapshot_find(bs, &r->sn, op->name);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Snapshot '%s' cannot be found", op->name);
        return false;
    }
    if (r->sn.vm_state_size == 0) {
        error_setg(errp, "'%s' is a disk-only snapshot: qemu-img can revert to "
                   "it while the VM is off", op->name);
        return false;
    }
    if (r->sn.vm_state_size > INT64_MAX) {
        error_setg(errp, "Snapshot '%s' has a damaged VM state size", op->name);
        return false;
    }
    return true;
}

static bool snapshot_revert_check(SnapshotRevert *r, Error **errp)
{
    SnapshotOp *op = r->op;
    int ret;

    if (!snapshot_check_load(errp) ||
        !bdrv_all_can_snapshot(op->has_devices, op->devices, errp)) {
        return false;
    }
    ret = bdrv_all_has_snapshot(op->name, op->has_devices, op->devices, errp);
    if (ret == 0) {
        error_setg(errp, "Snapshot '%s' does not exist in one or more devices",
                   op->name);
    }
    return ret > 0 && snapshot_revert_find_state(r, errp);
}

static void snapshot_revert_look(void *opaque)
{
    SnapshotRevert *r = opaque;

    r->ret = snapshot_revert_check(r, &r->err) ? 0 : -EINVAL;
}

static void snapshot_revert_stop_vm(SnapshotRevert *r)
{
    RunState state = runstate_get();

    snapshot_op_enter(SNAPSHOT_PHASE_STOP);
    vm_stop(RUN_STATE_RESTORE_VM);
    snapshot_guard_hold_vm(state);
    r->vm_held = true;
}

static uint64_t snapshot_revert_sample(SnapshotOp *op)
{
    return snapshot_stream_tell(op->file);
}

static void snapshot_revert_disks(SnapshotRevert *r)
{
    SnapshotOp *op = r->op;

    /* No request of the guest may come between disks and memory */
    bdrv_drain_all_begin();

    snapshot_op_enter(SNAPSHOT_PHASE_DISKS_REVERT);
    r->ret = bdrv_all_goto_snapshot(op->name, op->has_devices, op->devices,
                                    &r->disks_moved, &r->err);
    op->committed = r->disks_moved;
    if (r->disks_moved) {
        snapshot_guard_forget_stop();
    }
    if (r->ret == 0) {
        snapshot_op_enter(SNAPSHOT_PHASE_RESET);
        r->file = snapshot_stream_open_input(r->bs, r->sn.vm_state_size);
        qemu_system_reset(SHUTDOWN_CAUSE_SNAPSHOT_LOAD);
        migration_incoming_get_current()->from_src_file = r->file;
        snapshot_op_open(op, r->file, r->sn.vm_state_size,
                         snapshot_revert_sample);
    }

    bdrv_drain_all_end();
}

/* Whatever was found wrong before, nobody waits for it any more */
static void snapshot_revert_set_cancelled(SnapshotRevert *r)
{
    error_free(r->err);
    r->err = NULL;
    error_setg(&r->err, "Reverting to snapshot '%s' was cancelled",
               r->op->name);
    r->ret = -ECANCELED;
}

static void snapshot_revert_begin(void *opaque)
{
    SnapshotRevert *r = opaque;

    /* Nobody may have told the operation yet, if loadvm polls in a monitor */
    if (r->op->cancelled || snapshot_guard_qemu_is_ending()) {
        snapshot_revert_set_cancelled(r);
        return;
    }
    if (r->ret < 0) {
        return;
    }
    r->ret = -EINVAL;
    /* Taken by a migration that is under way */
    r->yank_registered = yank_register_instance(MIGRATION_YANK_INSTANCE,
                                                &r->err);
    if (!r->yank_registered) {
        return;
    }
    snapshot_revert_stop_vm(r);
    /* Stopping drains, so a block job may have ended and changed the graph */
    if (snapshot_revert_find_state(r, &r->err)) {
        snapshot_revert_disks(r);
    }
}

static void coroutine_fn snapshot_revert_read_state(SnapshotRevert *r)
{
    snapshot_op_enter(SNAPSHOT_PHASE_STATE);
    r->ret = qemu_loadvm_state(r->file);
    if (r->ret < 0) {
        snapshot_stream_set_load_error(r->file, r->ret, &r->err);
    }
}

/* Closes the stream as well, and gives up the yank instance */
static void snapshot_revert_leave_core(SnapshotRevert *r)
{
    snapshot_op_enter(SNAPSHOT_PHASE_CLEAN_UP);
    snapshot_op_close(r->op);
    migration_incoming_state_destroy();
    r->yank_registered = false;

    bdrv_drain_all_begin();
    snapshot_stream_release(r->bs);
    bdrv_drain_all_end();
}

static void snapshot_revert_resume_vm(SnapshotRevert *r)
{
    bool as_before = r->ret == 0 || !r->disks_moved;

    r->vm_held = false;
    snapshot_op_enter(SNAPSHOT_PHASE_RESUME);
    snapshot_guard_let_vm_go(as_before && !r->op->no_resume
                             ? load_snapshot_resume : NULL);
    if (!as_before) {
        snapshot_revert_explain(r->op->name, &r->err);
    }
}

static void snapshot_revert_end(void *opaque)
{
    SnapshotRevert *r = opaque;

    if (r->file) {
        snapshot_revert_leave_core(r);
    }
    if (r->yank_registered) {
        yank_unregister_instance(MIGRATION_YANK_INSTANCE);
    }
    if (r->vm_held) {
        snapshot_revert_resume_vm(r);
    }
    snapshot_op_end(r->op, r->ret);
    bdrv_unref(r->bs);
}

static bool revert_plainly(SnapshotOp *op, Error **errp)
{
    ERRP_GUARD();
    RunState saved_state = runstate_get();
    bool disks_moved = false;
    bool ok;

    vm_stop(RUN_STATE_RESTORE_VM);

    ok = load_snapshot_moving(op->name, op->vmstate, op->has_devices,
                              op->devices, &disks_moved, errp);
    if (ok || !disks_moved) {
        load_snapshot_resume(saved_state);
    } else {
        snapshot_revert_explain(op->name, errp);
    }
    return ok;
}

int coroutine_fn snapshot_revert_co(SnapshotOp *op, Error **errp)
{
    SnapshotRevert r = { .op = op };

    if (!snapshot_use_engines()) {
        return snapshot_op_run_plainly(op, revert_plainly, errp);
    }
    /* At once: the next command has to wait, also if it comes before the BH */
    if (!snapshot_op_begin(op, SNAPSHOT_OPERATION_LOAD, errp)) {
        return -EINVAL;
    }

    snapshot_co_call(snapshot_revert_look, &r);
    if (r.ret == 0 && !snapshot_co_check_state(r.bs, &r.sn, &r.err)) {
        r.ret = -EINVAL;
    }
    snapshot_co_call(snapshot_revert_begin, &r);
    if (r.ret == 0) {
        snapshot_revert_read_state(&r);
    }
    snapshot_co_call(snapshot_revert_end, &r);

    error_propagate(errp, r.err);
    return r.ret;
}
