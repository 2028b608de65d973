/*
 * Running parts of a snapshot operation where they may run
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Saving and reverting are coroutines in the main loop, so that the monitor
 * answers while they wait.  Stopping the VM, draining, snapshotting disks and
 * the like must not run in a coroutine.
 */

#ifndef MIGRATION_SNAPSHOT_CO_H
#define MIGRATION_SNAPSHOT_CO_H

#include "qemu/coroutine.h"

/**
 * snapshot_co_call: Run @fn(@opaque) in the main loop, outside coroutines
 *
 * Called in a coroutine of the main loop's AioContext, and returns when @fn
 * has.  What @fn reports goes to the monitor that the coroutine belongs to.
 */
void coroutine_fn snapshot_co_call(void (*fn)(void *opaque), void *opaque);

/**
 * snapshot_co_run: Run @entry(@opaque) as a coroutine and wait until it ends
 *
 * Main loop thread with the BQL, outside coroutines.  Runs the block layer's
 * part of the main loop meanwhile; monitors do not answer.
 */
void snapshot_co_run(CoroutineEntry *entry, void *opaque);

#endif /* MIGRATION_SNAPSHOT_CO_H */
