/*
 * What saving a snapshot and reverting to one have in common
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/aio-wait.h"
#include "migration/snapshot-guard.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-snapshot.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "snapshot-co.h"
#include "snapshot-op.h"
#include "snapshot-params.h"
#include "snapshot-stream.h"
#include "trace.h"

#define SNAPSHOT_SAMPLE_MS 100

/* A shorter time with the stream says nothing about who waited for whom */
#define SNAPSHOT_LIMIT_MIN_NS (10 * SCALE_MS)

typedef struct SnapshotPhaseRecord {
    SnapshotPhase phase;
    int64_t start_ns;
    int64_t end_ns;         /* 0 as long as it lasts */
} SnapshotPhaseRecord;

/* The operation that is under way, or the last one.  Main loop only. */
static struct {
    SnapshotOp *op;         /* NULL if none is under way */
    bool valid;
    SnapshotOperation operation;
    SnapshotStatus status;
    char *name;
    int64_t start_ns;
    int64_t end_ns;         /* 0 as long as it lasts */
    uint64_t done;
    uint64_t total;
    GArray *phases;         /* of SnapshotPhaseRecord */
    bool has_stream;
    VmstateStreamStats stream;
} record;

/* Set once.  Main loop only. */
static bool shutting_down;

static void snapshot_op_show_progress(SnapshotOp *op, uint64_t done)
{
    op->done = MAX(op->done, MIN(done, op->total));
    if (record.op == op) {
        record.done = op->done;
    }
    if (op->progress) {
        op->progress(op->opaque, op->done, op->total);
    }
}

bool snapshot_op_cancel(SnapshotOp *op)
{
    GLOBAL_STATE_CODE();

    if (op->committed) {
        return false;
    }
    qatomic_set(&op->cancelled, true);
    if (op->file) {
        snapshot_stream_stop(op->file);
    }
    return true;
}

/* A revert cannot be taken back, but nobody needs the VM's memory now */
static void snapshot_op_give_up(SnapshotOp *op)
{
    op->no_resume = true;
    if (!snapshot_op_cancel(op) && op->file) {
        snapshot_stream_stop(op->file);
    }
}

static void snapshot_op_sample(void *opaque)
{
    SnapshotOp *op = opaque;

    if (snapshot_guard_qemu_is_ending()) {
        /* The main loop does not see it as long as savevm polls in a monitor */
        snapshot_op_give_up(op);
    }
    if (op->sample) {
        snapshot_op_show_progress(op, op->sample(op));
    }
    timer_mod(op->timer,
              qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + SNAPSHOT_SAMPLE_MS);
}

bool snapshot_op_begin(SnapshotOp *op, SnapshotOperation operation,
                       Error **errp)
{
    GLOBAL_STATE_CODE();

    if (shutting_down) {
        error_setg(errp, "QEMU is shutting down");
        return false;
    }
    if (!snapshot_guard_begin(operation == SNAPSHOT_OPERATION_SAVE ?
                              "saved" : "reverted to", errp)) {
        return false;
    }

    if (record.phases) {
        g_array_free(record.phases, true);
    }
    g_free(record.name);
    memset(&record, 0, sizeof(record));
    record.op = op;
    record.valid = true;
    record.operation = operation;
    record.status = SNAPSHOT_STATUS_RUNNING;
    record.name = g_strdup(op->name);
    record.start_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    record.phases = g_array_new(false, false, sizeof(SnapshotPhaseRecord));
    trace_snapshot_begin(SnapshotOperation_str(operation), op->name ?: "");
    snapshot_op_enter(SNAPSHOT_PHASE_CHECK);
    return true;
}

static void snapshot_op_end_phase(int64_t now)
{
    SnapshotPhaseRecord *last;

    if (!record.phases->len) {
        return;
    }
    last = &g_array_index(record.phases, SnapshotPhaseRecord,
                          record.phases->len - 1);
    last->end_ns = now;
    trace_snapshot_phase(SnapshotPhase_str(last->phase),
                         (last->end_ns - last->start_ns) / SCALE_US);
}

void snapshot_op_enter(SnapshotPhase phase)
{
    SnapshotPhaseRecord next = {
        .phase = phase,
        .start_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME),
    };

    snapshot_op_end_phase(next.start_ns);
    g_array_append_val(record.phases, next);
}

void snapshot_op_end(SnapshotOp *op, int ret)
{
    GLOBAL_STATE_CODE();
    assert(record.op == op && !op->file);

    record.end_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    snapshot_op_end_phase(record.end_ns);
    if (ret == 0) {
        record.status = SNAPSHOT_STATUS_COMPLETED;
        snapshot_op_show_progress(op, op->total);
    } else if (ret == -ECANCELED) {
        record.status = SNAPSHOT_STATUS_CANCELLED;
    } else {
        record.status = SNAPSHOT_STATUS_FAILED;
    }
    record.op = NULL;
    trace_snapshot_end(SnapshotStatus_str(record.status),
                       (record.end_ns - record.start_ns) / SCALE_US);
    snapshot_guard_end();
    aio_wait_kick();
}

void snapshot_op_set_name(const char *name)
{
    g_free(record.name);
    record.name = g_strdup(name);
}

void snapshot_op_open(SnapshotOp *op, QEMUFile *file, uint64_t total,
                      uint64_t (*sample)(SnapshotOp *op))
{
    op->file = file;
    op->total = total;
    op->sample = sample;
    record.total = total;
    /* Of this context, so that it also fires where savevm polls in a monitor */
    op->timer = aio_timer_new(qemu_get_aio_context(), QEMU_CLOCK_REALTIME,
                              SCALE_MS, snapshot_op_sample, op);
    snapshot_op_sample(op);
}

