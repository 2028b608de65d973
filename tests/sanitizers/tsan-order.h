/*
 * Included before everything else in the tree "tsan" (scripts/build-qemu):
 * tells ThreadSanitizer what orders what where it cannot know
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TSAN_ORDER_H
#define TSAN_ORDER_H

#ifdef __SANITIZE_THREAD__

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <pthread.h>

/* libtsan's; the headers of some compilers lack them */
void __tsan_acquire(void *addr);
void __tsan_release(void *addr);

/*
 * To it each coroutine is a thread.  A mutex that a coroutine releases and its
 * thread had taken before, as loading a VM does with the BQL, was released by
 * the wrong thread then, and it does not follow that mutex any more: all that
 * is done under the BQL from then on would be a race.
 */

static inline __attribute__((always_inline, unused))
int tsan_mutex_taken(pthread_mutex_t *mutex, int err)
{
    if (!err) {
        __tsan_acquire(mutex);
    }
    return err;
}

static inline __attribute__((always_inline, unused))
int tsan_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex,
                        const struct timespec *ts)
{
    int err;

    /* Also when the time is over, the mutex was released and taken again */
    __tsan_release(mutex);
    err = pthread_cond_timedwait(cond, mutex, ts);
    __tsan_acquire(mutex);
    return err;
}

#define pthread_mutex_lock(mutex) \
    tsan_mutex_taken(mutex, (pthread_mutex_lock)(mutex))
#define pthread_mutex_trylock(mutex) \
    tsan_mutex_taken(mutex, (pthread_mutex_trylock)(mutex))
#define pthread_mutex_unlock(mutex) \
    (__tsan_release(mutex), (pthread_mutex_unlock)(mutex))
#define pthread_cond_wait(cond, mutex) \
    (__tsan_release(mutex), \
     tsan_mutex_taken(mutex, (pthread_cond_wait)(cond, mutex)))
#define pthread_cond_timedwait tsan_cond_timedwait

/*
 * It does not know barriers.  This pair orders what a request to the thread pool
 * did with its buffer before what happens to that afterwards.  All barriers
 * would be too many: they would hide races that they do not prevent.
 */

__attribute__((weak)) char tsan_thread_pool_done;

static inline __attribute__((always_inline, unused))
void tsan_barrier(const char *func)
{
    if (!__builtin_strcmp(func, "worker_thread")) {
        __tsan_release(&tsan_thread_pool_done);
    } else if (!__builtin_strcmp(func, "thread_pool_completion_bh")) {
        __tsan_acquire(&tsan_thread_pool_done);
    }
}

#define __atomic_thread_fence(order) \
    (tsan_barrier(__func__), __atomic_thread_fence(order))

#endif
#endif
