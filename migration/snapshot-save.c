/*
 * Saving a snapshot while the monitor answers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/block.h"
#include "block/snapshot.h"
#include "block/vmstate.h"
#include "migration/global_state.h"
#include "migration/misc.h"
#include "migration/snapshot-guard.h"
#include "migration/snapshot.h"
#include "qapi/error.h"
#include "qemu/atomic.h"
#include "qemu/cutils.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "qemu/timer.h"
#include "system/runstate.h"
#include "migration.h"
#include "ram.h"
#include "savevm.h"
#include "snapshot-check.h"
#include "snapshot-co.h"
#include "snapshot-params.h"
#include "snapshot-save.h"
#include "snapshot-stream.h"

typedef struct SnapshotSave {
    SnapshotOp *op;
    BlockDriverState *bs;   /* keeps the VM state; a reference */
    QEMUSnapshotInfo sn;
    QEMUFile *file;

    /* What is to be undone or ended */
    bool vm_held;
    bool space_begun;
    bool core_begun;

    /* The result so far: @err is set if @ret is < 0, unless cancelled */
    int ret;
    Error *err;

    /* For the thread: constant while it runs */
    Coroutine *co;
} SnapshotSave;

/* --- Before the VM stops ------------------------------------------------- */

static bool snapshot_save_check_core(SnapshotOp *op, Error **errp)
{
    return !migration_is_blocked(errp) &&
           snapshot_check_save(op->name, op->devices, errp);
}

static bool snapshot_save_make_room_for_name(SnapshotOp *op, Error **errp)
{
    int ret;

    if (!op->name) {
        return true;
    }
    if (op->overwrite) {
        return bdrv_all_delete_snapshot(op->name, op->has_devices, op->devices,
                                        errp) >= 0;
    }
    ret = snapshot_exists_on_any(op->name, op->has_devices, op->devices, errp);
    if (ret > 0) {
        error_setg(errp, "Snapshot '%s' already exists in one or more devices",
                   op->name);
    }
    return ret == 0;
}

static bool snapshot_save_find_node(SnapshotSave *s, Error **errp)
{
    SnapshotOp *op = s->op;
    BlockDriverState *bs = bdrv_all_find_vmstate_bs(op->vmstate,
                                                    op->has_devices,
                                                    op->devices, errp);

    if (!bs) {
        return false;
    }
    bdrv_ref(bs);
    bdrv_unref(s->bs);
    s->bs = bs;
    return true;
}

static bool snapshot_save_check(SnapshotSave *s, Error **errp)
{
    SnapshotOp *op = s->op;

    return snapshot_save_check_core(op, errp) &&
           bdrv_all_can_snapshot(op->has_devices, op->devices, errp) &&
           snapshot_save_make_room_for_name(op, errp) &&
           snapshot_save_find_node(s, errp);
}

/* --- Phases -------------------------------------------------------------- */

static void snapshot_save_describe(SnapshotSave *s)
{
    g_autoptr(GDateTime) now = g_date_time_new_now_local();
    g_autofree char *made = g_date_time_format(now, "vm-%Y%m%d%H%M%S");

    s->sn.date_sec = g_date_time_to_unix(now);
    s->sn.date_nsec = g_date_time_get_microsecond(now) * SCALE_US;
    s->sn.vm_clock_nsec = qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL);
    s->sn.icount = -1ULL;   /* record/replay does not come here */
    pstrcpy(s->sn.name, sizeof(s->sn.name), s->op->name ?: made);
    snapshot_op_set_name(s->sn.name);
}

static void snapshot_save_stop_vm(SnapshotSave *s)
{
    RunState state = runstate_get();

    snapshot_op_enter(SNAPSHOT_PHASE_STOP);
    global_state_store();
    vm_stop(RUN_STATE_SAVE_VM);
    snapshot_guard_hold_vm(state);
    s->vm_held = true;
}

static void snapshot_save_set_core_file(QEMUFile *file)
{
    MigrationState *ms = migrate_get_current();

    QEMU_LOCK_GUARD(&ms->qemu_file_lock);
    ms->to_dst_file = file;
}

/* The counter is the one that query-migrate reads beside a running thread */
static uint64_t snapshot_save_sample(SnapshotOp *op)
{
    return op->total - MIN(op->total, ram_bytes_remaining());
}

