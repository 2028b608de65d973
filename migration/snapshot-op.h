/*
 * What saving a snapshot and reverting to one have in common
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * There is at most one operation at a time: snapshot-guard.h sees to that.
 * All functions belong to the main loop thread with the BQL.
 */

#ifndef MIGRATION_SNAPSHOT_OP_H
#define MIGRATION_SNAPSHOT_OP_H

#include "qapi/qapi-builtin-types.h"
#include "qapi/qapi-types-snapshot.h"
#include "qemu-file.h"

/**
 * SnapshotProgressFunc: The operation has got on
 *
 * @done, @total: guest RAM that was walked (save), or VM state that was read
 *                (load), in bytes.  @done never decreases and is @total in the
 *                end if the operation succeeds; @total never changes.
 *
 * Called in the main loop, outside coroutines or in one, ten times a second.
 */
typedef void SnapshotProgressFunc(void *opaque, uint64_t done, uint64_t total);

/**
 * SnapshotOp: one operation
 *
 * The caller sets the parameters and zeroes the rest, and keeps it until
 * snapshot_save_co() or snapshot_revert_co() has returned.
 */
typedef struct SnapshotOp {
    /* Parameters */
    const char *name;       /* NULL: made from the time; saves only */
    bool overwrite;         /* delete a snapshot of that name; saves only */
    const char *vmstate;    /* node that keeps the VM state; NULL for any */
    bool has_devices;
    strList *devices;
    SnapshotProgressFunc *progress; /* may be NULL */
    void *opaque;

    /* For those who carry it out */
    bool cancelled;         /* somebody wants it to end; atomic */
    bool committed;         /* too late for that; set by who carries it out */
    bool no_resume;         /* the VM shall not run again */

    /* Private to snapshot-op.c, but for @total */
    QEMUFile *file;         /* between snapshot_op_open() and _close() */
    uint64_t (*sample)(struct SnapshotOp *op);
    uint64_t done;
    uint64_t total;
    QEMUTimer *timer;
} SnapshotOp;

/**
 * snapshot_op_begin: @op becomes the one that is under way
 *
 * Its first phase is the one in which everything is looked at.
 *
 * Main loop thread, also in coroutines.  Returns false with @errp set if
 * another one is; else snapshot_op_end() must follow.
 */
bool snapshot_op_begin(SnapshotOp *op, SnapshotOperation operation,
                       Error **errp);

/**
 * snapshot_op_end: @op is over
 *
 * Outside coroutines.  @ret: 0 if it succeeded, else -errno.
 */
void snapshot_op_end(SnapshotOp *op, int ret);

/**
 * snapshot_op_set_name: The name that was made for the snapshot
 */
void snapshot_op_set_name(const char *name);

/**
 * snapshot_op_enter: A phase begins, and the one before it ends
 */
void snapshot_op_enter(SnapshotPhase phase);

/**
 * snapshot_op_open: The stream of @op is open
 *
 * @total: for SnapshotProgressFunc
 * @sample: tells how much of it is done
 */
void snapshot_op_open(SnapshotOp *op, QEMUFile *file, uint64_t total,
                      uint64_t (*sample)(SnapshotOp *op));

/**
 * snapshot_op_stop_sampling: @sample must not be called any more
 */
void snapshot_op_stop_sampling(SnapshotOp *op);

/**
 * snapshot_op_close: The stream of @op is about to be closed
 */
void snapshot_op_close(SnapshotOp *op);

/**
 * snapshot_op_run_plainly: Carry out @op in one call, without the engines
 *
 * @func: does it; called in the main loop, outside coroutines
 *
 * The monitor does not answer meanwhile, and there are no figures.  Coroutine
 * in the main loop's AioContext.  Returns 0, or -errno with @errp set.
 */
int coroutine_fn snapshot_op_run_plainly(SnapshotOp *op,
                                         bool (*func)(SnapshotOp *op,
                                                      Error **errp),
                                         Error **errp);

/**
 * snapshot_op_cancel: Let @op fail with -ECANCELED, without effect
 *
 * Returns at once: true if it will, false if it is too late for that.
 */
bool snapshot_op_cancel(SnapshotOp *op);

#endif /* MIGRATION_SNAPSHOT_OP_H */
