/*
 * Running parts of a snapshot operation where they may run
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/aio-wait.h"
#include "monitor/monitor.h"
#include "qemu/main-loop.h"
#include "system/cpus.h"
#include "snapshot-co.h"

typedef struct SnapshotCoCall {
    void (*fn)(void *opaque);
    void *opaque;
    Coroutine *co;
    Monitor *mon;
} SnapshotCoCall;

static void snapshot_co_call_bh(void *opaque)
{
    SnapshotCoCall *call = opaque;
    Monitor *mon;

    if (qemu_in_vcpu_thread()) {
        /* It polls for a request of its own; the VM cannot be stopped there */
        aio_bh_schedule_oneshot(qemu_get_aio_context(), snapshot_co_call_bh,
                                call);
        return;
    }
    mon = monitor_set_cur(qemu_coroutine_self(), call->mon);

    call->fn(call->opaque);
    monitor_set_cur(qemu_coroutine_self(), mon);
    aio_co_wake(call->co);
}

void coroutine_fn snapshot_co_call(void (*fn)(void *opaque), void *opaque)
{
    SnapshotCoCall call = {
        .fn = fn,
        .opaque = opaque,
        .co = qemu_coroutine_self(),
        .mon = monitor_cur(),
    };

    aio_bh_schedule_oneshot(qemu_get_aio_context(), snapshot_co_call_bh, &call);
    qemu_coroutine_yield();
}

typedef struct SnapshotCoRun {
    CoroutineEntry *entry;
    void *opaque;
    bool ended;
} SnapshotCoRun;

static void coroutine_fn snapshot_co_run_entry(void *opaque)
{
    SnapshotCoRun *run = opaque;

    run->entry(run->opaque);
    monitor_set_cur(qemu_coroutine_self(), NULL);
    run->ended = true;
    aio_wait_kick();
}

void snapshot_co_run(CoroutineEntry *entry, void *opaque)
{
    SnapshotCoRun run = {
        .entry = entry,
        .opaque = opaque,
    };
    Coroutine *co = qemu_coroutine_create(snapshot_co_run_entry, &run);

    GLOBAL_STATE_CODE();

    monitor_set_cur(co, monitor_cur());
    aio_co_enter(qemu_get_aio_context(), co);
    AIO_WAIT_WHILE_UNLOCKED(NULL, !run.ended);
}
