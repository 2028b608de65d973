/*
 * How the user of a VM state stream waits for the stream's coroutine
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "block/aio-wait.h"
#include "vmstate-wait.h"

void vmstate_wait_init(VmstateWait *wait, AioContext *ctx)
{
    wait->ctx = ctx;
    wait->co = NULL;
    qemu_mutex_init(&wait->lock);
    qemu_cond_init(&wait->cond);
}

void vmstate_wait_destroy(VmstateWait *wait)
{
    assert(!wait->co);
    qemu_cond_destroy(&wait->cond);
    qemu_mutex_destroy(&wait->lock);
}

/* Leaves the lock held if the condition is true */
static bool vmstate_wait_test_and_lock(VmstateWait *wait,
                                       VmstateWaitCond *cond, void *opaque)
{
    qemu_mutex_lock(&wait->lock);
    if (cond(opaque)) {
        return true;
    }
    qemu_mutex_unlock(&wait->lock);
    return false;
}

static void coroutine_fn vmstate_wait_yield(VmstateWait *wait)
{
    assert(!wait->co);
    wait->co = qemu_coroutine_self();
    qemu_mutex_unlock(&wait->lock);
    /*
     * A kick from another thread may come before the yield.  It only schedules
     * this coroutine in its own AioContext, which cannot run before.
     */
    qemu_coroutine_yield();
    qemu_mutex_lock(&wait->lock);
}

static bool vmstate_wait_can_poll(VmstateWait *wait)
{
    return in_aio_context_home_thread(wait->ctx) ||
           qemu_get_current_aio_context() == qemu_get_aio_context();
}

int64_t coroutine_mixed_fn vmstate_wait(VmstateWait *wait,
                                        VmstateWaitCond *cond, void *opaque)
{
    int64_t start_ns;

    if (cond(opaque)) {
        return 0;
    }

    start_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    if (qemu_in_coroutine()) {
        do {
            vmstate_wait_yield(wait);
        } while (!cond(opaque));
    } else if (vmstate_wait_can_poll(wait)) {
        qemu_mutex_unlock(&wait->lock);
        AIO_WAIT_WHILE_UNLOCKED(wait->ctx,
                                !vmstate_wait_test_and_lock(wait, cond,
                                                            opaque));
    } else {
        assert(!bql_locked());
        do {
            qemu_cond_wait(&wait->cond, &wait->lock);
        } while (!cond(opaque));
    }
    return MAX(qemu_clock_get_ns(QEMU_CLOCK_REALTIME) - start_ns, 1);
}

void vmstate_wait_kick_and_unlock(VmstateWait *wait)
{
    Coroutine *co = g_steal_pointer(&wait->co);

    qemu_cond_signal(&wait->cond);
    qemu_mutex_unlock(&wait->lock);

    /* For a party that polls; costs next to nothing if there is none */
    aio_wait_kick();
    if (co) {
        aio_co_wake(co);
    }
}
