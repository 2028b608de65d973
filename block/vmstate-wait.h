/*
 * How the user of a VM state stream waits for the stream's coroutine
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef BLOCK_VMSTATE_WAIT_H
#define BLOCK_VMSTATE_WAIT_H

#include "block/aio.h"
#include "qemu/coroutine.h"
#include "qemu/thread.h"

/**
 * VmstateWait: one lock, and one party that waits for a condition under it
 *
 * The party is the producer or the consumer of a stream.  It runs in the main
 * loop, in a coroutine, or in a thread of its own, and must wait differently
 * in each: see vmstate_wait().
 */
typedef struct VmstateWait {
    /* Constant after vmstate_wait_init() */
    AioContext *ctx;        /* where the other side runs */

    QemuMutex lock;

    /* Protected by @lock */
    QemuCond cond;
    Coroutine *co;          /* the waiting party, if it is a coroutine */
} VmstateWait;

/* Evaluated with the lock held, possibly many times */
typedef bool VmstateWaitCond(void *opaque);

void vmstate_wait_init(VmstateWait *wait, AioContext *ctx);
void vmstate_wait_destroy(VmstateWait *wait);

/*
 * Wait until @cond(@opaque) is true.  Called with the lock held, which is
 * released while waiting; nothing happens between the last evaluation of @cond
 * and the return.
 *
 * Outside coroutines, in the main loop or in the home thread of the context,
 * runs the event loop.  In a coroutine, yields.  Elsewhere, sleeps, and the
 * BQL must not be held: the loop that makes @cond true may need it.
 *
 * Returns for how long this waited, in nanoseconds; 0 only if it did not.
 */
int64_t coroutine_mixed_fn vmstate_wait(VmstateWait *wait,
                                        VmstateWaitCond *cond, void *opaque);

/*
 * Make the waiting party look at its condition again.  Called with the lock
 * held, and releases it: a coroutine that waits may be entered at once, on
 * the caller's stack.
 */
void vmstate_wait_kick_and_unlock(VmstateWait *wait);

#endif /* BLOCK_VMSTATE_WAIT_H */
