/*
 * VM state writer: a byte stream in, large aligned requests out
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The producer fills a chunk, queues it and fills the next one.  The owner, one
 * coroutine that lives as long as the stream, takes chunks from the queue and
 * starts a task for each in its AioTaskPool, which bounds the requests in
 * flight.  A task returns its chunk to the idle list, where the producer finds
 * it.  There is one chunk more than there are tasks, so the producer can copy
 * while all tasks wait for storage.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/iov.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "block/aio_task.h"
#include "block/block_int.h"
#include "block/vmstate-writer.h"
#include "coroutines.h"
#include "vmstate-buffer.h"
#include "vmstate-wait.h"
#include "trace.h"

typedef struct VmstateChunk {
    uint8_t *buf;
    size_t slab_bytes;      /* allocated at @buf, for more chunks too; or 0 */
    int64_t offset;         /* in VM state space */
    size_t bytes;           /* filled so far */
    int64_t queued_ns;
    QSIMPLEQ_ENTRY(VmstateChunk) next;
} VmstateChunk;

typedef enum VmstateWriterState {
    VMSTATE_WRITER_OPEN,
    VMSTATE_WRITER_FINISHING,   /* the owner ends when the queue is empty */
    VMSTATE_WRITER_ABORTING,    /* the same, and queued chunks are dropped */
} VmstateWriterState;

struct VmstateWriter {
    /* Constant after vmstate_writer_new() */
    BlockDriverState *bs;
    char *name;             /* of @bs, for messages */
    size_t chunk_size;
    unsigned depth;
    int64_t opened_ns;

    VmstateWait wait;       /* its lock, and how the producer waits */

    /* Producer only */
    VmstateChunk *cur;      /* being filled; NULL between chunks */
    uint64_t bytes;         /* accepted so far */
    unsigned nb_chunks;     /* allocated so far */
    unsigned max_chunks;    /* lowered when memory is short */

    /* Written by the producer under wait.lock; the producer reads it without */
    VmstateWriterState state;

    /* Protected by wait.lock */
    Coroutine *parked;      /* the owner, while it waits for the producer */
    bool owner_ended;
    QSIMPLEQ_HEAD(, VmstateChunk) queue;
    QSIMPLEQ_HEAD(, VmstateChunk) idle;
    unsigned in_flight;
    unsigned busy;          /* chunks queued and not idle again */
    int64_t idle_ns;        /* since when there is none, or 0 */
    int ret;                /* first error */
    Error *err;             /* set if @ret is */
    VmstateStreamStats stats;
};

typedef struct VmstateWriterTask {
    AioTask task;           /* freed by the pool, so it comes first */
    VmstateWriter *w;
    VmstateChunk *chunk;
} VmstateWriterTask;

/* Keep @err, or free it if it is not the first one.  Called with the lock. */
static void vmstate_writer_set_error(VmstateWriter *w, int ret, Error *err)
{
    if (w->ret < 0) {
        error_free(err);
        return;
    }
    w->ret = ret;
    w->err = err;
}

/* Called with the lock held */
static bool vmstate_writer_may_start(VmstateWriter *w)
{
    return w->ret == 0 && w->state != VMSTATE_WRITER_ABORTING;
}

static void vmstate_writer_begin_request(VmstateWriter *w, int64_t now)
{
    QEMU_LOCK_GUARD(&w->wait.lock);
    vmstate_stats_busy(&w->stats, w->idle_ns, now);
    w->idle_ns = 0;
    w->in_flight++;
    w->stats.max_in_flight = MAX(w->stats.max_in_flight, w->in_flight);
}

