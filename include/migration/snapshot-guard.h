/*
 * What must not happen while a snapshot is saved or reverted to
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The monitor answers while a snapshot operation is under way.  A command that
 * would change the VM's devices, memory or block graph, or that gets at the
 * migration core, which the operation uses, is refused.  Whoever starts or
 * stops the VM otherwise gets it when the operation is over.  None of this
 * looks at the run state: the VM may have been stopped by somebody else before.
 */

#ifndef QEMU_MIGRATION_SNAPSHOT_GUARD_H
#define QEMU_MIGRATION_SNAPSHOT_GUARD_H

#include "qapi/qapi-types-run-state.h"
#include "qemu/job.h"

/**
 * snapshot_guard_begin: A snapshot operation begins
 *
 * @doing: what is being done, such as "saved"; a static string
 *
 * Pauses the block jobs there are, until snapshot_guard_end(): the block layer
 * is not drained all the time, and a job that ended could change the graph.
 *
 * Main loop thread with the BQL.  Returns false with @errp set if another
 * operation is under way.
 */
bool snapshot_guard_begin(const char *doing, Error **errp);

/**
 * snapshot_guard_end: The operation is over, everything is allowed again
 *
 * The VM must not be held any more.  Main loop thread with the BQL.
 */
void snapshot_guard_end(void);

/**
 * snapshot_in_progress: Is an operation under way?
 *
 * Any thread.
 */
bool snapshot_in_progress(void);

/**
 * snapshot_guard_qemu_is_ending: Has somebody outside asked QEMU to end?
 *
 * By quit, a signal or a window that was closed; not the guest.
 *
 * Main loop thread.
 */
bool snapshot_guard_qemu_is_ending(void);

/**
 * snapshot_guard_holds_requests: Do requests for a reset and the like wait?
 *
 * Main loop thread.
 */
bool snapshot_guard_holds_requests(void);

/**
 * snapshot_guard_hold_vm: From now on the VM stays stopped
 *
 * @state: the run state that it was in
 *
 * Clients of exports that may write wait as well: their nodes are drained.
 *
 * Main loop thread with the BQL, outside coroutines.
 */
void snapshot_guard_hold_vm(RunState state);

/**
 * snapshot_guard_let_vm_go: The VM is not held any more
 *
 * @resume: called with the run state that it was in; NULL if it shall stay as
 *          it is.  If somebody has asked for another state meanwhile, the VM
 *          gets that; when it is to be stopped, it executes nothing before.
 *
 * Main loop thread with the BQL, outside coroutines.
 */
void snapshot_guard_let_vm_go(void (*resume)(RunState state));

/**
 * snapshot_guard_forget_stop: Another guest takes the place of the old one
 *
 * What the old one ran into while it was being stopped, such as an I/O error,
 * does not concern it.
 *
 * Main loop thread with the BQL, while the VM is held.
 */
void snapshot_guard_forget_stop(void);

/**
 * snapshot_guard_postpones: Is the VM held, so that it cannot be in @state now?
 *
 * If so, it will be in @state when it is not held any more.
 *
 * Main loop thread with the BQL.
 */
bool snapshot_guard_postpones(RunState state);

/**
 * snapshot_guard_allows_qmp: May QMP command @name be executed now?
 *
 * Any thread.  Returns false with @errp set if it has to wait.
 */
bool snapshot_guard_allows_qmp(const char *name, Error **errp);

/**
 * snapshot_guard_allows_cancel: May @job be cancelled now?
 *
 * Only the operation's own job may: another one's end would change the graph.
 *
 * Main loop thread, with the job lock.  Returns false with @errp set if it
 * has to wait.
 */
bool snapshot_guard_allows_cancel(Job *job, Error **errp);

/**
 * snapshot_guard_allows_hmp: May HMP command line @cmdline be executed now?
 *
 * If not, tells so on @mon.  Main loop thread.
 */
bool snapshot_guard_allows_hmp(Monitor *mon, const char *cmdline);

/**
 * snapshot_guard_allows_gdb: May gdbstub carry out @packet now?
 *
 * Main loop thread.
 */
bool snapshot_guard_allows_gdb(const char *packet);

/**
 * snapshot_shutdown: End the operation that is under way, if any
 *
 * A save is cancelled; a revert fails.  The VM does not run again.
 *
 * Main loop thread with the BQL, outside coroutines.
 */
void snapshot_shutdown(void);

#endif /* QEMU_MIGRATION_SNAPSHOT_GUARD_H */