/* What the stream has to say is the cause of anything else that failed */
static void snapshot_save_explain(SnapshotSave *s)
{
    if (qemu_file_get_error(s->file)) {
        error_free(s->err);
        s->err = NULL;
        snapshot_stream_set_error(s->file, s->ret,
                                  "Error while writing VM state", &s->err);
    }
}

static void snapshot_save_open(SnapshotSave *s)
{
    snapshot_op_enter(SNAPSHOT_PHASE_SETUP);

    bdrv_drain_all_begin();
    s->ret = bdrv_vmstate_begin_save(
        s->bs, snapshot_stream_options()->growth_step, &s->err);
    bdrv_drain_all_end();
    if (s->ret < 0) {
        return;
    }
    s->space_begun = true;

    s->file = snapshot_stream_open_output(s->bs);
    s->ret = migrate_init(migrate_get_current(), &s->err);
    if (s->ret < 0) {
        return;
    }
    s->core_begun = true;
    snapshot_save_set_core_file(s->file);

    qemu_savevm_state_header(s->file);
    s->ret = qemu_savevm_state_setup(s->file, &s->err);
    if (s->ret < 0) {
        snapshot_save_explain(s);
        return;
    }
    snapshot_op_open(s->op, s->file, ram_bytes_total(), snapshot_save_sample);
}

static void snapshot_save_begin(void *opaque)
{
    SnapshotSave *s = opaque;

    s->ret = -EINVAL;
    if (s->op->cancelled || !snapshot_save_check(s, &s->err)) {
        return;
    }
    snapshot_save_stop_vm(s);
    /* Stopping drains, so a block job may have ended and changed the graph */
    if (!snapshot_save_find_node(s, &s->err)) {
        return;
    }
    snapshot_save_describe(s);
    snapshot_save_open(s);
}

/*
 * The thread walks RAM and nothing else.  It does not hold the BQL, like the
 * thread of a live migration, and unlike the main loop it may sleep while the
 * stream's buffers are all in use.
 */
static void *snapshot_save_thread(void *opaque)
{
    SnapshotSave *s = opaque;

    rcu_register_thread();
    while (!qatomic_read(&s->op->cancelled) &&
           qemu_file_get_error(s->file) == 0) {
        if (qemu_savevm_state_iterate(s->file, false) > 0) {
            break;
        }
    }
    rcu_unregister_thread();

    aio_co_wake(s->co);
    return NULL;
}

static void coroutine_fn snapshot_save_walk_ram(SnapshotSave *s)
{
    QemuThread thread;

    snapshot_op_enter(SNAPSHOT_PHASE_RAM);
    s->co = qemu_coroutine_self();
    qemu_thread_create(&thread, "snapshot-save", snapshot_save_thread, s,
                       QEMU_THREAD_JOINABLE);
    qemu_coroutine_yield();
    qemu_thread_join(&thread);
    /* So that draining, outside the coroutine, takes no time */
    snapshot_stream_settle_output(s->file);
}

/* The migration core is as it was, but for what query-migrate tells */
static void snapshot_save_leave_core(SnapshotSave *s)
{
    MigrationState *ms = migrate_get_current();
    MigrationStatus status = MIGRATION_STATUS_COMPLETED;

    if (!s->core_begun) {
        return;
    }
    s->core_begun = false;
    snapshot_op_stop_sampling(s->op);
    qemu_savevm_state_cleanup();
    json_writer_free(ms->vmdesc);
    ms->vmdesc = NULL;
    if (s->ret < 0) {
        status = s->op->cancelled ? MIGRATION_STATUS_CANCELLED
                                  : MIGRATION_STATUS_FAILED;
    }
    migrate_set_state(&ms->state, MIGRATION_STATUS_SETUP, status);
    snapshot_save_set_core_file(NULL);
}

static void snapshot_save_device_state(void *opaque)
{
    SnapshotSave *s = opaque;

    if (s->op->cancelled) {
        s->ret = -ECANCELED;    /* snapshot_save_decide() tells more */
        snapshot_save_leave_core(s);
        return;
    }
    if (qemu_file_get_error(s->file) == 0) {
        snapshot_op_enter(SNAPSHOT_PHASE_DEVICE_STATE);
        /* What a device may have submitted late must not be saved half done */
        bdrv_drain_all();
        qemu_savevm_maybe_send_switchover_start(s->file);
        qemu_savevm_state_complete_precopy(s->file, false);
    }
    s->ret = qemu_file_get_error(s->file);
    snapshot_save_explain(s);
    snapshot_save_leave_core(s);
}

