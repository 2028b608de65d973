/*
 * VM state reader: sequential read-ahead over a node's VM state
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The window is a ring buffer.  Offsets are in VM state space:
 *
 *        pos              end                ahead
 *         |  read already  |  in flight        |
 *   ------+================+-------------------+------------>
 *         |<----------- at most the window --->|
 *
 * The consumer copies from [pos, end) and moves pos; fill coroutines read
 * behind end and move it.  Each touches the other's part of the buffer never,
 * so only the offsets need the lock.
 *
 * A fill coroutine issues one request after the other and ends when the window
 * is full; the consumer starts one anew when there is room again.  There are as
 * many of them as VmstateDepth says, which is one to begin with: each starts
 * the next one when there is something left for it.  They count in flight while
 * they run: who drains the node waits for read-ahead to come to rest, and not
 * just for a moment between two requests.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/iov.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "block/block_int.h"
#include "block/vmstate-reader.h"
#include "coroutines.h"
#include "vmstate-buffer.h"
#include "vmstate-depth.h"
#include "vmstate-wait.h"
#include "trace.h"

/* A request, from when it is issued until all before it have ended as well */
typedef struct VmstateRead {
    int64_t offset;
    size_t bytes;
    bool ended;
    int ret;
    QSIMPLEQ_ENTRY(VmstateRead) next;
} VmstateRead;

struct VmstateReader {
    /* Constant after vmstate_reader_new() */
    BlockDriverState *bs;
    char *name;             /* of @bs, for messages */
    int64_t size;           /* of the VM state; INT64_MAX if unknown */
    size_t max_window;
    size_t deep_request;    /* size of a request that is not alone */
    int64_t opened_ns;

    VmstateWait wait;       /* its lock, and how the consumer waits */

    /* Consumer only; constant once set, before the first request */
    uint8_t *buf;
    size_t window;          /* size of @buf */

    /* Written by the consumer under wait.lock; the consumer reads it without */
    int64_t pos;            /* next byte for the consumer */

    /* Protected by wait.lock */
    int64_t base;           /* offset that is at the start of @buf */
    int64_t end;            /* end of what is read without a gap */
    int64_t ahead;          /* end of what is read or in flight */
    QSIMPLEQ_HEAD(, VmstateRead) reads; /* [end, ahead), in order */
    size_t next_request;    /* size of the next request, if there is room */
    VmstateDepth depth;
    unsigned fillers;       /* fill coroutines that live */
    unsigned in_flight;     /* requests */
    bool hold;              /* the consumer wants the fill coroutines to end */
    bool failed;            /* so does a request that failed */
    int64_t idle_ns;        /* since when there are none, or 0 */
    int64_t busy_ns;        /* up to when requests are accounted for */

    /*
     * Read-ahead failed somewhere in [end, retry_end).  There is no read-ahead
     * as long as this is not empty: @piece bytes at a time are read, when the
     * consumer asks for them.  Protected by wait.lock.
     */
    int64_t retry_end;
    size_t piece;           /* wanted by the consumer; 0 if nothing is */
    int piece_ret;          /* result of the last piece */

    VmstateStreamStats stats; /* protected by wait.lock */
};

static size_t vmstate_reader_ring_offset(VmstateReader *r, int64_t offset)
{
    return (offset - r->base) % r->window;
}

/* Called with the lock held */
static bool vmstate_reader_in_retry(VmstateReader *r)
{
    return r->end < r->retry_end;
}

/* How many fill coroutines there may be.  Called with the lock held. */
static unsigned vmstate_reader_max_fillers(VmstateReader *r)
{
    return vmstate_reader_in_retry(r) ? 1 : vmstate_depth_now(&r->depth);
}

/*
 * Size of the request to issue now, at r->ahead, or 0 for none.  Called with
 * the lock held.
 */
static size_t vmstate_reader_plan(VmstateReader *r)
{
    int64_t room = r->window - (r->ahead - r->pos);
    size_t to_ring_end = r->window - vmstate_reader_ring_offset(r, r->ahead);
    int64_t bytes;

    if (r->hold || r->failed) {
        return 0;
    }
    if (vmstate_reader_in_retry(r)) {
        return MIN(r->piece, to_ring_end);
    }

    bytes = vmstate_reader_max_fillers(r) > 1 ? r->deep_request
                                              : r->next_request;
    bytes = MIN(bytes, to_ring_end);
    bytes = MIN(bytes, r->size - r->ahead);
    if (!QEMU_IS_ALIGNED(r->ahead, VMSTATE_READER_MIN_REQUEST)) {
        /* After a seek: get the following requests aligned */
        bytes = MIN(bytes, VMSTATE_READER_MIN_REQUEST -
                           r->ahead % VMSTATE_READER_MIN_REQUEST);
    }
    return bytes <= room ? bytes : 0;
}

