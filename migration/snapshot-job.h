/*
 * QMP jobs that save a snapshot or revert to one
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_SNAPSHOT_JOB_H
#define MIGRATION_SNAPSHOT_JOB_H

#include "qemu/job.h"
#include "snapshot-op.h"

/**
 * SnapshotJob: snapshot-save, snapshot-load or snapshot-delete
 */
typedef struct SnapshotJob {
    Job common;

    /* Parameters; owned */
    char *tag;
    char *vmstate;
    strList *devices;

    /* Of a save or a revert; main loop only */
    SnapshotOp op;
    bool has_total;         /* @common was told how much there is to do */
    uint64_t done;          /* @common was told so */

    /* Of a delete */
    Coroutine *co;
    Error **errp;
    bool ret;
} SnapshotJob;

/* JobDriver::run of snapshot-save and snapshot-load */
int coroutine_fn snapshot_job_run_save(Job *job, Error **errp);
int coroutine_fn snapshot_job_run_load(Job *job, Error **errp);

/**
 * snapshot_job_cancel: JobDriver::cancel of snapshot-save and snapshot-load
 *
 * Without effect once the result is certain: after the last byte has been
 * written (save), or the first disk has been reverted (load).
 */
bool snapshot_job_cancel(Job *job, bool force);

/* JobDriver::free of all three */
void snapshot_job_free(Job *job);

#endif /* MIGRATION_SNAPSHOT_JOB_H */