/* The chunk goes to the idle list, the result into the books */
static void vmstate_writer_end_request(VmstateWriter *w, VmstateChunk *chunk,
                                       int ret, int64_t start_ns)
{
    int64_t now = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    Error *err = NULL;

    trace_vmstate_writer_chunk(w, chunk->offset, chunk->bytes,
                               (start_ns - chunk->queued_ns) / SCALE_US,
                               (now - start_ns) / SCALE_US, ret);
    if (ret < 0) {
        error_setg_errno(&err, -ret, "Could not write %zu bytes of VM state at "
                         "offset %" PRId64 " to node '%s'",
                         chunk->bytes, chunk->offset, w->name);
    }

    qemu_mutex_lock(&w->wait.lock);
    assert(w->in_flight > 0);
    w->in_flight--;
    vmstate_stats_request(&w->stats, now - start_ns);
    if (ret < 0) {
        vmstate_writer_set_error(w, ret, err);
    } else {
        w->stats.bytes += chunk->bytes;
        w->stats.max_request = MAX(w->stats.max_request, chunk->bytes);
    }
    QSIMPLEQ_INSERT_TAIL(&w->idle, chunk, next);
    w->busy--;
    if (!w->busy) {
        w->idle_ns = now;
    }
    vmstate_wait_kick_and_unlock(&w->wait);
}

static int coroutine_fn vmstate_writer_task_entry(AioTask *task)
{
    VmstateWriterTask *t = container_of(task, VmstateWriterTask, task);
    VmstateWriter *w = t->w;
    VmstateChunk *chunk = t->chunk;
    int64_t start_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, chunk->buf, chunk->bytes);
    int ret;

    vmstate_writer_begin_request(w, start_ns);
    WITH_GRAPH_RDLOCK_GUARD() {
        ret = bdrv_co_writev_vmstate(w->bs, &qiov, chunk->offset);
    }
    vmstate_writer_end_request(w, chunk, ret, start_ns);
    return ret;
}

static void coroutine_fn vmstate_writer_start_task(VmstateWriter *w,
                                                   AioTaskPool *pool,
                                                   VmstateChunk *chunk)
{
    VmstateWriterTask *t;
    bool start;

    /* An error may come while this waits, so ask afterwards */
    aio_task_pool_wait_slot(pool);

    qemu_mutex_lock(&w->wait.lock);
    start = vmstate_writer_may_start(w);
    if (!start) {
        QSIMPLEQ_INSERT_TAIL(&w->idle, chunk, next);
        w->busy--;
        vmstate_wait_kick_and_unlock(&w->wait);
        return;
    }
    qemu_mutex_unlock(&w->wait.lock);

    t = g_new(VmstateWriterTask, 1);
    *t = (VmstateWriterTask) {
        .task.func = vmstate_writer_task_entry,
        .w = w,
        .chunk = chunk,
    };
    aio_task_pool_start_task(pool, &t->task);
}

/*
 * The next chunk to write, or NULL when the stream ends.
 *
 * While it is parked here the owner holds no graph lock and is not counted in
 * flight: it may stay for as long as the producer takes.  Otherwise it is
 * counted, so that who drains the node does not take a moment between two
 * requests for the end of them.  The producer is the only one who wakes it, and
 * only here: a wake in the middle of a wait for the pool would trip the pool's
 * assertions.
 */
static VmstateChunk *coroutine_fn vmstate_writer_next_chunk(VmstateWriter *w)
{
    VmstateChunk *chunk;

    qemu_mutex_lock(&w->wait.lock);
    while (QSIMPLEQ_EMPTY(&w->queue) && w->state == VMSTATE_WRITER_OPEN) {
        w->parked = qemu_coroutine_self();
        qemu_mutex_unlock(&w->wait.lock);
        bdrv_dec_in_flight(w->bs);
        qemu_coroutine_yield();
        bdrv_inc_in_flight(w->bs);
        qemu_mutex_lock(&w->wait.lock);
    }
    chunk = QSIMPLEQ_FIRST(&w->queue);
    if (chunk) {
        QSIMPLEQ_REMOVE_HEAD(&w->queue, next);
    }
    qemu_mutex_unlock(&w->wait.lock);
    return chunk;
}

static void coroutine_fn vmstate_writer_flush(VmstateWriter *w)
{
    int ret;

    WITH_QEMU_LOCK_GUARD(&w->wait.lock) {
        if (!vmstate_writer_may_start(w)) {
            return;
        }
    }
    WITH_GRAPH_RDLOCK_GUARD() {
        ret = bdrv_co_flush(w->bs);
    }
    if (ret < 0) {
        Error *err = NULL;

        error_setg_errno(&err, -ret, "Could not flush node '%s' after %" PRIu64
                         " bytes of VM state", w->name, w->bytes);
        QEMU_LOCK_GUARD(&w->wait.lock);
        vmstate_writer_set_error(w, ret, err);
    }
}