/* The next request, or NULL.  Called with the lock held. */
static VmstateRead *vmstate_reader_begin_read(VmstateReader *r, int64_t now)
{
    size_t bytes = vmstate_reader_plan(r);
    VmstateRead *read;

    if (!bytes) {
        return NULL;
    }
    read = g_new(VmstateRead, 1);
    *read = (VmstateRead) {
        .offset = r->ahead,
        .bytes = bytes,
    };
    QSIMPLEQ_INSERT_TAIL(&r->reads, read, next);
    r->ahead += bytes;
    if (r->in_flight == 0) {
        r->busy_ns = now;
    }
    r->in_flight++;
    r->stats.max_in_flight = MAX(r->stats.max_in_flight, r->in_flight);
    return read;
}

/* Move @end over what has been read.  Called with the lock held. */
static void vmstate_reader_collect(VmstateReader *r)
{
    VmstateRead *read;

    while ((read = QSIMPLEQ_FIRST(&r->reads)) && read->ended &&
           read->ret >= 0) {
        r->end = read->offset + read->bytes;
        r->stats.max_request = MAX(r->stats.max_request, read->bytes);
        QSIMPLEQ_REMOVE_HEAD(&r->reads, next);
        g_free(read);
    }
}

/* Called with the lock held */
static void vmstate_reader_account(VmstateReader *r, size_t bytes, int64_t now)
{
    r->next_request = MIN(r->next_request * 2, r->max_window / 2);
    if (vmstate_depth_account(&r->depth, bytes, now - r->busy_ns)) {
        trace_vmstate_reader_depth(r, r->ahead, vmstate_depth_now(&r->depth),
                                   r->depth.rate_one, r->depth.rate_deep);
    }
}

/* Called with the lock held; @read may be gone afterwards */
static void vmstate_reader_end_read(VmstateReader *r, VmstateRead *read,
                                    int ret, int64_t start_ns, int64_t now)
{
    vmstate_stats_request(&r->stats, now - start_ns);
    if (vmstate_reader_in_retry(r)) {
        r->piece = 0;
        r->piece_ret = ret;
    } else if (ret < 0) {
        r->failed = true;
    } else {
        vmstate_reader_account(r, read->bytes, now);
    }
    r->busy_ns = now;
    r->in_flight--;
    read->ended = true;
    read->ret = ret;
    vmstate_reader_collect(r);
}

/* No fill coroutine is left.  Called with the lock held. */
static void vmstate_reader_all_ended(VmstateReader *r)
{
    VmstateRead *read;

    if (r->failed) {
        /* Also what was read behind the failed request is read again */
        r->failed = false;
        r->retry_end = r->ahead;
    }
    while ((read = QSIMPLEQ_FIRST(&r->reads))) {
        QSIMPLEQ_REMOVE_HEAD(&r->reads, next);
        g_free(read);
    }
    r->ahead = r->end;
    r->idle_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
}

static void coroutine_fn vmstate_reader_fill_entry(void *opaque);

/* Called with the lock held, which is released meanwhile */
static void coroutine_mixed_fn vmstate_reader_start_fill(VmstateReader *r)
{
    if (r->fillers >= vmstate_reader_max_fillers(r) ||
        !vmstate_reader_plan(r)) {
        return;
    }
    r->fillers++;
    /* Not in the coroutine: it may begin later, in another thread */
    bdrv_inc_in_flight(r->bs);
    qemu_mutex_unlock(&r->wait.lock);
    aio_co_enter(r->wait.ctx,
                 qemu_coroutine_create(vmstate_reader_fill_entry, r));
    qemu_mutex_lock(&r->wait.lock);
}

