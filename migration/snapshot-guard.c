/*
 * What must not happen while a snapshot is saved or reverted to
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/block.h"
#include "block/blockjob.h"
#include "block/export.h"
#include "migration/snapshot-guard.h"
#include "monitor/monitor.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-block-export.h"
#include "qemu/atomic.h"
#include "qemu/ctype.h"
#include "qemu/job.h"
#include "qemu/main-loop.h"
#include "system/block-backend.h"
#include "system/runstate.h"
#include "system/runstate-action.h"

static struct {
    /* Written in the main loop, read in any thread; NULL if nothing is done */
    const char *doing;

    /* Main loop only */
    bool holds_vm;
    RunState state;         /* of the VM, before it was held */
    RunState asked_for;     /* by somebody meanwhile, or RUN_STATE__MAX */
    GSList *paused_jobs;    /* of BlockJob; a reference each */
    GSList *drained_nodes;  /* of BlockDriverState; a reference each */
} guard;

/*
 * Commands that look, or that have to do with jobs, monitors and traces only.
 * Everything else is refused, also what a later QEMU adds: a command that has
 * to wait for once does less harm than one that spoils a snapshot.
 */
static const char *const allowed_qmp_prefixes[] = {
    "query-",
    "x-query-",
    "trace-event-",
};

static const char *const allowed_qmp[] = {
    "add_client",
    "block-job-set-speed",
    "client_migrate_info",
    "closefd",
    "device-list-properties",
    "expire_password",
    "getfd",
    "human-monitor-command",
    "job-cancel",
    "job-dismiss",
    "memsave",
    "pmemsave",
    "qmp_capabilities",
    "qom-get",
    "qom-list",
    "qom-list-properties",
    "qom-list-types",
    "quit",
    "screendump",
    "set_password",
    "stop",
    "yank",
};

static const char *const allowed_hmp[] = {
    "?",
    "help",
    "info",
    "log",
    "logfile",
    "memsave",
    "p",
    "pmemsave",
    "print",
    "q",
    "qom-get",
    "qom-list",
    "quit",
    "s",
    "screendump",
    "stop",
    "sum",
    "trace-event",
    "trace-file",
    "x",
    "xp",
};

static bool is_one_of(const char *name, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!strcmp(name, names[i])) {
            return true;
        }
    }
    return false;
}

static bool snapshot_guard_refuse(const char *doing, const char *name,
                                  Error **errp)
{
    error_setg(errp, "Command '%s' has to wait: a snapshot is being %s", name,
               doing);
    return false;
}

bool snapshot_guard_allows_qmp(const char *name, Error **errp)
{
    const char *doing = qatomic_read(&guard.doing);

    if (!doing || is_one_of(name, allowed_qmp, ARRAY_SIZE(allowed_qmp))) {
        return true;
    }
    for (size_t i = 0; i < ARRAY_SIZE(allowed_qmp_prefixes); i++) {
        if (g_str_has_prefix(name, allowed_qmp_prefixes[i])) {
            return true;
        }
    }
    return snapshot_guard_refuse(doing, name, errp);
}

bool snapshot_guard_allows_cancel(Job *job, Error **errp)
{
    if (!guard.doing || job_type(job) == JOB_TYPE_SNAPSHOT_SAVE ||
        job_type(job) == JOB_TYPE_SNAPSHOT_LOAD) {
        return true;
    }
    error_setg(errp, "Cancelling job '%s' has to wait: a snapshot is being %s",
               job->id, guard.doing);
    return false;
}

bool snapshot_guard_allows_hmp(Monitor *mon, const char *cmdline)
{
    const char *doing = qatomic_read(&guard.doing);
    g_autofree char *name = NULL;
    Error *err = NULL;

    if (!doing) {
        return true;
    }
    while (qemu_isspace(*cmdline)) {
        cmdline++;
    }
    /* As in "x/10i $pc" */
    name = g_strndup(cmdline, strcspn(cmdline, " \t/"));
    if (is_one_of(name, allowed_hmp, ARRAY_SIZE(allowed_hmp))) {
        return true;
    }
    snapshot_guard_refuse(doing, name, &err);
    monitor_printf(mon, "Error: %s\n", error_get_pretty(err));
    error_free(err);
    return false;
}

/*
 * Not allowed is what continues, and what changes registers or RAM:
 * breakpoints, too, may be bytes in RAM.  When gdb detaches the VM is to run,
 * which is put off.
 */
bool snapshot_guard_allows_gdb(const char *packet)
{
    if (!snapshot_in_progress() || !packet[0]) {
        return true;
    }
    return !strchr("CFGMPSXZbcsz", packet[0]) &&
           !g_str_has_prefix(packet, "vCont;");
}

static void snapshot_guard_pause_block_jobs(void)
{
    BlockJob *job;

    JOB_LOCK_GUARD();
    for (job = block_job_next_locked(NULL); job;
         job = block_job_next_locked(job)) {
        job_ref_locked(&job->job);
        job_pause_locked(&job->job);
        guard.paused_jobs = g_slist_prepend(guard.paused_jobs, job);
    }
}