static void coroutine_fn vmstate_writer_owner_entry(void *opaque)
{
    VmstateWriter *w = opaque;
    AioTaskPool *pool = aio_task_pool_new(w->depth);
    VmstateChunk *chunk;

    bdrv_inc_in_flight(w->bs);
    while ((chunk = vmstate_writer_next_chunk(w))) {
        vmstate_writer_start_task(w, pool, chunk);
    }
    aio_task_pool_wait_all(pool);
    aio_task_pool_free(pool);
    vmstate_writer_flush(w);

    qemu_mutex_lock(&w->wait.lock);
    w->owner_ended = true;
    bdrv_dec_in_flight(w->bs);
    /* From here on @w may be gone */
    vmstate_wait_kick_and_unlock(&w->wait);
}

static size_t vmstate_writer_chunk_size(BlockDriverState *bs, size_t wanted)
{
    BlockDriverInfo bdi;

    if (bdrv_get_info(bs, &bdi) < 0 || bdi.cluster_size <= 0) {
        return wanted;
    }
    return QEMU_ALIGN_UP(wanted, bdi.cluster_size);
}

VmstateWriter *vmstate_writer_new(BlockDriverState *bs,
                                  const VmstateStreamOptions *options)
{
    VmstateWriter *w = g_new0(VmstateWriter, 1);
    AioContext *ctx = bdrv_get_aio_context(bs);

    GLOBAL_STATE_CODE();

    options = options ?: &vmstate_stream_defaults;
    bdrv_ref(bs);
    w->bs = bs;
    bdrv_graph_rdlock_main_loop();
    w->name = g_strdup(bdrv_get_device_or_node_name(bs));
    bdrv_graph_rdunlock_main_loop();
    w->chunk_size = vmstate_writer_chunk_size(bs, options->chunk_size);
    w->depth = options->depth;
    w->opened_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    w->max_chunks = w->depth + 1;
    vmstate_wait_init(&w->wait, ctx);
    QSIMPLEQ_INIT(&w->queue);
    QSIMPLEQ_INIT(&w->idle);

    trace_vmstate_writer_open(w, w->name, w->chunk_size, w->depth);
    aio_co_enter(ctx, qemu_coroutine_create(vmstate_writer_owner_entry, w));
    return w;
}

/* Called with the lock held, and releases it */
static void vmstate_writer_wake_owner_and_unlock(VmstateWriter *w)
{
    Coroutine *owner = g_steal_pointer(&w->parked);

    qemu_mutex_unlock(&w->wait.lock);
    if (owner) {
        aio_co_enter(w->wait.ctx, owner);
    }
}

static void vmstate_writer_queue_cur(VmstateWriter *w)
{
    VmstateChunk *chunk = g_steal_pointer(&w->cur);

    chunk->queued_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    qemu_mutex_lock(&w->wait.lock);
    QSIMPLEQ_INSERT_TAIL(&w->queue, chunk, next);
    w->busy++;
    vmstate_writer_wake_owner_and_unlock(w);
}

/*
 * Allocate chunks, as many as make one unit of memory, to the idle list.  If
 * that fails, no more will be allocated.
 */
static void vmstate_writer_alloc_chunks(VmstateWriter *w)
{
    size_t per_unit = DIV_ROUND_UP(VMSTATE_BUFFER_UNIT, w->chunk_size);
    size_t i, count = MIN(per_unit, w->max_chunks - w->nb_chunks);
    uint8_t *slab = vmstate_buffer_try_alloc(w->bs, count * w->chunk_size);

    if (!slab) {
        /* Go on with what there is, if there is any */
        w->max_chunks = w->nb_chunks;
        return;
    }
    w->nb_chunks += count;

    QEMU_LOCK_GUARD(&w->wait.lock);
    w->stats.buffer_bytes += count * w->chunk_size;
    for (i = 0; i < count; i++) {
        VmstateChunk *chunk = g_new0(VmstateChunk, 1);

        chunk->buf = slab + i * w->chunk_size;
        chunk->slab_bytes = i == 0 ? count * w->chunk_size : 0;
        QSIMPLEQ_INSERT_TAIL(&w->idle, chunk, next);
    }
}