static void snapshot_save_create_snapshots(SnapshotSave *s, uint64_t size)
{
    SnapshotOp *op = s->op;

    snapshot_op_enter(SNAPSHOT_PHASE_DISKS_SNAPSHOT);
    s->ret = bdrv_all_create_snapshot(&s->sn, s->bs, size, op->has_devices,
                                      op->devices, &s->err);
    if (s->ret < 0) {
        bdrv_all_delete_snapshot(s->sn.name, op->has_devices, op->devices,
                                 NULL);
    }
}

static void snapshot_save_resume_vm(SnapshotSave *s)
{
    if (!s->vm_held) {
        return;
    }
    s->vm_held = false;
    snapshot_op_enter(SNAPSHOT_PHASE_RESUME);
    snapshot_guard_let_vm_go(s->op->no_resume ? NULL : vm_resume);
}

/* After this the result does not depend on a cancel any more */
static void snapshot_save_decide(SnapshotSave *s)
{
    if (!s->op->cancelled) {
        s->op->committed = s->ret == 0;
        return;
    }
    error_free(s->err);
    s->err = NULL;
    error_setg(&s->err, "Saving snapshot '%s' was cancelled",
               s->op->name ?: s->sn.name);
    s->ret = -ECANCELED;
}

static uint64_t snapshot_save_close(SnapshotSave *s)
{
    uint64_t size = 0;

    if (s->op->file) {
        snapshot_op_close(s->op);
    }
    snapshot_save_leave_core(s);
    if (s->file) {
        s->ret = snapshot_stream_close_output(s->file, s->ret, &size, &s->err);
    }
    return size;
}

/* Make what was written a snapshot, or take it back */
static void snapshot_save_conclude_space(SnapshotSave *s, uint64_t size)
{
    if (!s->space_begun) {
        return;
    }
    bdrv_drain_all_begin();
    if (s->ret == 0) {
        snapshot_save_create_snapshots(s, size);
    }
    snapshot_op_enter(SNAPSHOT_PHASE_CLEAN_UP);
    if (s->ret < 0) {
        snapshot_stream_release(s->bs);
    }
    bdrv_vmstate_end_save(s->bs);
    bdrv_drain_all_end();
}

static void snapshot_save_end(void *opaque)
{
    SnapshotSave *s = opaque;
    uint64_t size;

    snapshot_save_decide(s);
    size = snapshot_save_close(s);
    if (s->ret < 0) {
        /* The guest need not wait until the space is freed */
        snapshot_save_resume_vm(s);
    }
    snapshot_save_conclude_space(s, size);
    snapshot_save_resume_vm(s);

    snapshot_op_end(s->op, s->ret);
    bdrv_unref(s->bs);
}

static bool save_plainly(SnapshotOp *op, Error **errp)
{
    return save_snapshot(op->name, op->overwrite, op->vmstate, op->has_devices,
                         op->devices, errp);
}

int coroutine_fn snapshot_save_co(SnapshotOp *op, Error **errp)
{
    SnapshotSave s = { .op = op };

    if (!snapshot_use_engines()) {
        return snapshot_op_run_plainly(op, save_plainly, errp);
    }
    /* At once: the next command has to wait, also if it comes before the BH */
    if (!snapshot_op_begin(op, SNAPSHOT_OPERATION_SAVE, errp)) {
        return -EINVAL;
    }

    snapshot_co_call(snapshot_save_begin, &s);
    if (s.ret == 0) {
        snapshot_save_walk_ram(&s);
        snapshot_co_call(snapshot_save_device_state, &s);
    }
    if (s.file) {
        snapshot_op_enter(SNAPSHOT_PHASE_FLUSH);
        if (s.ret == 0) {
            s.ret = snapshot_stream_finish_output(s.file, &s.err);
        } else {
            snapshot_stream_drop_output(s.file);
        }
    }
    snapshot_co_call(snapshot_save_end, &s);

    error_propagate(errp, s.err);
    return s.ret;
}
