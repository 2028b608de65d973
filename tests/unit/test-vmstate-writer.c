/*
 * VM state writer tests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Every case runs in every setting of vmstate-test-driver.c: as main loop code,
 * as a coroutine and as another thread, with the node in the main loop or in
 * an IOThread, drained or not.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "qemu/iov.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "block/vmstate-writer.h"
#include "vmstate-test-driver.h"

#define MAX_NIOV 64

typedef struct WriterTest {
    VmstateTest *t;
    VmstateWriter *w;
    size_t chunk;
    unsigned depth;

    /* For the party: what to do, and how the stream stands */
    uint64_t length;
    bool release;           /* held requests, before anything may wait */
    int ret;
    Error *err;             /* that came with @ret */
} WriterTest;

static void writer_open(WriterTest *wt, VmstateTest *t)
{
    int64_t cluster = t->node->cluster_size ?: 1;

    *wt = (WriterTest) {
        .t = t,
        .w = vmstate_writer_new(t->bs, NULL),
        .chunk = QEMU_ALIGN_UP((size_t)VMSTATE_WRITER_CHUNK, cluster),
        .depth = VMSTATE_WRITER_DEPTH,
    };
}

static void writer_open_tuned(WriterTest *wt, VmstateTest *t, size_t chunk,
                              unsigned depth)
{
    VmstateStreamOptions options = vmstate_stream_defaults;

    options.chunk_size = chunk;
    options.depth = depth;
    *wt = (WriterTest) {
        .t = t,
        .w = vmstate_writer_new(t->bs, &options),
        .chunk = QEMU_ALIGN_UP(chunk, t->node->cluster_size ?: 1),
        .depth = depth,
    };
    /* The options were copied */
    memset(&options, 0, sizeof(options));
}

static void writer_close(WriterTest *wt)
{
    vmstate_writer_free(wt->w);
    wt->w = NULL;
    error_free(wt->err);
    wt->err = NULL;
    g_assert_cmpuint(vmstate_test_in_flight(wt->t->node), ==, 0);
}

/* The parties */

static void release_if_told(WriterTest *wt)
{
    if (wt->release) {
        wt->release = false;
        vmstate_test_release_later(wt->t->node);
    }
}

/* @err is the error that is known already, or the first there is */
static void keep_error(WriterTest *wt, int ret, Error *err)
{
    g_assert_cmpint(!ret, ==, !err);
    if (wt->ret == 0) {
        wt->ret = ret;
        wt->err = err;
        return;
    }
    g_assert_cmpint(ret, ==, wt->ret);
    g_assert_cmpstr(error_get_pretty(err), ==, error_get_pretty(wt->err));
    error_free(err);
}

static void coroutine_mixed_fn write_some(WriterTest *wt, size_t bytes)
{
    GRand *rand = wt->t->rand;
    unsigned niov = g_rand_int_range(rand, 1, MAX_NIOV + 1);
    uint64_t pos = vmstate_writer_bytes(wt->w);
    g_autofree uint8_t *buf = g_malloc(bytes + 1);
    struct iovec iov[MAX_NIOV];
    Error *err = NULL;
    int ret;

    vmstate_test_fill(buf, pos, bytes);
    vmstate_test_split(rand, iov, niov, buf, bytes);
    ret = vmstate_writer_write(wt->w, iov, niov, &err);
    /* The memory is ours again, so this must not show in the image */
    memset(buf, 0x5a, bytes);
    keep_error(wt, ret, err);
    if (ret == 0) {
        g_assert_cmpuint(vmstate_writer_bytes(wt->w), ==, pos + bytes);
    }
}

static size_t random_size(WriterTest *wt)
{
    GRand *rand = wt->t->rand;

    switch (g_rand_int_range(rand, 0, 64)) {
    case 0:
        return g_rand_int_range(rand, 0, 3 * wt->chunk);
    case 1:
        return 0;
    case 2:
        return wt->chunk;
    default:
        return g_rand_int_range(rand, 0, 64 * KiB);
    }
}

/* Write up to wt->length; ends early if the stream fails */
static void coroutine_mixed_fn write_party(void *opaque)
{
    WriterTest *wt = opaque;

    while (wt->ret == 0 && vmstate_writer_bytes(wt->w) < wt->length) {
        size_t left = wt->length - vmstate_writer_bytes(wt->w);

        write_some(wt, MIN(left, random_size(wt)));
    }
}

/* The same in a few large calls */
static void coroutine_mixed_fn write_quickly_party(void *opaque)
{
    WriterTest *wt = opaque;
    uint64_t pos;

    release_if_told(wt);
    while (wt->ret == 0 && (pos = vmstate_writer_bytes(wt->w)) < wt->length) {
        write_some(wt, MIN(wt->length - pos, 3 * wt->chunk));
    }
}

static void coroutine_mixed_fn finish_party(void *opaque)
{
    WriterTest *wt = opaque;
    Error *err = NULL;
    int ret;

    release_if_told(wt);
    ret = vmstate_writer_finish(wt->w, &err);
    g_assert_cmpuint(vmstate_test_in_flight(wt->t->node), ==, 0);
    keep_error(wt, ret, err);

    err = NULL;
    ret = vmstate_writer_finish(wt->w, &err);
    keep_error(wt, ret, err);
    g_assert_cmpint(vmstate_writer_finish(wt->w, NULL), ==, wt->ret);
}

/* What a failed stream says: the same, again and again */
static void coroutine_mixed_fn insist_party(void *opaque)
{
    WriterTest *wt = opaque;
    Error *err = NULL;
    int ret;

    g_assert_cmpint(wt->ret, <, 0);
    write_some(wt, 0);
    write_some(wt, 17);
    g_assert_cmpint(vmstate_writer_write(wt->w, NULL, 0, NULL), ==, wt->ret);
    ret = vmstate_writer_write(wt->w, NULL, 0, &err);
    keep_error(wt, ret, err);
}