static bool vmstate_writer_has_idle_chunk_or_error(void *opaque)
{
    VmstateWriter *w = opaque;

    return w->ret < 0 || !QSIMPLEQ_EMPTY(&w->idle);
}

/* The producer waits for storage.  Called with the lock held. */
static void coroutine_mixed_fn vmstate_writer_stall(VmstateWriter *w,
                                                    VmstateWaitCond *cond)
{
    int64_t stall_ns = vmstate_wait(&w->wait, cond, w);

    if (stall_ns) {
        w->stats.stalls++;
        w->stats.stall_ns += stall_ns;
        trace_vmstate_writer_stall(w, w->bytes, stall_ns / SCALE_US);
    }
}

/* Take a chunk from the idle list; NULL if there is an error */
static VmstateChunk *coroutine_mixed_fn
vmstate_writer_take_chunk(VmstateWriter *w)
{
    VmstateChunk *chunk;

    QEMU_LOCK_GUARD(&w->wait.lock);
    vmstate_writer_stall(w, vmstate_writer_has_idle_chunk_or_error);
    if (w->ret < 0) {
        return NULL;
    }
    chunk = QSIMPLEQ_FIRST(&w->idle);
    QSIMPLEQ_REMOVE_HEAD(&w->idle, next);
    return chunk;
}

static bool vmstate_writer_has_idle_chunk(VmstateWriter *w)
{
    QEMU_LOCK_GUARD(&w->wait.lock);
    return !QSIMPLEQ_EMPTY(&w->idle);
}

/* The stream's first error, or 0 */
static int vmstate_writer_get_error(VmstateWriter *w, Error **errp)
{
    QEMU_LOCK_GUARD(&w->wait.lock);
    if (w->ret < 0) {
        error_propagate(errp, error_copy(w->err));
    }
    return w->ret;
}

static void vmstate_writer_set_no_memory(VmstateWriter *w)
{
    Error *err = NULL;

    error_setg_errno(&err, ENOMEM, "Could not allocate a buffer of %zu bytes "
                     "for VM state at offset %" PRIu64 " of node '%s'",
                     w->chunk_size, w->bytes, w->name);
    QEMU_LOCK_GUARD(&w->wait.lock);
    vmstate_writer_set_error(w, -ENOMEM, err);
}

/* Make @cur a chunk with room.  Returns false if the stream has failed. */
static bool coroutine_mixed_fn vmstate_writer_prepare_cur(VmstateWriter *w)
{
    VmstateChunk *chunk;

    if (w->cur) {
        return true;
    }

    if (w->nb_chunks < w->max_chunks && !vmstate_writer_has_idle_chunk(w)) {
        vmstate_writer_alloc_chunks(w);
        if (w->nb_chunks == 0) {
            vmstate_writer_set_no_memory(w);
        }
    }
    chunk = vmstate_writer_take_chunk(w);
    if (!chunk) {
        return false;
    }
    chunk->offset = w->bytes;
    chunk->bytes = 0;
    w->cur = chunk;
    return true;
}

/* Returns false if the stream has failed */
static bool coroutine_mixed_fn
vmstate_writer_append(VmstateWriter *w, const uint8_t *buf, size_t bytes)
{
    while (bytes) {
        size_t n;

        if (!vmstate_writer_prepare_cur(w)) {
            return false;
        }
        n = MIN(bytes, w->chunk_size - w->cur->bytes);
        memcpy(w->cur->buf + w->cur->bytes, buf, n);
        w->cur->bytes += n;
        w->bytes += n;
        buf += n;
        bytes -= n;
        if (w->cur->bytes == w->chunk_size) {
            vmstate_writer_queue_cur(w);
        }
    }
    return true;
}

int coroutine_mixed_fn vmstate_writer_write(VmstateWriter *w,
                                            const struct iovec *iov,
                                            size_t niov, Error **errp)
{
    size_t i;

    assert(w->state == VMSTATE_WRITER_OPEN);

    for (i = 0; i < niov; i++) {
        if (!vmstate_writer_append(w, iov[i].iov_base, iov[i].iov_len)) {
            break;
        }
    }
    return vmstate_writer_get_error(w, errp);
}

static bool vmstate_writer_is_settled(void *opaque)
{
    VmstateWriter *w = opaque;

    return w->busy == 0;
}