void snapshot_op_stop_sampling(SnapshotOp *op)
{
    op->sample = NULL;
}

void snapshot_op_close(SnapshotOp *op)
{
    record.has_stream = snapshot_stream_get_stats(op->file, &record.stream);
    op->file = NULL;
    g_clear_pointer(&op->timer, timer_free);
}

typedef struct SnapshotPlainRun {
    SnapshotOp *op;
    bool (*func)(SnapshotOp *op, Error **errp);
    bool ok;
    Error *err;
} SnapshotPlainRun;

static void snapshot_op_run_plainly_cb(void *opaque)
{
    SnapshotPlainRun *run = opaque;
    SnapshotOp *op = run->op;

    if (op->cancelled || shutting_down) {
        error_setg(&run->err, "Ended before it began");
        return;
    }
    op->committed = true;
    op->total = 1;
    snapshot_op_show_progress(op, 0);
    run->ok = run->func(op, &run->err);
    if (run->ok) {
        snapshot_op_show_progress(op, 1);
    }
}

int coroutine_fn snapshot_op_run_plainly(SnapshotOp *op,
                                         bool (*func)(SnapshotOp *op,
                                                      Error **errp),
                                         Error **errp)
{
    SnapshotPlainRun run = {
        .op = op,
        .func = func,
    };

    snapshot_co_call(snapshot_op_run_plainly_cb, &run);
    error_propagate(errp, run.err);
    if (run.ok) {
        return 0;
    }
    return op->cancelled ? -ECANCELED : -EINVAL;
}

void snapshot_shutdown(void)
{
    SnapshotOp *op = record.op;

    GLOBAL_STATE_CODE();

    /* An operation may have been asked for whose turn has not come yet */
    shutting_down = true;
    if (!op) {
        return;
    }
    snapshot_op_give_up(op);
    AIO_WAIT_WHILE_UNLOCKED(NULL, record.op);
}

static SnapshotPhaseTimeList *snapshot_stats_phases(int64_t now)
{
    SnapshotPhaseTimeList *phases = NULL, **tail = &phases;

    for (unsigned i = 0; i < record.phases->len; i++) {
        SnapshotPhaseRecord *p = &g_array_index(record.phases,
                                                SnapshotPhaseRecord, i);
        SnapshotPhaseTime *time = g_new(SnapshotPhaseTime, 1);

        time->phase = p->phase;
        time->time = ((p->end_ns ?: now) - p->start_ns) / SCALE_US;
        QAPI_LIST_APPEND(tail, time);
    }
    return phases;
}

/* How long a phase has taken so far, in nanoseconds; 0 if it has not begun */
static int64_t snapshot_stats_phase_ns(SnapshotPhase phase, int64_t now)
{
    for (unsigned i = 0; i < record.phases->len; i++) {
        SnapshotPhaseRecord *p = &g_array_index(record.phases,
                                                SnapshotPhaseRecord, i);

        if (p->phase == phase) {
            return (p->end_ns ?: now) - p->start_ns;
        }
    }
    return 0;
}

static SnapshotStreamStats *snapshot_stats_stream(const VmstateStreamStats *in,
                                                  int64_t now)
{
    /* Nothing is done in this one but to wait for storage */
    int64_t flush_ns = snapshot_stats_phase_ns(SNAPSHOT_PHASE_FLUSH, now);
    int64_t work_ns = snapshot_stats_phase_ns(SNAPSHOT_PHASE_RAM, now) +
                      snapshot_stats_phase_ns(SNAPSHOT_PHASE_STATE, now) +
                      flush_ns;
    SnapshotStreamStats *out = g_new0(SnapshotStreamStats, 1);

    out->bytes = in->bytes;
    out->requests = in->requests;
    out->max_request = in->max_request;
    out->max_in_flight = in->max_in_flight;
    out->buffer_bytes = in->buffer_bytes;
    out->stalls = in->stalls;
    out->stall_time = in->stall_ns / SCALE_US;
    out->storage_stalls = in->storage_stalls;
    out->storage_stall_time = in->storage_stall_ns / SCALE_US;
    out->storage_time = in->storage_ns / SCALE_US;
    if (in->requests) {
        out->latency = g_new(SnapshotLatency, 1);
        out->latency->p50 = vmstate_stats_latency(in, 50) / SCALE_US;
        out->latency->p90 = vmstate_stats_latency(in, 90) / SCALE_US;
        out->latency->p99 = vmstate_stats_latency(in, 99) / SCALE_US;
        out->latency->max = in->max_latency_ns / SCALE_US;
    }
    out->has_limit = work_ns >= SNAPSHOT_LIMIT_MIN_NS;
    out->limit = in->stall_ns + flush_ns > work_ns / 2
                 ? SNAPSHOT_LIMIT_STORAGE : SNAPSHOT_LIMIT_GUEST_MEMORY;
    return out;
}

SnapshotStats *qmp_x_query_snapshot_stats(Error **errp)
{
    int64_t now = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    SnapshotStats *stats;

    if (!record.valid) {
        error_setg(errp, "No snapshot has been saved or reverted to yet");
        return NULL;
    }
    if (record.op && record.op->file) {
        record.has_stream = snapshot_stream_get_stats(record.op->file,
                                                      &record.stream);
    }

    stats = g_new0(SnapshotStats, 1);
    stats->operation = record.operation;
    stats->tag = g_strdup(record.name);
    stats->status = record.status;
    stats->done = record.done;
    stats->total = record.total;
    stats->time = ((record.end_ns ?: now) - record.start_ns) / SCALE_US;
    stats->phases = snapshot_stats_phases(now);
    if (record.has_stream) {
        stats->stream = snapshot_stats_stream(&record.stream, now);
    }
    return stats;
}