static void coroutine_fn vmstate_reader_fill_entry(void *opaque)
{
    VmstateReader *r = opaque;
    int64_t start_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    VmstateRead *read;

    qemu_mutex_lock(&r->wait.lock);
    vmstate_stats_busy(&r->stats, r->idle_ns, start_ns);
    r->idle_ns = 0;
    while (r->fillers <= vmstate_reader_max_fillers(r) &&
           (read = vmstate_reader_begin_read(r, start_ns))) {
        uint8_t *buf = r->buf + vmstate_reader_ring_offset(r, read->offset);
        QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, buf, read->bytes);
        int64_t end_ns;
        int ret;

        vmstate_reader_start_fill(r);
        qemu_mutex_unlock(&r->wait.lock);
        WITH_GRAPH_RDLOCK_GUARD() {
            ret = bdrv_co_readv_vmstate(r->bs, &qiov, read->offset);
        }
        end_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
        trace_vmstate_reader_request(r, read->offset, read->bytes,
                                     (end_ns - start_ns) / SCALE_US, ret);
        qemu_mutex_lock(&r->wait.lock);
        vmstate_reader_end_read(r, read, ret, start_ns, end_ns);
        vmstate_wait_kick_and_unlock(&r->wait);
        qemu_mutex_lock(&r->wait.lock);
        start_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    }
    r->fillers--;
    if (r->fillers == 0) {
        vmstate_reader_all_ended(r);
    }
    bdrv_dec_in_flight(r->bs);
    /* From here on @r may be gone */
    vmstate_wait_kick_and_unlock(&r->wait);
}

/* Called with the lock held */
static void vmstate_reader_restart_at(VmstateReader *r, int64_t pos)
{
    /* Aligned offsets shall lie at aligned addresses, for O_DIRECT */
    r->base = QEMU_ALIGN_DOWN(pos, VMSTATE_READER_MIN_REQUEST);
    r->pos = pos;
    r->end = pos;
    r->ahead = pos;
    r->next_request = VMSTATE_READER_MIN_REQUEST;
    r->retry_end = 0;
}

VmstateReader *vmstate_reader_new(BlockDriverState *bs, int64_t size,
                                  AioContext *ctx,
                                  const VmstateStreamOptions *options)
{
    VmstateReader *r = g_new0(VmstateReader, 1);
    unsigned max_depth;

    GLOBAL_STATE_CODE();
    assert(size >= -1);

    options = options ?: &vmstate_stream_defaults;
    bdrv_ref(bs);
    r->bs = bs;
    bdrv_graph_rdlock_main_loop();
    r->name = g_strdup(bdrv_get_device_or_node_name(bs));
    bdrv_graph_rdunlock_main_loop();
    r->size = size < 0 ? INT64_MAX : size;
    r->max_window = options->window;
    /* One part of the window is consumed meanwhile */
    max_depth = MIN(options->read_depth,
                    r->max_window / VMSTATE_READER_MIN_REQUEST - 1);
    r->deep_request = QEMU_ALIGN_DOWN(r->max_window / (max_depth + 1),
                                      VMSTATE_READER_MIN_REQUEST);
    vmstate_depth_init(&r->depth, max_depth, r->max_window);
    QSIMPLEQ_INIT(&r->reads);
    r->opened_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    vmstate_wait_init(&r->wait, ctx ?: bdrv_get_aio_context(bs));
    vmstate_reader_restart_at(r, 0);

    trace_vmstate_reader_open(r, r->name, size, r->max_window);
    return r;
}

static int vmstate_reader_alloc_window(VmstateReader *r, Error **errp)
{
    size_t window = r->max_window;

    if (r->buf) {
        return 0;
    }

    /* A small state needs no large window */
    if (r->size < window) {
        window = QEMU_ALIGN_UP(r->size, VMSTATE_READER_MIN_REQUEST);
    }
    r->buf = vmstate_buffer_try_alloc(r->bs, window);
    if (!r->buf) {
        error_setg_errno(errp, ENOMEM, "Could not allocate a buffer of %zu "
                         "bytes to read VM state from node '%s'",
                         window, r->name);
        return -ENOMEM;
    }
    r->window = window;

    QEMU_LOCK_GUARD(&r->wait.lock);
    r->stats.buffer_bytes = window;
    return 0;
}

/* There is something to copy, or nothing to wait for */
static bool vmstate_reader_has_bytes_or_ended(void *opaque)
{
    VmstateReader *r = opaque;

    return r->end > r->pos || r->fillers == 0;
}

/* Called with the lock held */
static void coroutine_mixed_fn vmstate_reader_wait_bytes(VmstateReader *r)
{
    int64_t stall_ns;

    stall_ns = vmstate_wait(&r->wait, vmstate_reader_has_bytes_or_ended, r);
    if (stall_ns) {
        r->stats.stalls++;
        r->stats.stall_ns += stall_ns;
        trace_vmstate_reader_stall(r, r->pos, stall_ns / SCALE_US);
    }
}