void coroutine_mixed_fn vmstate_writer_settle(VmstateWriter *w)
{
    QEMU_LOCK_GUARD(&w->wait.lock);
    vmstate_writer_stall(w, vmstate_writer_is_settled);
}

static bool vmstate_writer_owner_has_ended(void *opaque)
{
    VmstateWriter *w = opaque;

    return w->owner_ended;
}

/* Let the owner end and wait for it.  Only the first call does anything. */
static void coroutine_mixed_fn vmstate_writer_close(VmstateWriter *w,
                                                    VmstateWriterState state)
{
    VmstateStreamStats *stats = &w->stats;

    qemu_mutex_lock(&w->wait.lock);
    if (w->state != VMSTATE_WRITER_OPEN) {
        qemu_mutex_unlock(&w->wait.lock);
        return;
    }
    w->state = state;
    vmstate_writer_wake_owner_and_unlock(w);

    qemu_mutex_lock(&w->wait.lock);
    vmstate_wait(&w->wait, vmstate_writer_owner_has_ended, w);
    assert(w->in_flight == 0);
    trace_vmstate_writer_close(w, stats->bytes, stats->requests,
                               stats->max_in_flight, stats->buffer_bytes,
                               stats->stall_ns / SCALE_US,
                               (qemu_clock_get_ns(QEMU_CLOCK_REALTIME) -
                                w->opened_ns) / SCALE_US, w->ret);
    qemu_mutex_unlock(&w->wait.lock);
}

void vmstate_writer_cancel(VmstateWriter *w)
{
    Error *err = NULL;

    error_setg_errno(&err, ECANCELED, "Writing VM state to node '%s' was "
                     "cancelled", w->name);
    qemu_mutex_lock(&w->wait.lock);
    vmstate_writer_set_error(w, -ECANCELED, err);
    /* The producer may be waiting for storage */
    vmstate_wait_kick_and_unlock(&w->wait);
}

int coroutine_mixed_fn vmstate_writer_finish(VmstateWriter *w, Error **errp)
{
    if (w->state == VMSTATE_WRITER_OPEN && w->cur) {
        vmstate_writer_queue_cur(w);
    }
    vmstate_writer_close(w, VMSTATE_WRITER_FINISHING);
    return vmstate_writer_get_error(w, errp);
}

void coroutine_mixed_fn vmstate_writer_abort(VmstateWriter *w)
{
    if (w->state == VMSTATE_WRITER_OPEN) {
        Error *err = NULL;

        error_setg_errno(&err, ECANCELED, "Writing VM state to node '%s' was "
                         "given up at offset %" PRIu64, w->name, w->bytes);
        WITH_QEMU_LOCK_GUARD(&w->wait.lock) {
            vmstate_writer_set_error(w, -ECANCELED, err);
        }
    }
    vmstate_writer_close(w, VMSTATE_WRITER_ABORTING);
}

static void vmstate_writer_free_chunk(VmstateChunk *chunk)
{
    if (chunk->slab_bytes) {
        vmstate_buffer_free(chunk->buf, chunk->slab_bytes);
    }
    g_free(chunk);
}

void vmstate_writer_free(VmstateWriter *w)
{
    VmstateChunk *chunk, *next;

    GLOBAL_STATE_CODE();

    if (!w) {
        return;
    }
    vmstate_writer_abort(w);

    /* The owner has ended, so nobody else looks at these any more */
    assert(QSIMPLEQ_EMPTY(&w->queue));
    if (w->cur) {
        vmstate_writer_free_chunk(w->cur);
    }
    QSIMPLEQ_FOREACH_SAFE(chunk, &w->idle, next, next) {
        vmstate_writer_free_chunk(chunk);
    }
    error_free(w->err);
    vmstate_wait_destroy(&w->wait);
    bdrv_unref(w->bs);
    g_free(w->name);
    g_free(w);
}

uint64_t vmstate_writer_bytes(const VmstateWriter *w)
{
    return w->bytes;
}

void vmstate_writer_get_stats(VmstateWriter *w, VmstateStreamStats *stats)
{
    QEMU_LOCK_GUARD(&w->wait.lock);
    *stats = w->stats;
}