static void snapshot_guard_resume_block_jobs(void)
{
    JOB_LOCK_GUARD();
    while (guard.paused_jobs) {
        BlockJob *job = guard.paused_jobs->data;

        job_resume_locked(&job->job);
        job_unref_locked(&job->job);
        guard.paused_jobs = g_slist_delete_link(guard.paused_jobs,
                                                guard.paused_jobs);
    }
}

bool snapshot_guard_begin(const char *doing, Error **errp)
{
    GLOBAL_STATE_CODE();

    if (guard.doing) {
        error_setg(errp, "Another snapshot is being %s", guard.doing);
        return false;
    }
    qatomic_set(&guard.doing, doing);
    snapshot_guard_pause_block_jobs();
    return true;
}

void snapshot_guard_end(void)
{
    GLOBAL_STATE_CODE();
    assert(guard.doing && !guard.holds_vm);

    qatomic_set(&guard.doing, NULL);
    snapshot_guard_resume_block_jobs();
    /* The main loop has held back resets and the like */
    qemu_notify_event();
}

bool snapshot_in_progress(void)
{
    return qatomic_read(&guard.doing);
}

bool snapshot_guard_qemu_is_ending(void)
{
    if (shutdown_action == SHUTDOWN_ACTION_PAUSE) {
        return false;
    }
    switch (qemu_shutdown_requested_get()) {
    case SHUTDOWN_CAUSE_HOST_ERROR:
    case SHUTDOWN_CAUSE_HOST_QMP_QUIT:
    case SHUTDOWN_CAUSE_HOST_SIGNAL:
    case SHUTDOWN_CAUSE_HOST_UI:
        return true;
    default:
        return false;
    }
}

bool snapshot_guard_holds_requests(void)
{
    return guard.holds_vm && !snapshot_guard_qemu_is_ending();
}

static void snapshot_guard_drain_node(BlockDriverState *bs)
{
    bdrv_ref(bs);
    bdrv_drained_begin(bs);
    guard.drained_nodes = g_slist_prepend(guard.drained_nodes, bs);
}

/*
 * What clients write meanwhile would get into the snapshot, or survive the
 * revert.  They wait, as they do where the main loop does nothing else.
 */
static void snapshot_guard_drain_exports(void)
{
    BlockExportInfoList *exports = qmp_query_block_exports(&error_abort);

    for (BlockExportInfoList *e = exports; e; e = e->next) {
        /* One that is shut down may go while another one is drained */
        BlockExport *exp = blk_exp_find(e->value->id);
        uint64_t perm, shared;

        if (!exp || !blk_bs(exp->blk)) {
            continue;
        }
        blk_get_perm(exp->blk, &perm, &shared);
        if (perm & BLK_PERM_WRITE) {
            snapshot_guard_drain_node(blk_bs(exp->blk));
        }
    }
    qapi_free_BlockExportInfoList(exports);
}

static void snapshot_guard_undrain_exports(void)
{
    while (guard.drained_nodes) {
        BlockDriverState *bs = guard.drained_nodes->data;

        bdrv_drained_end(bs);
        bdrv_unref(bs);
        guard.drained_nodes = g_slist_delete_link(guard.drained_nodes,
                                                  guard.drained_nodes);
    }
}

void snapshot_guard_hold_vm(RunState state)
{
    GLOBAL_STATE_CODE();
    assert(guard.doing && !guard.holds_vm);

    guard.holds_vm = true;
    guard.state = state;
    /* Such as by a vCPU that panicked while it was being stopped */
    qemu_vmstop_requested(&guard.asked_for);
    snapshot_guard_drain_exports();
}

void snapshot_guard_let_vm_go(void (*resume)(RunState state))
{
    GLOBAL_STATE_CODE();
    assert(guard.holds_vm);

    guard.holds_vm = false;
    snapshot_guard_undrain_exports();
    if (!resume) {
        return;
    }
    if (guard.asked_for == RUN_STATE__MAX) {
        resume(guard.state);
    } else if (runstate_is_live(guard.asked_for)) {
        resume(guard.state);
        vm_start();
    } else if (runstate_is_live(guard.state)) {
        /*
         * Everybody is told that it runs and that it stops, but no vCPU gets to
         * execute anything in between.
         */
        vm_prepare_start(false);
        vm_stop(guard.asked_for);
    } else {
        resume(guard.state);
    }
}

void snapshot_guard_forget_stop(void)
{
    GLOBAL_STATE_CODE();
    assert(guard.holds_vm);

    /* Somebody who wants the VM to stop means whatever runs in it */
    if (guard.asked_for != RUN_STATE_PAUSED) {
        guard.asked_for = RUN_STATE__MAX;
    }
}

bool snapshot_guard_postpones(RunState state)
{
    if (guard.holds_vm) {
        guard.asked_for = state;
    }
    return guard.holds_vm;
}