/*
 * Make [pos, end) non-empty.  Called with the lock held.  Returns -errno if the
 * storage has no more to give here.
 */
static int coroutine_mixed_fn vmstate_reader_get_bytes(VmstateReader *r,
                                                       size_t wanted)
{
    while (r->end == r->pos) {
        bool piece = vmstate_reader_in_retry(r) && r->fillers == 0;

        if (piece) {
            r->piece = MIN(wanted, r->retry_end - r->end);
            r->piece = MIN(r->piece, VMSTATE_READER_MIN_REQUEST);
            r->piece_ret = 0;
        }
        vmstate_reader_start_fill(r);
        vmstate_reader_wait_bytes(r);
        if (piece && r->piece_ret < 0) {
            return r->piece_ret;
        }
    }
    return 0;
}

ssize_t coroutine_mixed_fn vmstate_reader_read(VmstateReader *r,
                                               const struct iovec *iov,
                                               size_t niov, Error **errp)
{
    size_t wanted = iov_size(iov, niov);
    size_t bytes, ring_offset, head;
    int ret;

    if (wanted == 0 || r->pos >= r->size) {
        return 0;
    }
    ret = vmstate_reader_alloc_window(r, errp);
    if (ret < 0) {
        return ret;
    }

    WITH_QEMU_LOCK_GUARD(&r->wait.lock) {
        ret = vmstate_reader_get_bytes(r, wanted);
        bytes = MIN(wanted, r->end - r->pos);
        ring_offset = vmstate_reader_ring_offset(r, r->pos);
    }
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not read VM state at offset %"
                         PRId64 " from node '%s'", r->pos, r->name);
        return ret;
    }

    /* Not locked: nobody else touches [pos, end) of the buffer */
    head = MIN(bytes, r->window - ring_offset);
    iov_from_buf(iov, niov, 0, r->buf + ring_offset, head);
    iov_from_buf(iov, niov, head, r->buf, bytes - head);

    QEMU_LOCK_GUARD(&r->wait.lock);
    r->pos += bytes;
    r->stats.bytes += bytes;
    vmstate_reader_start_fill(r);
    return bytes;
}

static bool vmstate_reader_fill_has_ended(void *opaque)
{
    VmstateReader *r = opaque;

    return r->fillers == 0;
}

/* Called with the lock held.  No request starts until @hold is cleared. */
static void coroutine_mixed_fn vmstate_reader_stop_fill(VmstateReader *r)
{
    r->hold = true;
    vmstate_wait(&r->wait, vmstate_reader_fill_has_ended, r);
}

void coroutine_mixed_fn vmstate_reader_seek(VmstateReader *r, int64_t pos)
{
    assert(pos >= 0);

    QEMU_LOCK_GUARD(&r->wait.lock);
    if (pos < r->pos || pos > r->end) {
        /* What is in flight may bring the target into the window */
        vmstate_reader_stop_fill(r);
        r->hold = false;
    }
    if (pos >= r->pos && pos <= r->end) {
        r->pos = pos;
    } else {
        vmstate_reader_restart_at(r, pos);
    }
    trace_vmstate_reader_seek(r, pos, r->end - r->pos);
}

int64_t vmstate_reader_tell(const VmstateReader *r)
{
    return r->pos;
}

void vmstate_reader_free(VmstateReader *r)
{
    GLOBAL_STATE_CODE();

    if (!r) {
        return;
    }

    WITH_QEMU_LOCK_GUARD(&r->wait.lock) {
        vmstate_reader_stop_fill(r);
        trace_vmstate_reader_close(r, r->stats.bytes, r->stats.requests,
                                   r->stats.buffer_bytes,
                                   r->stats.stall_ns / SCALE_US,
                                   (qemu_clock_get_ns(QEMU_CLOCK_REALTIME) -
                                    r->opened_ns) / SCALE_US);
    }
    vmstate_wait_destroy(&r->wait);
    vmstate_buffer_free(r->buf, r->window);
    bdrv_unref(r->bs);
    g_free(r->name);
    g_free(r);
}

void vmstate_reader_get_stats(VmstateReader *r, VmstateStreamStats *stats)
{
    QEMU_LOCK_GUARD(&r->wait.lock);
    *stats = r->stats;
}