static void coroutine_mixed_fn abort_party(void *opaque)
{
    WriterTest *wt = opaque;

    release_if_told(wt);
    vmstate_writer_abort(wt->w);
    g_assert_cmpuint(vmstate_test_in_flight(wt->t->node), ==, 0);
    vmstate_writer_abort(wt->w);
}

static void write_up_to(WriterTest *wt, uint64_t length)
{
    wt->length = length;
    vmstate_test_run(wt->t, write_quickly_party, wt);
}

static void write_and_finish(WriterTest *wt, VmstateTestFunc *write,
                             uint64_t length)
{
    wt->length = length;
    vmstate_test_run(wt->t, write, wt);
    vmstate_test_run(wt->t, finish_party, wt);
}

/* The checks */

static gint compare_offsets(gconstpointer a, gconstpointer b)
{
    const VmstateTestRequest *x = a, *y = b;

    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* The writes in the order of their offsets */
static GArray *get_writes(VmstateTestNode *node)
{
    GArray *writes = g_array_new(false, false, sizeof(VmstateTestRequest));
    unsigned i;

    QEMU_LOCK_GUARD(&node->lock);
    for (i = 0; i < node->log->len; i++) {
        VmstateTestRequest *req = &g_array_index(node->log,
                                                 VmstateTestRequest, i);

        if (req->op == VMSTATE_TEST_WRITE) {
            g_array_append_val(writes, *req);
        }
    }
    g_array_sort(writes, compare_offsets);
    return writes;
}

static void check_latency(const VmstateStreamStats *stats)
{
    uint64_t count = 0;
    unsigned i;

    for (i = 0; i < ARRAY_SIZE(stats->latency); i++) {
        count += stats->latency[i];
    }
    g_assert_cmpuint(count, ==, stats->requests);
    g_assert_cmpint(stats->max_latency_ns, <=, stats->storage_ns);
    g_assert_cmpint(vmstate_stats_latency(stats, 50), <=,
                    vmstate_stats_latency(stats, 99));
    g_assert_cmpint(vmstate_stats_latency(stats, 100), ==,
                    stats->max_latency_ns);
}

/* The figures are those that the driver counted */
static void check_stats(WriterTest *wt)
{
    VmstateTestNode *node = wt->t->node;
    g_autoptr(GArray) writes = get_writes(node);
    VmstateStreamStats stats;
    uint64_t bytes = 0, max_request = 0;
    unsigned i;

    for (i = 0; i < writes->len; i++) {
        VmstateTestRequest *req = &g_array_index(writes, VmstateTestRequest, i);

        if (req->ret == 0) {
            bytes += req->bytes;
            max_request = MAX(max_request, req->bytes);
        }
    }

    vmstate_writer_get_stats(wt->w, &stats);
    g_assert_cmpuint(stats.requests, ==, writes->len);
    g_assert_cmpuint(stats.bytes, ==, bytes);
    g_assert_cmpuint(stats.max_request, ==, max_request);
    g_assert_cmpuint(stats.max_in_flight, ==,
                     node->max_in_flight[VMSTATE_TEST_WRITE]);
    g_assert_cmpuint(stats.max_in_flight, <=, wt->depth);
    g_assert_cmpuint(stats.buffer_bytes, <=, wt->chunk * (wt->depth + 1));
    /* A short stream does not cost what a long one does */
    g_assert_cmpuint(stats.buffer_bytes, <=,
                     vmstate_writer_bytes(wt->w) + 2 * MAX(wt->chunk, MiB));
    g_assert_cmpint(!stats.buffer_bytes, ==, !vmstate_writer_bytes(wt->w) ||
                                             wt->ret == -ENOMEM);
    g_assert_cmpuint(stats.buffer_bytes % wt->chunk, ==, 0);
    g_assert_cmpint(!stats.stalls, ==, !stats.stall_ns);
    g_assert_cmpint(!stats.storage_stalls, ==, !stats.storage_stall_ns);
    g_assert_cmpint(!stats.requests, ==, !stats.storage_ns);
    check_latency(&stats);
}

/* Every byte is written once, in whole chunks, and none beyond the last */
static void check_requests(WriterTest *wt)
{
    g_autoptr(GArray) writes = get_writes(wt->t->node);
    uint64_t offset = 0;
    unsigned i;

    for (i = 0; i < writes->len; i++) {
        VmstateTestRequest *req = &g_array_index(writes, VmstateTestRequest, i);

        g_assert_cmpuint(req->offset, ==, offset);
        g_assert_cmpuint(req->offset % wt->chunk, ==, 0);
        g_assert_cmpuint(req->bytes, ==,
                         MIN(wt->chunk, wt->length - offset));
        offset += req->bytes;
    }
    g_assert_cmpuint(offset, ==, wt->length);
}

/* One flush, after all writes have ended */
static void check_flush(WriterTest *wt)
{
    VmstateTestNode *node = wt->t->node;
    VmstateTestRequest *last;

    QEMU_LOCK_GUARD(&node->lock);
    g_assert_cmpuint(node->started[VMSTATE_TEST_FLUSH], ==, 1);
    last = &g_array_index(node->log, VmstateTestRequest, node->log->len - 1);
    g_assert_cmpint(last->op, ==, VMSTATE_TEST_FLUSH);
    g_assert_cmpuint(last->others, ==, 0);
}

/* After a stream that succeeded */
static void check_stream(WriterTest *wt)
{
    VmstateTestNode *node = wt->t->node;

    g_assert_cmpint(wt->ret, ==, 0);
    g_assert_null(wt->err);
    g_assert_cmpuint(vmstate_writer_bytes(wt->w), ==, wt->length);
    check_requests(wt);
    check_flush(wt);
    check_stats(wt);
    vmstate_test_check_context(node, wt->t->ctx);

    g_assert_cmpuint(node->data->len, ==, wt->length);
    g_assert(vmstate_test_matches(node->data->data, 0, wt->length));
}

/* After a stream that failed in the node */
static void check_failed_stream(WriterTest *wt, int err)
{
    VmstateTestNode *node = wt->t->node;

    vmstate_test_check_error(wt->ret, wt->err, err, node->failed_offset);
    g_assert_cmpint(node->first_errno, ==, err);
    g_assert_cmpuint(node->started_after_failure, ==, 0);
    check_stats(wt);
    vmstate_test_check_context(node, wt->t->ctx);
}

/* Lengths and chunk sizes */

static void run_stream(VmstateTest *t, VmstateTestFunc *write, uint64_t length)
{
    WriterTest wt;

    writer_open(&wt, t);
    write_and_finish(&wt, write, length);
    check_stream(&wt);
    writer_close(&wt);
}

static void test_lengths(VmstateTest *t)
{
    static const uint64_t lengths[] = {
        0,
        1,
        VMSTATE_WRITER_CHUNK - 1,
        VMSTATE_WRITER_CHUNK,
        VMSTATE_WRITER_CHUNK + 1,
        2 * VMSTATE_WRITER_CHUNK,
        15 * VMSTATE_WRITER_CHUNK + 12345,
    };
    int i;

    for (i = 0; i < ARRAY_SIZE(lengths); i++) {
        vmstate_test_node_reset(t->node);
        run_stream(t, write_party, lengths[i]);
        vmstate_test_node_reset(t->node);
        run_stream(t, write_quickly_party, lengths[i]);
    }
}

static void test_cluster_sizes(VmstateTest *t)
{
    static const struct {
        int64_t cluster;
        uint64_t chunk;
    } sizes[] = {
        { 0, 1 * MiB },                 /* unknown */
        { 512, 1 * MiB },
        { 64 * KiB, 1 * MiB },
        { 768 * KiB, 1536 * KiB },
        { 1 * MiB, 1 * MiB },
        { 2 * MiB, 2 * MiB },
        { 3 * MiB, 3 * MiB },
    };
    int i;

    for (i = 0; i < ARRAY_SIZE(sizes); i++) {
        WriterTest wt;

        vmstate_test_node_reset(t->node);
        t->node->cluster_size = sizes[i].cluster;
        writer_open(&wt, t);
        g_assert_cmpuint(wt.chunk, ==, sizes[i].chunk);
        write_and_finish(&wt, write_party, 3 * sizes[i].chunk + 17);
        check_stream(&wt);
        writer_close(&wt);
    }
}

/* Requests in flight */

static void test_depth(VmstateTest *t)
{
    VmstateStreamStats stats;
    WriterTest wt;

    /* Nothing ends before the depth is reached */
    vmstate_test_hold_until(t->node, VMSTATE_WRITER_DEPTH);
    writer_open(&wt, t);
    write_and_finish(&wt, write_quickly_party, 30 * wt.chunk);
    check_stream(&wt);
    g_assert_cmpuint(t->node->max_in_flight[VMSTATE_TEST_WRITE], ==,
                     VMSTATE_WRITER_DEPTH);
    vmstate_writer_get_stats(wt.w, &stats);
    g_assert_cmpuint(stats.max_in_flight, ==, VMSTATE_WRITER_DEPTH);
    writer_close(&wt);
}

static void test_tuned(VmstateTest *t)
{
    static const struct {
        size_t chunk;
        unsigned depth;
    } options[] = {
        { 64 * KiB, 1 },
        { 64 * KiB, 31 },
        { 4 * MiB, 2 },
    };
    unsigned i;

    for (i = 0; i < ARRAY_SIZE(options); i++) {
        unsigned depth = options[i].depth;
        WriterTest wt;

        vmstate_test_node_reset(t->node);
        vmstate_test_hold_until(t->node, depth);
        writer_open_tuned(&wt, t, options[i].chunk, depth);
        write_and_finish(&wt, write_quickly_party,
                         (depth + 3) * options[i].chunk + 5);
        check_stream(&wt);
        g_assert_cmpuint(t->node->max_in_flight[VMSTATE_TEST_WRITE], ==, depth);
        writer_close(&wt);
    }
}

/* As long as there is a free buffer the producer goes on */
static void test_stalls(VmstateTest *t)
{
    VmstateStreamStats stats;
    WriterTest wt;

    writer_open(&wt, t);
    vmstate_test_hold(t->node);
    write_up_to(&wt, wt.chunk * (VMSTATE_WRITER_DEPTH + 1));
    vmstate_test_wait_in_flight(t->node, VMSTATE_TEST_WRITE,
                                VMSTATE_WRITER_DEPTH);
    vmstate_writer_get_stats(wt.w, &stats);
    g_assert_cmpuint(stats.stalls, ==, 0);
    g_assert_cmpuint(stats.requests, ==, 0);
    g_assert_cmpuint(stats.buffer_bytes, ==,
                     wt.chunk * (VMSTATE_WRITER_DEPTH + 1));

    wt.release = true;
    write_and_finish(&wt, write_quickly_party, 20 * wt.chunk + 1);
    check_stream(&wt);
    vmstate_writer_get_stats(wt.w, &stats);
    if (vmstate_test_is_single_threaded(t)) {
        g_assert_cmpuint(stats.stalls, >, 0);
    }
    g_assert_cmpint(stats.storage_ns, >=,
                    VMSTATE_WRITER_DEPTH * VMSTATE_TEST_LATER_NS);
    writer_close(&wt);
}

/* Storage waits for the producer in mid-stream, not before and not behind it */
static void test_storage_stalls(VmstateTest *t)
{
    const int64_t pause_us = 2000;
    VmstateStreamStats stats;
    WriterTest wt;

    writer_open(&wt, t);
    g_usleep(pause_us);
    write_up_to(&wt, 2 * wt.chunk - 1);
    vmstate_test_settle(t);
    vmstate_writer_get_stats(wt.w, &stats);
    g_assert_cmpuint(stats.storage_stalls, ==, 0);

    g_usleep(pause_us);
    write_up_to(&wt, 2 * wt.chunk);
    vmstate_test_settle(t);
    vmstate_writer_get_stats(wt.w, &stats);
    g_assert_cmpuint(stats.storage_stalls, ==, 1);
    g_assert_cmpint(stats.storage_stall_ns, >=, pause_us * SCALE_US);

    g_usleep(pause_us);
    vmstate_test_run(t, finish_party, &wt);
    check_stream(&wt);
    vmstate_writer_get_stats(wt.w, &stats);
    g_assert_cmpuint(stats.storage_stalls, ==, 1);
    writer_close(&wt);
}

/* While requests are held storage has something to do, whoever waits */
static void test_storage_busy(VmstateTest *t)
{
    VmstateStreamStats stats;
    WriterTest wt;

    writer_open(&wt, t);
    vmstate_test_hold(t->node);
    write_up_to(&wt, 3 * wt.chunk);
    vmstate_test_wait_in_flight(t->node, VMSTATE_TEST_WRITE, 3);
    write_up_to(&wt, 5 * wt.chunk);
    vmstate_test_wait_in_flight(t->node, VMSTATE_TEST_WRITE, 5);
    wt.release = true;
    vmstate_test_run(t, finish_party, &wt);
    check_stream(&wt);
    vmstate_writer_get_stats(wt.w, &stats);
    g_assert_cmpuint(stats.storage_stalls, ==, 0);
    writer_close(&wt);
}

static void coroutine_mixed_fn settle_party(void *opaque)
{
    WriterTest *wt = opaque;

    release_if_told(wt);
    vmstate_writer_settle(wt->w);
    g_assert_cmpuint(vmstate_test_in_flight(wt->t->node), ==, 0);
}

/* What was queued gets to storage, what is in an open chunk stays there */
static void test_settle(VmstateTest *t)
{
    VmstateStreamStats stats;
    WriterTest wt;

    writer_open(&wt, t);
    vmstate_test_run(t, settle_party, &wt);
    vmstate_test_hold(t->node);
    write_up_to(&wt, 3 * wt.chunk + 7);
    wt.release = true;
    vmstate_test_run(t, settle_party, &wt);
    g_assert_cmpuint(t->node->data->len, ==, 3 * wt.chunk);
    vmstate_writer_get_stats(wt.w, &stats);
    if (vmstate_test_is_single_threaded(t)) {
        g_assert_cmpuint(stats.stalls, ==, 1);
    }
    vmstate_test_run(t, settle_party, &wt);
    write_and_finish(&wt, write_party, 11 * wt.chunk + 1);
    check_stream(&wt);
    vmstate_test_run(t, settle_party, &wt);
    writer_close(&wt);
}

/* After an error what is queued is dropped, and that is waited for too */
static void test_settle_after_error(VmstateTest *t)
{
    WriterTest wt;

    writer_open(&wt, t);
    vmstate_test_hold(t->node);
    write_up_to(&wt, (VMSTATE_WRITER_DEPTH + 1) * wt.chunk);
    vmstate_test_wait_in_flight(t->node, VMSTATE_TEST_WRITE,
                                VMSTATE_WRITER_DEPTH);
    vmstate_writer_cancel(wt.w);
    wt.release = true;
    vmstate_test_run(t, settle_party, &wt);
    g_assert_cmpuint(vmstate_test_started(t->node, VMSTATE_TEST_WRITE), ==,
                     VMSTATE_WRITER_DEPTH);
    vmstate_test_run(t, finish_party, &wt);
    vmstate_test_check_error(wt.ret, wt.err, ECANCELED, -1);
    writer_close(&wt);
}

/* A request starts when its chunk is full, not at the next call */
static void test_start_by_itself(VmstateTest *t)
{
    WriterTest wt;

    writer_open(&wt, t);
    vmstate_test_hold(t->node);
    write_up_to(&wt, wt.chunk - 1);
    vmstate_test_run(t, write_quickly_party, &wt);
    g_assert_cmpuint(vmstate_test_started(t->node, VMSTATE_TEST_WRITE), ==, 0);
    write_up_to(&wt, wt.chunk);
    vmstate_test_wait_in_flight(t->node, VMSTATE_TEST_WRITE, 1);
    vmstate_test_release(t->node);
    vmstate_test_settle(t);
    g_assert_cmpuint(t->node->data->len, ==, wt.chunk);

    write_and_finish(&wt, write_quickly_party, wt.chunk + 5);
    check_stream(&wt);
    writer_close(&wt);
}

/* @chunks of @length bytes are full, @in_flight of them are being written */
static void check_drain(WriterTest *wt, uint64_t length, unsigned chunks,
                        unsigned in_flight)
{
    VmstateTest *t = wt->t;

    vmstate_test_hold(t->node);
    write_up_to(wt, length);
    vmstate_test_wait_in_flight(t->node, VMSTATE_TEST_WRITE, in_flight);
    vmstate_test_check_drain_waits(t);
    g_assert_cmpuint(t->node->data->len, ==, chunks * wt->chunk);

    write_and_finish(wt, write_party, 7 * wt->chunk);
    check_stream(wt);
    writer_close(wt);
}

static void test_drain(VmstateTest *t)
{
    WriterTest wt;

    writer_open(&wt, t);
    check_drain(&wt, 4 * wt.chunk + 3, 4, 4);
}

/* Also between one request and the next, there are some to come */
static void test_drain_queued(VmstateTest *t)
{
    WriterTest wt;

    writer_open_tuned(&wt, t, 64 * KiB, 1);
    check_drain(&wt, 2 * wt.chunk, 2, 1);
}

/* The flush is counted in flight too, and finish waits for it */
static void test_finish_waits(VmstateTest *t)
{
    WriterTest wt;

    writer_open(&wt, t);
    write_up_to(&wt, 2 * wt.chunk + 3);
    vmstate_test_hold(t->node);
    wt.release = true;
    vmstate_test_run(t, finish_party, &wt);
    check_stream(&wt);
    writer_close(&wt);
}

/*
 * A stream that waits for its producer is in nobody's way: this would hang if
 * it was counted in flight or held the graph lock.
 */
static void test_idle(VmstateTest *t)
{
    WriterTest wt;
    int i;

    writer_open(&wt, t);
    for (i = 0; i < 3; i++) {
        write_up_to(&wt, i * 2 * wt.chunk + 3);
        vmstate_test_settle(t);
        bdrv_drained_begin(t->bs);
        bdrv_drained_end(t->bs);
        bdrv_graph_wrlock();
        bdrv_graph_wrunlock();
    }
    vmstate_test_run(t, finish_party, &wt);
    check_stream(&wt);
    writer_close(&wt);
}

/* virtio-blk gives its node back to the main loop when the VM stops */
static void test_move_node(VmstateTest *t)
{
    AioContext *iothread_ctx = iothread_get_aio_context(t->iothread);
    AioContext *other = t->ctx == iothread_ctx ? qemu_get_aio_context()
                                               : iothread_ctx;
    WriterTest wt;

    writer_open(&wt, t);
    write_up_to(&wt, 3 * wt.chunk + 3);
    bdrv_try_change_aio_context(t->bs, other, NULL, &error_abort);
    write_up_to(&wt, 13 * wt.chunk + 3);
    bdrv_try_change_aio_context(t->bs, t->ctx, NULL, &error_abort);
    write_up_to(&wt, 14 * wt.chunk);
    bdrv_try_change_aio_context(t->bs, other, NULL, &error_abort);
    vmstate_test_run(t, finish_party, &wt);
    check_stream(&wt);
    writer_close(&wt);
}

/* Errors */

static void run_failing_stream(VmstateTest *t, VmstateTestPace pace,
                               uint64_t length, int err)
{
    WriterTest wt;

    t->node->pace = pace;
    writer_open(&wt, t);
    wt.length = length;
    vmstate_test_run(t, write_quickly_party, &wt);
    if (wt.ret < 0) {
        vmstate_test_run(t, insist_party, &wt);
    }
    vmstate_test_run(t, finish_party, &wt);
    check_failed_stream(&wt, err);
    g_assert_cmpuint(vmstate_test_started(t->node, VMSTATE_TEST_FLUSH), <=,
                     t->node->fail[VMSTATE_TEST_FLUSH].count);
    writer_close(&wt);
}

static void test_write_error(VmstateTest *t)
{
    const unsigned chunks = 11;
    const uint64_t length = chunks * VMSTATE_WRITER_CHUNK + 1;
    unsigned i;

    for (i = 1; i <= chunks + 1; i++) {
        vmstate_test_node_reset(t->node);
        vmstate_test_fail(t->node, VMSTATE_TEST_WRITE, i, 1, ENOSPC);
        run_failing_stream(t, VMSTATE_TEST_AT_ONCE, length, ENOSPC);
        /* They start in the order of the stream */
        g_assert_cmpint(t->node->failed_offset, ==,
                        (i - 1) * VMSTATE_WRITER_CHUNK);

        vmstate_test_node_reset(t->node);
        vmstate_test_fail(t->node, VMSTATE_TEST_WRITE, i, 1, EIO);
        run_failing_stream(t, VMSTATE_TEST_SHUFFLE, length, EIO);
    }
}

static void test_all_writes_fail(VmstateTest *t)
{
    vmstate_test_fail(t->node, VMSTATE_TEST_WRITE, 1, 1000, EIO);
    run_failing_stream(t, VMSTATE_TEST_SHUFFLE, 11 * VMSTATE_WRITER_CHUNK + 1,
                       EIO);
    g_assert_cmpuint(t->node->data->len, ==, 0);
}

static void test_flush_error(VmstateTest *t)
{
    static const uint64_t lengths[] = { 0, 1, 3 * VMSTATE_WRITER_CHUNK };
    int i;

    for (i = 0; i < ARRAY_SIZE(lengths); i++) {
        WriterTest wt;

        vmstate_test_node_reset(t->node);
        vmstate_test_fail(t->node, VMSTATE_TEST_FLUSH, 1, 1, ENOSPC);
        writer_open(&wt, t);
        write_and_finish(&wt, write_party, lengths[i]);
        vmstate_test_check_error(wt.ret, wt.err, ENOSPC, -1);
        check_requests(&wt);
        check_flush(&wt);       /* the second finish does not try again */
        check_stats(&wt);
        writer_close(&wt);
    }
}

/* First is what happens first, not what comes first in the stream */
static void test_two_errors(VmstateTest *t)
{
    WriterTest wt;

    writer_open(&wt, t);
    vmstate_test_hold(t->node);
    write_up_to(&wt, VMSTATE_WRITER_DEPTH * wt.chunk + 7);
    vmstate_test_wait_in_flight(t->node, VMSTATE_TEST_WRITE,
                                VMSTATE_WRITER_DEPTH);
    vmstate_test_fail_one(t->node, 1, EIO);
    vmstate_test_fail_one(t->node, 4, ENOSPC);
    vmstate_test_release_one(t->node, 4);
    vmstate_test_wait_in_flight(t->node, VMSTATE_TEST_WRITE,
                                VMSTATE_WRITER_DEPTH - 1);
    wt.release = true;
    vmstate_test_run(t, finish_party, &wt);

    check_failed_stream(&wt, ENOSPC);
    g_assert_cmpint(t->node->failed_offset, ==, 4 * wt.chunk);
    g_assert_cmpuint(vmstate_test_started(t->node, VMSTATE_TEST_WRITE), ==,
                     VMSTATE_WRITER_DEPTH);
    g_assert_cmpuint(vmstate_test_started(t->node, VMSTATE_TEST_FLUSH), ==, 0);
    writer_close(&wt);
}

/* A producer that waits for a buffer is told, and told soon */
static void test_error_in_stall(VmstateTest *t)
{
    VmstateTestRequest *held;
    WriterTest wt;

    writer_open(&wt, t);
    vmstate_test_hold(t->node);
    write_up_to(&wt, VMSTATE_WRITER_DEPTH * wt.chunk);
    vmstate_test_wait_in_flight(t->node, VMSTATE_TEST_WRITE,
                                VMSTATE_WRITER_DEPTH);
    vmstate_test_fail_one(t->node, 2, EIO);
    vmstate_test_release_one_later(t->node, 2);
    write_up_to(&wt, 20 * wt.chunk);
    vmstate_test_check_error(wt.ret, wt.err, EIO, 2 * wt.chunk);
    g_assert_cmpuint(vmstate_test_in_flight(t->node), ==,
                     VMSTATE_WRITER_DEPTH - 1);

    held = &g_array_index(t->node->log, VmstateTestRequest, 0);
    g_assert_false(held->ended);
    wt.release = true;
    vmstate_test_run(t, finish_party, &wt);
    check_failed_stream(&wt, EIO);
    writer_close(&wt);
}

static void *cancel_thread(void *opaque)
{
    WriterTest *wt = opaque;

    g_usleep(VMSTATE_TEST_LATER_NS / SCALE_US);
    vmstate_writer_cancel(wt->w);
    return NULL;
}

/* Somebody else ends a stream whose producer waits for a buffer */
static void test_cancel_in_stall(VmstateTest *t)
{
    VmstateTestRequest *held;
    QemuThread thread;
    WriterTest wt;

    writer_open(&wt, t);
    vmstate_test_hold(t->node);
    write_up_to(&wt, VMSTATE_WRITER_DEPTH * wt.chunk);
    vmstate_test_wait_in_flight(t->node, VMSTATE_TEST_WRITE,
                                VMSTATE_WRITER_DEPTH);
    qemu_thread_create(&thread, "cancel", cancel_thread, &wt,
                       QEMU_THREAD_JOINABLE);
    write_up_to(&wt, 20 * wt.chunk);
    qemu_thread_join(&thread);
    vmstate_test_check_error(wt.ret, wt.err, ECANCELED, -1);

    /* Nothing had to end for that, and nothing begins any more */
    held = &g_array_index(t->node->log, VmstateTestRequest, 0);
    g_assert_false(held->ended);
    wt.release = true;
    vmstate_test_run(t, finish_party, &wt);
    vmstate_test_check_error(wt.ret, wt.err, ECANCELED, -1);
    g_assert_cmpuint(vmstate_test_started(t->node, VMSTATE_TEST_WRITE), ==,
                     VMSTATE_WRITER_DEPTH);
    g_assert_cmpuint(vmstate_test_started(t->node, VMSTATE_TEST_FLUSH), ==, 0);
    check_stats(&wt);
    writer_close(&wt);
}

static void test_cancel_buffered(VmstateTest *t)
{
    WriterTest wt;

    writer_open(&wt, t);
    write_up_to(&wt, wt.chunk - 1);
    vmstate_writer_cancel(wt.w);
    vmstate_test_run(t, finish_party, &wt);
    vmstate_test_check_error(wt.ret, wt.err, ECANCELED, -1);
    g_assert_cmpuint(vmstate_test_started(t->node, VMSTATE_TEST_WRITE), ==, 0);
    writer_close(&wt);
}

static void test_cancel_then_free(VmstateTest *t)
{
    WriterTest wt;

    writer_open(&wt, t);
    write_up_to(&wt, 3 * wt.chunk + 1);
    vmstate_writer_cancel(wt.w);
    writer_close(&wt);
    g_assert_cmpuint(vmstate_test_started(t->node, VMSTATE_TEST_FLUSH), ==, 0);
}

/* The reason is what came first */
static void test_cancel_after_error(VmstateTest *t)
{
    WriterTest wt;

    vmstate_test_fail(t->node, VMSTATE_TEST_WRITE, 1, 1, ENOSPC);
    writer_open(&wt, t);
    write_and_finish(&wt, write_quickly_party, 3 * wt.chunk);
    vmstate_writer_cancel(wt.w);
    vmstate_test_run(t, finish_party, &wt);
    check_failed_stream(&wt, ENOSPC);
    writer_close(&wt);
}

/* Without finish, an error is nobody's business; it must not leak either */
static void test_free_after_error(VmstateTest *t)
{
    WriterTest wt;

    vmstate_test_fail(t->node, VMSTATE_TEST_WRITE, 2, 1, EIO);
    writer_open(&wt, t);
    write_up_to(&wt, 3 * wt.chunk + 1);
    writer_close(&wt);
    g_assert_cmpuint(t->node->started_after_failure, ==, 0);
    g_assert_cmpuint(vmstate_test_started(t->node, VMSTATE_TEST_FLUSH), ==, 0);
}

/* A node that cannot keep VM state says so when it is asked to */
static void test_unsupported(void)
{
    QDict *options = qdict_new();
    struct iovec iov = { (void *)"state", 5 };
    BlockDriverState *bs;
    VmstateWriter *w;
    Error *err = NULL;
    int ret;

    qdict_put_str(options, "driver", "null-co");
    qdict_put_str(options, "node-name", VMSTATE_TEST_NODE_NAME);
    bs = bdrv_open(NULL, NULL, options, BDRV_O_RDWR, &error_abort);

    w = vmstate_writer_new(bs, NULL);
    g_assert_cmpint(vmstate_writer_write(w, &iov, 1, &error_abort), ==, 0);
    ret = vmstate_writer_finish(w, &err);
    vmstate_test_check_error(ret, err, ENOTSUP, 0);
    error_free(err);
    vmstate_writer_free(w);
    bdrv_unref(bs);
}

/* Memory */

/* Not one buffer can be had */
static void test_no_memory(void)
{
    VmstateTest *t;
    WriterTest wt;

    if (!vmstate_test_in_subprocess()) {
        return;
    }
    t = vmstate_test_new(&vmstate_test_settings[0]);
    t->node->cluster_size = 1 * GiB;
    writer_open(&wt, t);

    vmstate_test_limit_memory(512 * MiB);
    write_some(&wt, 17);
    vmstate_test_check_error(wt.ret, wt.err, ENOMEM, 0);
    insist_party(&wt);
    finish_party(&wt);
    check_stats(&wt);
    g_assert_cmpuint(t->node->log->len, ==, 0);
    vmstate_test_unlimit_memory();

    writer_close(&wt);
    vmstate_test_free(t);
}

/* Some can be had: slower, but it is all the same for the stream */
static void test_little_memory(void)
{
    const size_t chunk = 32 * MiB;
    VmstateStreamStats stats;
    VmstateTest *t;
    WriterTest wt;

    if (!vmstate_test_in_subprocess()) {
        return;
    }
    t = vmstate_test_new(&vmstate_test_settings[0]);
    t->node->cluster_size = chunk;
    vmstate_test_node_reserve(t->node, 4 * chunk);
    writer_open(&wt, t);

    vmstate_test_limit_memory(3 * chunk);
    wt.length = 4 * chunk;
    while (vmstate_writer_bytes(wt.w) < wt.length) {
        write_some(&wt, 64 * KiB);
    }
    finish_party(&wt);
    vmstate_test_unlimit_memory();

    check_stream(&wt);
    vmstate_writer_get_stats(wt.w, &stats);
    g_assert_cmpuint(stats.buffer_bytes, <, wt.length);
    writer_close(&wt);
    vmstate_test_free(t);
}

/* One stream for each way to end */
static void come_and_go(VmstateTest *t, int i)
{
    WriterTest wt;

    vmstate_test_node_reset(t->node);
    vmstate_test_fail(t->node, VMSTATE_TEST_WRITE, 1 + i % 5, i % 4 == 3, EIO);
    writer_open(&wt, t);
    if (i % 4 == 2) {
        /* Freed with all buffers full, one of them still waiting */
        vmstate_test_hold(t->node);
        write_up_to(&wt, (VMSTATE_WRITER_DEPTH + 1) * wt.chunk);
        vmstate_test_release_later(t->node);
    } else {
        write_up_to(&wt, 12 * wt.chunk + 1);
    }
    if (i % 4 == 0) {
        finish_party(&wt);
    } else if (i % 4 == 1) {
        abort_party(&wt);
    }
    writer_close(&wt);
}

/* Leak checkers do not see what is mapped, so look at the address space */
static void test_no_leak(void)
{
    VmstateTest *t;
    uint64_t before;
    int i;

    if (!vmstate_test_in_subprocess()) {
        return;
    }
    t = vmstate_test_new(&vmstate_test_settings[0]);
    vmstate_test_node_reserve(t->node, 13 * VMSTATE_WRITER_CHUNK);
    for (i = 0; i < 8; i++) {
        come_and_go(t, i);
    }
    before = vmstate_test_memory_used();
    for (i = 0; i < 80; i++) {
        come_and_go(t, i);
    }
    g_assert_cmpuint(vmstate_test_memory_used(), <,
                     before + 10 * VMSTATE_WRITER_CHUNK);
    vmstate_test_free(t);
}

/* Giving up */

/* After abort_party(), when the stream had no error before */
static void check_aborted_stream(WriterTest *wt)
{
    VmstateTestNode *node = wt->t->node;
    unsigned started = vmstate_test_started(node, VMSTATE_TEST_WRITE);

    vmstate_test_run(wt->t, finish_party, wt);
    vmstate_test_check_error(wt->ret, wt->err, ECANCELED, -1);
    vmstate_test_settle(wt->t);
    g_assert_cmpuint(vmstate_test_started(node, VMSTATE_TEST_WRITE), ==,
                     started);
    g_assert_cmpuint(vmstate_test_started(node, VMSTATE_TEST_FLUSH), ==, 0);
    check_stats(wt);
}

static void test_abort_unused(VmstateTest *t)
{
    WriterTest wt;

    writer_open(&wt, t);
    vmstate_test_run(t, abort_party, &wt);
    check_aborted_stream(&wt);
    g_assert_cmpuint(t->node->log->len, ==, 0);
    writer_close(&wt);
}

/* Nothing but a part of a chunk there; it is dropped */
static void test_abort_buffered(VmstateTest *t)
{
    WriterTest wt;

    writer_open(&wt, t);
    write_up_to(&wt, 5);
    vmstate_test_run(t, abort_party, &wt);
    check_aborted_stream(&wt);
    g_assert_cmpuint(t->node->log->len, ==, 0);
    writer_close(&wt);
}

/* All buffers full: one waits for its turn and never gets it */
static void test_abort_in_flight(VmstateTest *t)
{
    WriterTest wt;

    writer_open(&wt, t);
    vmstate_test_hold(t->node);
    write_up_to(&wt, (VMSTATE_WRITER_DEPTH + 1) * wt.chunk);
    vmstate_test_wait_in_flight(t->node, VMSTATE_TEST_WRITE,
                                VMSTATE_WRITER_DEPTH);
    wt.release = true;
    vmstate_test_run(t, abort_party, &wt);
    check_aborted_stream(&wt);
    if (vmstate_test_is_single_threaded(t)) {
        g_assert_cmpuint(vmstate_test_started(t->node, VMSTATE_TEST_WRITE), ==,
                         VMSTATE_WRITER_DEPTH);
    }
    writer_close(&wt);
}

/* A write that fails while abort waits for it is not the first error */
static void test_abort_then_error(VmstateTest *t)
{
    WriterTest wt;

    vmstate_test_fail(t->node, VMSTATE_TEST_WRITE, 2, 1, EIO);
    writer_open(&wt, t);
    vmstate_test_hold(t->node);
    write_up_to(&wt, 3 * wt.chunk + 1);
    vmstate_test_wait_in_flight(t->node, VMSTATE_TEST_WRITE, 3);
    wt.release = true;
    vmstate_test_run(t, abort_party, &wt);
    vmstate_test_run(t, finish_party, &wt);
    if (wt.ret == -EIO && !vmstate_test_is_single_threaded(t)) {
        /* The other thread was faster than the party */
        check_failed_stream(&wt, EIO);
    } else {
        check_aborted_stream(&wt);
    }
    writer_close(&wt);
}

static void test_error_then_abort(VmstateTest *t)
{
    WriterTest wt;

    vmstate_test_fail(t->node, VMSTATE_TEST_WRITE, 2, 1, EIO);
    writer_open(&wt, t);
    write_up_to(&wt, 3 * wt.chunk + 1);
    vmstate_test_settle(t);
    vmstate_test_run(t, abort_party, &wt);
    vmstate_test_run(t, finish_party, &wt);
    check_failed_stream(&wt, EIO);
    writer_close(&wt);
}

static void test_abort_finished(VmstateTest *t)
{
    WriterTest wt;

    writer_open(&wt, t);
    write_and_finish(&wt, write_party, 3 * wt.chunk + 1);
    vmstate_test_run(t, abort_party, &wt);
    vmstate_test_run(t, finish_party, &wt);
    check_stream(&wt);
    writer_close(&wt);
}

static void test_free_unfinished(VmstateTest *t)
{
    WriterTest wt;

    vmstate_writer_free(NULL);

    writer_open(&wt, t);
    writer_close(&wt);

    writer_open(&wt, t);
    write_up_to(&wt, 5);
    writer_close(&wt);
    g_assert_cmpuint(t->node->log->len, ==, 0);
}

static void test_free_in_flight(VmstateTest *t)
{
    WriterTest wt;

    writer_open(&wt, t);
    vmstate_test_hold(t->node);
    write_up_to(&wt, (VMSTATE_WRITER_DEPTH + 1) * wt.chunk);
    vmstate_test_wait_in_flight(t->node, VMSTATE_TEST_WRITE,
                                VMSTATE_WRITER_DEPTH);
    vmstate_test_release_later(t->node);
    writer_close(&wt);
    /* An IOThread may have gone on before it was told */
    if (!t->setting->node_in_iothread) {
        g_assert_cmpuint(t->node->log->len, ==, VMSTATE_WRITER_DEPTH);
    }
}

/* A stream that is given up leaves another one on the node alone */
static void test_two_streams(VmstateTest *t)
{
    WriterTest a, b;

    writer_open(&a, t);
    writer_open(&b, t);
    write_up_to(&b, 2 * b.chunk + 1);
    vmstate_test_settle(t);
    writer_close(&b);
    vmstate_test_node_reset(t->node);
    write_and_finish(&a, write_party, 4 * a.chunk + 9);
    check_stream(&a);
    writer_close(&a);
}

static gint compare_durations(gconstpointer a, gconstpointer b)
{
    const int64_t *x = a, *y = b;

    return *x < *y ? -1 : *x > *y;
}

/* Percentiles against sorted durations */
static void test_latency(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(vmstate_test_seed());
    g_autoptr(GArray) ns = g_array_new(false, false, sizeof(int64_t));
    VmstateStreamStats stats = { 0 };
    unsigned percent, i;

    g_assert_cmpint(vmstate_stats_latency(&stats, 99), ==, 0);
    for (i = 0; i < 1000; i++) {
        /* From less than a microsecond to four seconds */
        int64_t value = g_rand_int(rand) >> g_rand_int_range(rand, 0, 31);

        g_array_append_val(ns, value);
        vmstate_stats_request(&stats, value);
    }
    g_array_sort(ns, compare_durations);
    for (percent = 1; percent <= 100; percent++) {
        int64_t is = vmstate_stats_latency(&stats, percent);
        int64_t should = g_array_index(ns, int64_t, percent * 10 - 1);

        g_assert_cmpint(is, >=, should);
        g_assert_cmpfloat(is, <=, MAX(should, SCALE_US) * 1.42);
    }
    check_latency(&stats);
}

static void add_cases(void)
{
    static const VmstateTestEntry cases[] = {
        { "lengths", test_lengths },
        { "cluster-sizes", test_cluster_sizes },
        { "depth", test_depth },
        { "depth/tuned", test_tuned },
        { "stalls", test_stalls },
        { "storage-stalls", test_storage_stalls },
        { "storage-stalls/busy", test_storage_busy },
        { "settle", test_settle },
        { "settle/after-error", test_settle_after_error },
        { "start-by-itself", test_start_by_itself },
        { "drain", test_drain },
        { "drain/queued", test_drain_queued },
        { "finish-waits", test_finish_waits },
        { "idle", test_idle },
        { "move-node", test_move_node },
        { "two-streams", test_two_streams },
        { "error/write", test_write_error },
        { "error/all-writes", test_all_writes_fail },
        { "error/flush", test_flush_error },
        { "error/two", test_two_errors },
        { "error/in-stall", test_error_in_stall },
        { "error/then-free", test_free_after_error },
        { "error/then-abort", test_error_then_abort },
        { "cancel/in-stall", test_cancel_in_stall },
        { "cancel/buffered", test_cancel_buffered },
        { "cancel/then-free", test_cancel_then_free },
        { "cancel/after-error", test_cancel_after_error },
        { "abort/unused", test_abort_unused },
        { "abort/buffered", test_abort_buffered },
        { "abort/in-flight", test_abort_in_flight },
        { "abort/then-error", test_abort_then_error },
        { "abort/finished", test_abort_finished },
        { "free/unfinished", test_free_unfinished },
        { "free/in-flight", test_free_in_flight },
        { }
    };

    vmstate_test_add("/vmstate-writer", cases);
}

int main(int argc, char **argv)
{
    bdrv_init();
    qemu_init_main_loop(&error_abort);

    g_test_init(&argc, &argv, NULL);
    g_test_message("VMSTATE_TEST_SEED=%" PRIu32, vmstate_test_seed());

    add_cases();
    g_test_add_func("/vmstate-writer/error/unsupported", test_unsupported);
    g_test_add_func("/vmstate-writer/latency", test_latency);
    g_test_add_func("/vmstate-writer/memory/none", test_no_memory);
    g_test_add_func("/vmstate-writer/memory/little", test_little_memory);
    g_test_add_func("/vmstate-writer/memory/no-leak", test_no_leak);

    return g_test_run();
}
