/*
 * HMP commands of snapshots
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/aio.h"
#include "chardev/char-fe.h"
#include "chardev/chardev-internal.h"
#include "monitor/hmp.h"
#include "monitor/monitor-internal.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-job.h"
#include "qapi/qapi-commands-snapshot.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "snapshot-co.h"
#include "snapshot-hmp-cmds.h"
#include "snapshot-revert.h"
#include "snapshot-save.h"

typedef int coroutine_fn SnapshotCoFunc(SnapshotOp *op, Error **errp);

typedef struct SnapshotHmp {
    SnapshotOp op;
    SnapshotCoFunc *func;
    const char *doing;
    char *name;
    Monitor *mon;
    bool suspended;         /* the monitor waits for this */
} SnapshotHmp;

/* Does a person watch, on a terminal that can rewrite a line? */
static bool snapshot_hmp_is_terminal(Monitor *mon)
{
    Chardev *chr = qemu_chr_fe_get_driver(&mon->chr);

    if (!chr || !container_of(mon, MonitorHMP, common)->use_readline) {
        return false;
    }
    if (CHARDEV_IS_MUX(chr)) {
        chr = qemu_chr_fe_get_driver(&MUX_CHARDEV(chr)->chr);
    }
    return object_dynamic_cast(OBJECT(chr), TYPE_CHARDEV_STDIO) &&
           isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
}

static void snapshot_hmp_progress(void *opaque, uint64_t done, uint64_t total)
{
    SnapshotHmp *h = opaque;

    monitor_printf(h->mon, "\r\033[K%s: %u %% (%" PRIu64 " of %" PRIu64
                   " MiB)", h->doing,
                   (unsigned)(total ? done * 100 / total : 100),
                   done / MiB, total / MiB);
}

static void coroutine_fn snapshot_hmp_entry(void *opaque)
{
    SnapshotHmp *h = opaque;
    Error *err = NULL;

    h->func(&h->op, &err);

    if (h->op.progress) {
        monitor_printf(h->mon, "\r\033[K");
    }
    hmp_handle_error(h->mon, err);
    if (h->suspended) {
        monitor_set_cur(qemu_coroutine_self(), NULL);
        monitor_resume(h->mon);
    }
    g_free(h->name);
    g_free(h);
}

static void snapshot_hmp_run(Monitor *mon, const char *name, bool overwrite,
                             SnapshotCoFunc *func, const char *doing)
{
    SnapshotHmp *h = g_new0(SnapshotHmp, 1);
    Coroutine *co;

    h->func = func;
    h->doing = doing;
    h->mon = mon;
    h->name = g_strdup(name);
    h->op.name = h->name;
    h->op.overwrite = overwrite;

    /*
     * human-monitor-command answers with what is printed until it returns.  A
     * program that sends commands through a socket and hangs up must not lose
     * those that have not been read, as it would if the monitor were suspended.
     */
    if (!snapshot_hmp_is_terminal(mon) || monitor_suspend(mon) < 0) {
        snapshot_co_run(snapshot_hmp_entry, h);
        return;
    }
    h->suspended = true;
    h->op.progress = snapshot_hmp_progress;
    h->op.opaque = h;
    co = qemu_coroutine_create(snapshot_hmp_entry, h);
    monitor_set_cur(co, mon);
    aio_co_enter(qemu_get_aio_context(), co);
}

void snapshot_hmp_save(Monitor *mon, const char *name)
{
    snapshot_hmp_run(mon, name, true, snapshot_save_co, "Saving");
}

void snapshot_hmp_load(Monitor *mon, const char *name)
{
    snapshot_hmp_run(mon, name, false, snapshot_revert_co, "Reverting");
}

void hmp_info_jobs(Monitor *mon, const QDict *qdict)
{
    Error *err = NULL;
    JobInfoList *jobs = qmp_query_jobs(&err);

    if (hmp_handle_error(mon, err)) {
        return;
    }
    if (!jobs) {
        monitor_printf(mon, "No jobs\n");
    }
    for (JobInfoList *j = jobs; j; j = j->next) {
        JobInfo *info = j->value;

        monitor_printf(mon, "%s: %s, %s, %" PRId64 " of %" PRId64 " bytes",
                       info->id, JobType_str(info->type),
                       JobStatus_str(info->status), info->current_progress,
                       info->total_progress);
        if (info->error) {
            monitor_printf(mon, ", error: %s", info->error);
        }
        monitor_printf(mon, "\n");
    }
    qapi_free_JobInfoList(jobs);
}

static void snapshot_hmp_print_stream(Monitor *mon, SnapshotStreamStats *s)
{
    monitor_printf(mon, "stream: %" PRIu64 " bytes in %" PRIu64 " requests of "
                   "at most %" PRIu64 " bytes, %" PRIu32 " at a time\n",
                   s->bytes, s->requests, s->max_request, s->max_in_flight);
    monitor_printf(mon, "buffers: %" PRIu64 " bytes\n", s->buffer_bytes);
    if (s->latency) {
        monitor_printf(mon, "request latency: p50 %" PRIu64 " us, p90 %" PRIu64
                       " us, p99 %" PRIu64 " us, max %" PRIu64 " us\n",
                       s->latency->p50, s->latency->p90, s->latency->p99,
                       s->latency->max);
    }
    monitor_printf(mon, "waited for storage: %" PRIu64 " times, %" PRIu64
                   " us\n", s->stalls, s->stall_time);
    monitor_printf(mon, "storage waited: %" PRIu64 " times, %" PRIu64 " us\n",
                   s->storage_stalls, s->storage_stall_time);
    if (s->has_limit) {
        monitor_printf(mon, "limited by: %s\n", SnapshotLimit_str(s->limit));
    }
}

void hmp_info_snapshot_stats(Monitor *mon, const QDict *qdict)
{
    Error *err = NULL;
    SnapshotStats *s = qmp_x_query_snapshot_stats(&err);

    if (hmp_handle_error(mon, err)) {
        return;
    }
    monitor_printf(mon, "%s '%s': %s, %" PRIu64 " us, %" PRIu64 " of %" PRIu64
                   " bytes\n", SnapshotOperation_str(s->operation),
                   s->tag ?: "", SnapshotStatus_str(s->status), s->time,
                   s->done, s->total);
    for (SnapshotPhaseTimeList *p = s->phases; p; p = p->next) {
        monitor_printf(mon, "  %-15s %10" PRIu64 " us\n",
                       SnapshotPhase_str(p->value->phase), p->value->time);
    }
    if (s->stream) {
        snapshot_hmp_print_stream(mon, s->stream);
    }
    qapi_free_SnapshotStats(s);
}
