/*
 * QMP jobs that save a snapshot or revert to one
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/qapi-builtin-types.h"
#include "snapshot-job.h"
#include "snapshot-revert.h"
#include "snapshot-save.h"

static SnapshotJob *snapshot_job_from(Job *job)
{
    return container_of(job, SnapshotJob, common);
}

static void snapshot_job_progress(void *opaque, uint64_t done, uint64_t total)
{
    SnapshotJob *s = opaque;

    if (!s->has_total) {
        job_progress_set_remaining(&s->common, total);
        s->has_total = true;
    }
    job_progress_update(&s->common, done - s->done);
    s->done = done;
}

static void snapshot_job_set_op(SnapshotJob *s)
{
    s->op.name = s->tag;
    s->op.vmstate = s->vmstate;
    s->op.has_devices = true;
    s->op.devices = s->devices;
    s->op.progress = snapshot_job_progress;
    s->op.opaque = s;
}

int coroutine_fn snapshot_job_run_save(Job *job, Error **errp)
{
    SnapshotJob *s = snapshot_job_from(job);

    snapshot_job_set_op(s);
    return snapshot_save_co(&s->op, errp);
}

int coroutine_fn snapshot_job_run_load(Job *job, Error **errp)
{
    SnapshotJob *s = snapshot_job_from(job);

    snapshot_job_set_op(s);
    return snapshot_revert_co(&s->op, errp);
}

bool snapshot_job_cancel(Job *job, bool force)
{
    return snapshot_op_cancel(&snapshot_job_from(job)->op);
}

void snapshot_job_free(Job *job)
{
    SnapshotJob *s = snapshot_job_from(job);

    g_free(s->tag);
    g_free(s->vmstate);
    qapi_free_strList(s->devices);
}
