/*
 * VM state reader tests
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
#include "block/vmstate-reader.h"
#include "vmstate-test-driver.h"

#define MAX_NIOV 64

/*
 * Smaller than the default: sanitizers take their time for each byte.  What
 * depends on the size is tried with others, too.
 */
#define WINDOW (4 * MiB)

/* What the consumer's memory contains where the reader has no business */
#define UNTOUCHED 0x33

/* A state that is a multiple of nothing and fills the window a few times */
#define LONG_STATE (13 * MiB + 4321)

/*
 * Several reads at a time are first tried when three windows have been read,
 * and for another three: see block/vmstate-depth.c
 */
#define DEEP_WINDOW (4 * MiB)
#define DEEP_FROM (3 * DEEP_WINDOW)
#define DEEP_STATE (2 * DEEP_FROM + 4321)
#define DEEP_REQUEST MiB
#define DEEP_DEPTH 3

typedef struct ReaderTest {
    VmstateTest *t;
    VmstateReader *r;
    int64_t window;
    unsigned depth;         /* reads at a time at most */
    int64_t size;           /* as told to the reader */
    int64_t stored;         /* bytes of the model stream in the node */
    uint64_t delivered;

    /* For the party: what to do */
    int64_t until;
    size_t ask;             /* bytes to ask for at a time; 0: random */
    int64_t seek_to;
    bool release;           /* held requests, before anything may wait */
    ssize_t got;            /* by read_once_party() */

    /* The last error, and where the stream stood */
    unsigned errors;
    int ret;
    Error *err;
    int64_t err_pos;
} ReaderTest;

static void reader_open_tuned(ReaderTest *rt, VmstateTest *t, int64_t stored,
                              int64_t size, const VmstateStreamOptions *options)
{
    int64_t window = options->window;

    t->node->model_bytes = stored;
    t->node->max_read = window / 2;
    *rt = (ReaderTest) {
        .t = t,
        .r = vmstate_reader_new(t->bs, size, t->read_ctx, options),
        .window = window,
        .depth = MIN(options->read_depth,
                     window / VMSTATE_READER_MIN_REQUEST - 1),
        .size = size,
        .stored = stored,
    };
}

static void reader_open_sized(ReaderTest *rt, VmstateTest *t, int64_t stored,
                              int64_t size)
{
    static const VmstateStreamOptions one_at_a_time = {
        .window = WINDOW,
        .read_depth = 1,
    };

    reader_open_tuned(rt, t, stored, size, &one_at_a_time);
}

static void reader_open(ReaderTest *rt, VmstateTest *t, int64_t size)
{
    reader_open_sized(rt, t, size, size);
}

static void check_stats(ReaderTest *rt);

static void reader_close(ReaderTest *rt)
{
    vmstate_test_settle(rt->t);
    check_stats(rt);
    vmstate_reader_free(rt->r);
    rt->r = NULL;
    error_free(rt->err);
    rt->err = NULL;
    g_assert_cmpuint(vmstate_test_in_flight(rt->t->node), ==, 0);
}

/* The parties */

static void release_if_told(ReaderTest *rt)
{
    if (rt->release) {
        rt->release = false;
        vmstate_test_release_later(rt->t->node);
    }
}

static int64_t end_of_stream(ReaderTest *rt)
{
    return rt->size < 0 ? INT64_MAX : rt->size;
}

/* The consumer gets to @pos at most: the driver asserts what follows */
static void limit_reads(ReaderTest *rt, int64_t pos)
{
    VmstateTestNode *node = rt->t->node;
    int64_t end = end_of_stream(rt);

    QEMU_LOCK_GUARD(&node->lock);
    node->read_limit = pos >= end - rt->window ? end
                                                : pos + rt->window;
}

/* Model stream up to what is stored, then zeroes, then untouched memory */
static void check_bytes(ReaderTest *rt, const uint8_t *buf, size_t bytes,
                        int64_t pos, size_t delivered)
{
    g_assert(vmstate_test_matches_stored(buf, pos, delivered, rt->stored));
    g_assert(vmstate_test_all_are(buf + delivered, bytes - delivered,
                                  UNTOUCHED));
}

static void keep_error(ReaderTest *rt, int ret, Error *err)
{
    error_free(rt->err);
    rt->errors++;
    rt->ret = ret;
    rt->err = err;
    rt->err_pos = vmstate_reader_tell(rt->r);
}

static ssize_t coroutine_mixed_fn read_some(ReaderTest *rt, size_t bytes,
                                            unsigned niov)
{
    int64_t pos = vmstate_reader_tell(rt->r);
    g_autofree uint8_t *buf = g_malloc(bytes + 1);
    struct iovec iov[MAX_NIOV];
    Error *err = NULL;
    ssize_t ret;

    memset(buf, UNTOUCHED, bytes);
    vmstate_test_split(rt->t->rand, iov, niov, buf, bytes);
    limit_reads(rt, pos + bytes);
    ret = vmstate_reader_read(rt->r, iov, niov, &err);

    g_assert_cmpint(ret < 0, ==, err != NULL);
    g_assert_cmpint(ret, <=, (ssize_t)bytes);
    check_bytes(rt, buf, bytes, pos, MAX(ret, 0));
    g_assert_cmpint(vmstate_reader_tell(rt->r), ==, pos + MAX(ret, 0));
    if (ret < 0) {
        keep_error(rt, ret, err);
    } else {
        g_assert_cmpint(ret == 0, ==, bytes == 0 || pos >= end_of_stream(rt));
        rt->delivered += ret;
    }
    return ret;
}

static size_t random_ask(GRand *rand)
{
    switch (g_rand_int_range(rand, 0, 16)) {
    case 0:
        return g_rand_int_range(rand, 1, 2 * MiB);
    case 1:
        return g_rand_int_range(rand, 0, 64) ? KiB : 3 * WINDOW / 2;
    case 2:
        return g_rand_int_range(rand, 1, 9);
    default:
        return g_rand_int_range(rand, 1, 256 * KiB);
    }
}

static void coroutine_mixed_fn read_once_party(void *opaque)
{
    ReaderTest *rt = opaque;

    rt->got = read_some(rt, rt->ask, 3);
}

/* Read up to rt->until, or to the first error, or to the end of the stream */
static void coroutine_mixed_fn read_party(void *opaque)
{
    ReaderTest *rt = opaque;
    GRand *rand = rt->t->rand;
    ssize_t ret = 1;

    release_if_told(rt);
    while (ret > 0 && vmstate_reader_tell(rt->r) < rt->until) {
        int64_t left = rt->until - vmstate_reader_tell(rt->r);
        size_t ask = rt->ask ?: random_ask(rand);
        unsigned niov = rt->ask ? 1 : g_rand_int_range(rand, 1, MAX_NIOV + 1);

        ret = read_some(rt, MIN(ask, left), niov);
    }
}

/* Read to the end, in spite of errors */
static void coroutine_mixed_fn read_on_party(void *opaque)
{
    ReaderTest *rt = opaque;
    unsigned errors;

    rt->until = end_of_stream(rt);
    do {
        errors = rt->errors;
        read_party(rt);
    } while (rt->errors > errors);
}

static void coroutine_mixed_fn seek_party(void *opaque)
{
    ReaderTest *rt = opaque;
    int64_t pos = vmstate_reader_tell(rt->r);

    release_if_told(rt);
    /* What is in flight was right before */
    limit_reads(rt, MAX(pos, rt->seek_to));
    vmstate_reader_seek(rt->r, rt->seek_to);
    g_assert_cmpint(vmstate_reader_tell(rt->r), ==, rt->seek_to);
}

static void read_until(ReaderTest *rt, int64_t until)
{
    rt->until = until;
    vmstate_test_run(rt->t, read_party, rt);
}

static void seek_to(ReaderTest *rt, int64_t pos)
{
    rt->seek_to = pos;
    vmstate_test_run(rt->t, seek_party, rt);
}

/* The checks */

static VmstateTestRequest get_read(ReaderTest *rt, unsigned index)
{
    VmstateTestNode *node = rt->t->node;

    QEMU_LOCK_GUARD(&node->lock);
    g_assert_cmpuint(index, <, node->log->len);
    return g_array_index(node->log, VmstateTestRequest, index);
}

static unsigned nb_reads(ReaderTest *rt)
{
    return vmstate_test_started(rt->t->node, VMSTATE_TEST_READ);
}

/* Where the @index-th read ends */
static int64_t end_of_read(ReaderTest *rt, unsigned index)
{
    VmstateTestRequest req = get_read(rt, index);

    return req.offset + req.bytes;
}

/* The figures are those that the driver counted */
static void check_stats(ReaderTest *rt)
{
    VmstateTestNode *node = rt->t->node;
    uint64_t ended = 0, max_request = 0;
    VmstateStreamStats stats;
    unsigned i;

    vmstate_reader_get_stats(rt->r, &stats);
    WITH_QEMU_LOCK_GUARD(&node->lock) {
        for (i = 0; i < node->log->len; i++) {
            VmstateTestRequest *req = &g_array_index(node->log,
                                                     VmstateTestRequest, i);

            ended += req->ended;
            if (req->ended && req->ret == 0) {
                max_request = MAX(max_request, req->bytes);
            }
        }
        g_assert_cmpuint(node->max_in_flight[VMSTATE_TEST_READ], <=,
                         stats.max_in_flight);
    }
    g_assert_cmpuint(stats.requests, ==, ended);
    g_assert_cmpuint(stats.max_request, ==, max_request);
    g_assert_cmpuint(stats.max_in_flight, >=, ended > 0);
    g_assert_cmpuint(stats.max_in_flight, <=, rt->depth);
    g_assert_cmpint(!stats.storage_ns, ==, !ended);
    g_assert_cmpuint(stats.bytes, ==, rt->delivered);
    g_assert_cmpuint(stats.buffer_bytes, <=, rt->window);
    if (rt->size >= 0 && rt->size < rt->window) {
        g_assert_cmpuint(stats.buffer_bytes, <=,
                         QEMU_ALIGN_UP(rt->size, VMSTATE_READER_MIN_REQUEST));
    }
    g_assert_cmpint(!stats.stalls, ==, !stats.stall_ns);
    g_assert_cmpint(!stats.storage_stalls, ==, !stats.storage_stall_ns);
}

/* Reads @first and later follow each other from @offset, never two at a time */
static void check_sequential(ReaderTest *rt, unsigned first, int64_t offset)
{
    unsigned i;

    for (i = first; i < nb_reads(rt); i++) {
        VmstateTestRequest req = get_read(rt, i);

        g_assert_cmpint(req.op, ==, VMSTATE_TEST_READ);
        g_assert_cmpint(req.offset, ==, offset);
        g_assert_cmpint(req.bytes, >, 0);
        g_assert_cmpuint(req.others, ==, 0);
        offset += req.bytes;
        g_assert_cmpint(offset, <=, end_of_stream(rt));
    }
}

/* Read and ended well: every byte of the state once */
static void check_whole_stream(ReaderTest *rt)
{
    unsigned n = nb_reads(rt);

    g_assert_cmpuint(rt->errors, ==, 0);
    g_assert_cmpint(vmstate_reader_tell(rt->r), ==, rt->size);
    g_assert_cmpuint(rt->delivered, ==, rt->size);
    check_sequential(rt, 0, 0);
    if (rt->size) {
        g_assert_cmpint(end_of_read(rt, n - 1), ==, rt->size);
        vmstate_test_check_context(rt->t->node,
                                   rt->t->read_ctx ?: rt->t->ctx);
    } else {
        g_assert_cmpuint(n, ==, 0);
    }
}

/* Whole streams */

static void test_sizes(VmstateTest *t)
{
    static const int64_t sizes[] = {
        0, 1, 4095,
        1 * MiB - 1, 1 * MiB, 1 * MiB + 1,
        2 * MiB + 5, 3 * MiB,
        WINDOW - 1, WINDOW, WINDOW + 1,
        LONG_STATE,
    };
    int i;

    for (i = 0; i < ARRAY_SIZE(sizes); i++) {
        ReaderTest rt;

        vmstate_test_node_reset(t->node);
        reader_open(&rt, t, sizes[i]);
        read_until(&rt, INT64_MAX);
        check_whole_stream(&rt);
        /* The end is the end however often one asks */
        read_until(&rt, INT64_MAX);
        check_whole_stream(&rt);
        reader_close(&rt);
    }
}

/* The same with a node that answers at once, without yielding */
static void test_fast_node(VmstateTest *t)
{
    ReaderTest rt;

    t->node->pace = VMSTATE_TEST_AT_ONCE;
    reader_open(&rt, t, LONG_STATE);
    read_until(&rt, INT64_MAX);
    check_whole_stream(&rt);
    reader_close(&rt);
}

static void test_tuned(VmstateTest *t)
{
    static const size_t windows[] = {
        2 * MiB, 3 * MiB, VMSTATE_READER_WINDOW, 16 * MiB,
    };
    unsigned i;

    for (i = 0; i < ARRAY_SIZE(windows); i++) {
        VmstateStreamOptions options = {
            .window = windows[i],
            .read_depth = 1,
        };
        VmstateStreamStats stats;
        ReaderTest rt;

        vmstate_test_node_reset(t->node);
        reader_open_tuned(&rt, t, 2 * LONG_STATE, 2 * LONG_STATE, &options);
        options.window = 0;     /* it was copied */
        read_until(&rt, INT64_MAX);
        check_whole_stream(&rt);
        vmstate_reader_get_stats(rt.r, &stats);
        g_assert_cmpuint(stats.buffer_bytes, ==, windows[i]);
        reader_close(&rt);
    }
}

/* As the loader of a VM reads: 32 KiB at a time */
static void test_small_reads(VmstateTest *t)
{
    ReaderTest rt;

    reader_open(&rt, t, LONG_STATE);
    rt.ask = 32 * KiB;
    read_until(&rt, INT64_MAX);
    check_whole_stream(&rt);
    reader_close(&rt);
}

/* One byte at a time over the end of the ring, and over the end of the state */
static void test_tiny_reads(VmstateTest *t)
{
    const int64_t size = 2 * WINDOW + 3000;
    ReaderTest rt;

    reader_open(&rt, t, size);
    read_until(&rt, WINDOW - 5000);
    rt.ask = 1;
    read_until(&rt, WINDOW + 5000);
    rt.ask = 7;
    read_until(&rt, WINDOW + 64 * KiB);
    rt.ask = 0;
    read_until(&rt, 2 * WINDOW - 100);
    rt.ask = 1;
    read_until(&rt, INT64_MAX);
    check_whole_stream(&rt);
    reader_close(&rt);
}

static void test_empty_iov(VmstateTest *t)
{
    ReaderTest rt;

    reader_open(&rt, t, 1000);
    g_assert_cmpint(vmstate_reader_read(rt.r, NULL, 0, &error_abort), ==, 0);
    g_assert_cmpint(read_some(&rt, 0, 3), ==, 0);
    g_assert_cmpuint(nb_reads(&rt), ==, 0);
    reader_close(&rt);
}

/* The length is not known, and there is no end: zeroes for ever */
static void test_unknown_size(VmstateTest *t)
{
    const int64_t stored = 7 * MiB + 77;
    ReaderTest rt;

    reader_open_sized(&rt, t, stored, -1);
    read_until(&rt, stored + 2 * WINDOW);
    g_assert_cmpint(vmstate_reader_tell(rt.r), ==, stored + 2 * WINDOW);
    g_assert_cmpuint(rt.errors, ==, 0);
    check_sequential(&rt, 0, 0);
    reader_close(&rt);
}

/* What cannot be read behind the end, nobody asked for */
static void test_unknown_size_bad_end(VmstateTest *t)
{
    const int64_t stored = 6 * MiB + 77;
    ReaderTest rt;

    reader_open_sized(&rt, t, stored, -1);
    t->node->bad_offset = stored;
    t->node->bad_bytes = GiB;
    rt.ask = 4096;
    read_until(&rt, stored);
    g_assert_cmpint(vmstate_reader_tell(rt.r), ==, stored);
    g_assert_cmpuint(rt.errors, ==, 0);
    read_until(&rt, stored + 1);
    g_assert_cmpint(rt.err_pos, ==, stored);
    vmstate_test_check_error(rt.ret, rt.err, EIO, stored);
    reader_close(&rt);
}

/* Read-ahead */

/* The machine is reset after the stream is opened, which drains */
static void test_lazy_start(VmstateTest *t)
{
    VmstateStreamStats stats;
    ReaderTest rt;

    reader_open(&rt, t, LONG_STATE);
    seek_to(&rt, 12345);
    seek_to(&rt, 0);
    g_assert_cmpint(vmstate_reader_tell(rt.r), ==, 0);
    vmstate_test_settle(t);
    g_assert_cmpuint(nb_reads(&rt), ==, 0);
    vmstate_reader_get_stats(rt.r, &stats);
    g_assert_cmpuint(stats.buffer_bytes, ==, 0);

    read_until(&rt, 1);
    g_assert_cmpuint(nb_reads(&rt), >, 0);
    reader_close(&rt);
}

/* One byte is asked for; the rest of the window comes without asking */
static void test_ahead(VmstateTest *t)
{
    VmstateStreamStats stats;
    int64_t end, pos;
    unsigned n;
    ReaderTest rt;

    reader_open(&rt, t, LONG_STATE);
    for (pos = 1; pos < LONG_STATE - WINDOW; pos += WINDOW / 2) {
        read_until(&rt, pos);
        vmstate_test_settle(t);
        n = nb_reads(&rt);
        end = end_of_read(&rt, n - 1);
        g_assert_cmpint(end, >, pos + WINDOW / 2);
        g_assert_cmpint(end, <=, pos + WINDOW);
        check_sequential(&rt, 0, 0);
    }
    vmstate_reader_get_stats(rt.r, &stats);
    g_assert_cmpuint(stats.requests, ==, nb_reads(&rt));
    g_assert_cmpuint(stats.max_request, ==, WINDOW / 2);
    g_assert_cmpuint(stats.max_in_flight, ==, 1);
    reader_close(&rt);
}

/* What is in the window is delivered while the next request is in flight */
static void test_no_needless_wait(VmstateTest *t)
{
    VmstateStreamStats before, after;
    int64_t end;
    ReaderTest rt;

    reader_open(&rt, t, LONG_STATE);
    read_until(&rt, 1);
    vmstate_test_settle(t);
    end = end_of_read(&rt, nb_reads(&rt) - 1);
    vmstate_reader_get_stats(rt.r, &before);
    vmstate_test_hold(t->node);
    read_until(&rt, end);
    vmstate_test_wait_in_flight(t->node, VMSTATE_TEST_READ, 1);
    vmstate_reader_get_stats(rt.r, &after);
    g_assert_cmpuint(before.stalls, ==, after.stalls);
    g_assert_cmpint(before.stall_ns, ==, after.stall_ns);

    rt.release = true;
    read_until(&rt, end + 1);
    vmstate_reader_get_stats(rt.r, &after);
    g_assert_cmpuint(after.stalls, <=, before.stalls + 1);
    if (vmstate_test_is_single_threaded(t)) {
        g_assert_cmpuint(after.stalls, ==, before.stalls + 1);
        g_assert_cmpint(after.stall_ns, >, before.stall_ns);
    }
    reader_close(&rt);
}

/* Storage waits when the window is full, until the consumer makes room */
static void test_storage_stalls(VmstateTest *t)
{
    const int64_t pause_us = 2000;
    VmstateStreamStats before, after;
    ReaderTest rt;

    reader_open(&rt, t, 2 * WINDOW);
    read_until(&rt, 1);
    vmstate_test_settle(t);
    vmstate_reader_get_stats(rt.r, &before);
    g_usleep(pause_us);
    read_until(&rt, WINDOW + 1);
    vmstate_reader_get_stats(rt.r, &after);
    g_assert_cmpuint(after.storage_stalls, >, before.storage_stalls);
    g_assert_cmpint(after.storage_stall_ns, >=,
                    before.storage_stall_ns + pause_us * SCALE_US);

    /* The end of the state is no stall */
    vmstate_test_settle(t);
    vmstate_reader_get_stats(rt.r, &before);
    g_usleep(pause_us);
    read_until(&rt, 2 * WINDOW);
    vmstate_reader_get_stats(rt.r, &after);
    g_assert_cmpint(after.storage_stall_ns, ==, before.storage_stall_ns);
    reader_close(&rt);
}

/* The consumer gets the first request's bytes while the second is in flight */
static void test_no_wait_for_window(VmstateTest *t)
{
    ReaderTest rt;

    reader_open(&rt, t, LONG_STATE);
    vmstate_test_hold_after(t->node, 1);
    rt.ask = 2 * WINDOW;
    vmstate_test_run(t, read_once_party, &rt);
    g_assert_cmpint(rt.got, ==, VMSTATE_READER_MIN_REQUEST);
    vmstate_test_wait_in_flight(t->node, VMSTATE_TEST_READ, 1);
    vmstate_test_release(t->node);
    rt.ask = 0;
    read_until(&rt, INT64_MAX);
    check_whole_stream(&rt);
    reader_close(&rt);
}

/* A read that asks for more than there is takes what there is */
static void test_short_read(VmstateTest *t)
{
    ReaderTest rt;
    int64_t end;

    reader_open(&rt, t, LONG_STATE);
    read_until(&rt, 1);
    vmstate_test_settle(t);
    end = end_of_read(&rt, nb_reads(&rt) - 1);
    vmstate_test_hold(t->node);
    rt.ask = 2 * WINDOW;
    vmstate_test_run(t, read_once_party, &rt);
    g_assert_cmpint(rt.got, ==, end - 1);
    vmstate_test_release(t->node);
    rt.ask = 0;
    read_until(&rt, INT64_MAX);
    check_whole_stream(&rt);
    reader_close(&rt);
}

static void check_growth(ReaderTest *rt, unsigned first)
{
    unsigned i, n = nb_reads(rt);

    g_assert_cmpuint(n, >, first + 5);
    for (i = first; i < n - 1; i++) {
        int64_t bytes = get_read(rt, i).bytes;

        if (i < first + 3) {
            g_assert_cmpint(bytes, ==,
                            VMSTATE_READER_MIN_REQUEST << (i - first));
        } else if (i > first + 3) {
            g_assert_cmpint(bytes, ==, rt->window / 2);
        }
        /* In between, what was missing to the end of the ring buffer */
        g_assert_cmpint(bytes % VMSTATE_READER_MIN_REQUEST, ==, 0);
    }
}

/* The default window has room for 1, 2 and 4 MiB before the largest request */
static void test_growth(VmstateTest *t)
{
    static const VmstateStreamOptions options = {
        .window = VMSTATE_READER_WINDOW,
        .read_depth = 1,
    };
    const int64_t until = 2 * VMSTATE_READER_WINDOW, size = 2 * until;
    unsigned n;
    ReaderTest rt;

    reader_open_tuned(&rt, t, size, size, &options);
    read_until(&rt, until);
    vmstate_test_settle(t);
    check_growth(&rt, 0);

    n = nb_reads(&rt);
    seek_to(&rt, MiB);
    read_until(&rt, until);
    vmstate_test_settle(t);
    check_growth(&rt, n);
    reader_close(&rt);
}

/* Seeks */

static void test_seek_inside(VmstateTest *t)
{
    static const int64_t steps[] = { 1, 4095, 1 * MiB, WINDOW / 2 };
    int64_t pos, end;
    unsigned n;
    ReaderTest rt;
    int i;

    reader_open(&rt, t, LONG_STATE);
    read_until(&rt, 1);
    for (i = 0; i < ARRAY_SIZE(steps); i++) {
        vmstate_test_settle(t);
        n = nb_reads(&rt);
        pos = vmstate_reader_tell(rt.r);
        seek_to(&rt, pos);
        seek_to(&rt, pos + steps[i]);
        g_assert_cmpuint(nb_reads(&rt), ==, n);
        read_until(&rt, pos + steps[i] + 100);
    }

    /* The end of the window belongs to it */
    vmstate_test_settle(t);
    n = nb_reads(&rt);
    end = end_of_read(&rt, n - 1);
    seek_to(&rt, end);
    read_until(&rt, INT64_MAX);
    check_sequential(&rt, 0, 0);
    g_assert_cmpint(get_read(&rt, n).bytes, ==, WINDOW / 2);
    reader_close(&rt);
}

/* @pos is not in the window, so reading starts anew there */
static void seek_outside(ReaderTest *rt, int64_t pos)
{
    unsigned n;

    vmstate_test_settle(rt->t);
    n = nb_reads(rt);
    seek_to(rt, pos);
    vmstate_test_settle(rt->t);
    g_assert_cmpuint(nb_reads(rt), ==, n);

    read_until(rt, pos + 100);
    g_assert_cmpint(vmstate_reader_tell(rt->r), ==, pos + 100);
    vmstate_test_settle(rt->t);
    check_sequential(rt, n, pos);
    /* Only the first may be unaligned, or all would be bounced */
    for (n++; n < nb_reads(rt); n++) {
        g_assert_cmpint(get_read(rt, n).offset % VMSTATE_READER_MIN_REQUEST,
                        ==, 0);
    }
}

static void test_seek_outside(VmstateTest *t)
{
    ReaderTest rt;

    reader_open(&rt, t, LONG_STATE);
    read_until(&rt, 100);
    seek_outside(&rt, 10 * MiB);
    seek_outside(&rt, 3);
    seek_outside(&rt, 0);
    seek_outside(&rt, 99);
    seek_outside(&rt, 11 * MiB - 1);
    seek_outside(&rt, 4097);
    read_until(&rt, INT64_MAX);
    g_assert_cmpint(vmstate_reader_tell(rt.r), ==, LONG_STATE);
    seek_outside(&rt, LONG_STATE - 100);
    g_assert_cmpuint(rt.errors, ==, 0);
    reader_close(&rt);
}

static void test_seek_past_end(VmstateTest *t)
{
    static const int64_t places[] = {
        LONG_STATE, LONG_STATE + 1, LONG_STATE + WINDOW, INT64_MAX - MiB,
    };
    ReaderTest rt;
    unsigned n;
    int i;

    reader_open(&rt, t, LONG_STATE);
    for (i = 0; i < ARRAY_SIZE(places); i++) {
        read_until(&rt, 100);
        vmstate_test_settle(t);
        n = nb_reads(&rt);
        seek_to(&rt, places[i]);
        read_until(&rt, INT64_MAX);
        g_assert_cmpint(vmstate_reader_tell(rt.r), ==, places[i]);
        vmstate_test_settle(t);
        g_assert_cmpuint(nb_reads(&rt), ==, n);
        seek_to(&rt, 0);
    }
    read_until(&rt, INT64_MAX);
    g_assert_cmpint(vmstate_reader_tell(rt.r), ==, LONG_STATE);
    g_assert_cmpuint(rt.errors, ==, 0);
    reader_close(&rt);
}

/*
 * Consume all but the last @left bytes of the window and hold the request for
 * what follows.  Returns the end of the window.
 */
static int64_t hold_one_read(ReaderTest *rt, int64_t left)
{
    int64_t pos = vmstate_reader_tell(rt->r);
    int64_t end;

    read_until(rt, pos + 1);
    vmstate_test_settle(rt->t);
    end = end_of_read(rt, nb_reads(rt) - 1);
    vmstate_test_hold(rt->t->node);
    read_until(rt, end - left);
    vmstate_test_wait_in_flight(rt->t->node, VMSTATE_TEST_READ, 1);
    return end;
}

/* Backwards and far away: no two reads at a time, and nothing stale */
static void test_seek_in_flight(VmstateTest *t)
{
    ReaderTest rt;
    int64_t end;
    unsigned n;

    reader_open(&rt, t, LONG_STATE);
    hold_one_read(&rt, 0);
    n = nb_reads(&rt);
    rt.release = true;
    seek_to(&rt, 5);
    g_assert_cmpuint(vmstate_test_in_flight(t->node), ==, 0);
    if (vmstate_test_is_single_threaded(t)) {
        g_assert_cmpuint(nb_reads(&rt), ==, n);
    }
    read_until(&rt, 2 * MiB);

    hold_one_read(&rt, 0);
    rt.release = true;
    seek_to(&rt, 11 * MiB);
    g_assert_cmpuint(vmstate_test_in_flight(t->node), ==, 0);
    read_until(&rt, 11 * MiB + 1000);
    seek_to(&rt, 0);

    /* Inside the window there is no need to wait */
    end = hold_one_read(&rt, MiB);
    seek_to(&rt, end - 1);
    read_until(&rt, end);
    g_assert_cmpuint(vmstate_test_in_flight(t->node), ==, 1);

    /* What is being read may be waited for, or read again, but is right */
    rt.release = true;
    seek_to(&rt, end + 4095);
    read_until(&rt, INT64_MAX);
    g_assert_cmpint(vmstate_reader_tell(rt.r), ==, LONG_STATE);
    g_assert_cmpuint(rt.errors, ==, 0);
    reader_close(&rt);
}

/* Requests in flight */

static void test_drain(VmstateTest *t)
{
    ReaderTest rt;

    reader_open(&rt, t, LONG_STATE);
    hold_one_read(&rt, 0);
    vmstate_test_check_drain_waits(t);

    /* With the window full, the reader is in nobody's way */
    vmstate_test_settle(t);
    bdrv_drained_begin(t->bs);
    bdrv_drained_end(t->bs);
    bdrv_graph_wrlock();
    bdrv_graph_wrunlock();

    read_until(&rt, INT64_MAX);
    check_whole_stream(&rt);
    reader_close(&rt);
}

static void test_free_in_flight(VmstateTest *t)
{
    unsigned n;
    ReaderTest rt;

    vmstate_reader_free(NULL);

    reader_open(&rt, t, LONG_STATE);
    hold_one_read(&rt, 0);
    n = nb_reads(&rt);
    vmstate_test_release_later(t->node);
    vmstate_reader_free(rt.r);
    g_assert_cmpuint(vmstate_test_in_flight(t->node), ==, 0);
    /* An IOThread may have gone on before it was told */
    if (!t->setting->node_in_iothread) {
        g_assert_cmpuint(nb_reads(&rt), ==, n);
    }
}

static void test_free_unused(VmstateTest *t)
{
    ReaderTest rt;

    reader_open(&rt, t, LONG_STATE);
    reader_close(&rt);
    g_assert_cmpuint(nb_reads(&rt), ==, 0);
}

/* virtio-blk takes its node back to the IOThread when the VM starts */
static void test_move_node(VmstateTest *t)
{
    AioContext *iothread_ctx = iothread_get_aio_context(t->iothread);
    AioContext *other = t->ctx == iothread_ctx ? qemu_get_aio_context()
                                               : iothread_ctx;
    ReaderTest rt;

    reader_open(&rt, t, LONG_STATE);
    read_until(&rt, MiB);
    bdrv_try_change_aio_context(t->bs, other, NULL, &error_abort);
    read_until(&rt, 6 * MiB);
    bdrv_try_change_aio_context(t->bs, t->ctx, NULL, &error_abort);
    read_until(&rt, INT64_MAX);
    check_whole_stream(&rt);
    reader_close(&rt);
}

/* Errors */

/* Read-ahead fails once; by the time the consumer gets there it is all right */
static void test_transient_error(VmstateTest *t)
{
    unsigned i;

    for (i = 1; i <= 8; i++) {
        ReaderTest rt;

        vmstate_test_node_reset(t->node);
        vmstate_test_fail(t->node, VMSTATE_TEST_READ, i, 1, EIO);
        reader_open(&rt, t, LONG_STATE);
        read_until(&rt, INT64_MAX);
        g_assert_cmpint(t->node->first_errno, ==, EIO);
        g_assert_cmpuint(rt.errors, ==, 0);
        g_assert_cmpuint(rt.delivered, ==, LONG_STATE);
        reader_close(&rt);
    }
}

/* Every read in turn fails twice: one error, and reading on works */
static void test_reported_error(VmstateTest *t)
{
    unsigned i;

    for (i = 1; i <= 8; i++) {
        ReaderTest rt;

        vmstate_test_node_reset(t->node);
        vmstate_test_fail(t->node, VMSTATE_TEST_READ, i, 2, ENOSPC);
        reader_open(&rt, t, LONG_STATE);
        vmstate_test_run(t, read_on_party, &rt);
        g_assert_cmpuint(rt.errors, ==, 1);
        /* After all that could be read, and before all that could not */
        g_assert_cmpint(rt.err_pos, ==, t->node->failed_offset);
        vmstate_test_check_error(rt.ret, rt.err, ENOSPC, rt.err_pos);
        g_assert_cmpuint(rt.delivered, ==, LONG_STATE);
        reader_close(&rt);
    }
}

/* @errp may be NULL */
static void test_error_ignored(VmstateTest *t)
{
    uint8_t byte = UNTOUCHED;
    struct iovec iov = { &byte, 1 };
    ReaderTest rt;

    /* Not in the party's setting: it is about the argument */
    vmstate_test_fail(t->node, VMSTATE_TEST_READ, 1, 2, EIO);
    reader_open(&rt, t, LONG_STATE);
    g_assert_cmpint(vmstate_reader_read(rt.r, &iov, 1, NULL), ==, -EIO);
    g_assert_cmpint(byte, ==, UNTOUCHED);
    g_assert_cmpint(vmstate_reader_tell(rt.r), ==, 0);
    reader_close(&rt);
}

/* The reader has not got to @bad yet */
static void check_bad_byte(ReaderTest *rt, int64_t bad)
{
    VmstateTestNode *node = rt->t->node;
    unsigned errors;

    WITH_QEMU_LOCK_GUARD(&node->lock) {
        node->bad_offset = bad;
        node->bad_bytes = 1;
    }
    /* Small steps are for the end of the way: there are many */
    read_until(rt, MAX(bad - 64 * KiB, 0));
    rt->ask = 4096;
    read_until(rt, INT64_MAX);
    g_assert_cmpuint(rt->errors, ==, 1);
    g_assert_cmpint(rt->err_pos, <=, bad);
    g_assert_cmpint(rt->err_pos + 4096, >, bad);
    vmstate_test_check_error(rt->ret, rt->err, EIO, rt->err_pos);

    /* Every good byte before it can be had */
    rt->ask = 1;
    read_until(rt, INT64_MAX);
    g_assert_cmpint(rt->err_pos, ==, bad);
    vmstate_test_check_error(rt->ret, rt->err, EIO, bad);
    errors = rt->errors;
    read_until(rt, INT64_MAX);
    g_assert_cmpuint(rt->errors, ==, errors + 1);
    g_assert_cmpint(rt->err_pos, ==, bad);

    /* And every one after it */
    seek_to(rt, bad + 1);
    rt->ask = 0;
    read_until(rt, INT64_MAX);
    g_assert_cmpuint(rt->errors, ==, errors + 1);
    g_assert_cmpuint(rt->delivered, ==, rt->size - 1);
}

static void test_bad_byte(VmstateTest *t)
{
    static const int64_t places[] = {
        0, 1 * MiB - 1, 7 * MiB + 777, WINDOW, LONG_STATE - 1,
    };
    int i;

    for (i = 0; i < ARRAY_SIZE(places); i++) {
        ReaderTest rt;

        vmstate_test_node_reset(t->node);
        reader_open(&rt, t, LONG_STATE);
        check_bad_byte(&rt, places[i]);
        reader_close(&rt);
    }
}

/* Read-ahead runs into an error that the consumer never gets to */
static void test_unreached_error(VmstateTest *t)
{
    const int64_t bad = 7 * MiB / 2;
    unsigned n;
    ReaderTest rt;

    reader_open(&rt, t, LONG_STATE);
    t->node->bad_offset = bad;
    t->node->bad_bytes = 1;
    read_until(&rt, 1000);
    vmstate_test_settle(t);
    g_assert_cmpint(t->node->first_errno, ==, EIO);
    n = nb_reads(&rt);

    /* Nor is it tried again before */
    read_until(&rt, get_read(&rt, n - 1).offset);
    vmstate_test_settle(t);
    g_assert_cmpuint(nb_reads(&rt), ==, n);

    read_until(&rt, bad);
    g_assert_cmpint(vmstate_reader_tell(rt.r), ==, bad);
    g_assert_cmpuint(rt.errors, ==, 0);
    seek_to(&rt, bad + 1);
    read_until(&rt, INT64_MAX);
    g_assert_cmpuint(rt.errors, ==, 0);
    g_assert_cmpuint(rt.delivered, ==, LONG_STATE - 1);
    reader_close(&rt);
}

/* After a seek the failed range counts no more: there is read-ahead again */
static void test_seek_from_error(VmstateTest *t)
{
    unsigned n;
    ReaderTest rt;

    vmstate_test_fail(t->node, VMSTATE_TEST_READ, 2, 1, EIO);
    reader_open(&rt, t, LONG_STATE);
    read_until(&rt, 1000);
    vmstate_test_settle(t);
    n = nb_reads(&rt);
    seek_to(&rt, 9 * MiB);
    read_until(&rt, 9 * MiB + 1);
    vmstate_test_settle(t);
    check_sequential(&rt, n, 9 * MiB);
    g_assert_cmpint(end_of_read(&rt, nb_reads(&rt) - 1), >,
                    9 * MiB + WINDOW / 2);

    n = nb_reads(&rt);
    seek_to(&rt, 0);
    read_until(&rt, 1);
    vmstate_test_settle(t);
    check_sequential(&rt, n, 0);
    read_until(&rt, INT64_MAX);
    g_assert_cmpuint(rt.errors, ==, 0);
    reader_close(&rt);
}

/* The same if the seek leads to a place before the failed range */
static void test_seek_back_from_error(VmstateTest *t)
{
    unsigned n;
    ReaderTest rt;

    vmstate_test_fail(t->node, VMSTATE_TEST_READ, 2, 1, EIO);
    reader_open(&rt, t, LONG_STATE);
    read_until(&rt, 1000);
    vmstate_test_settle(t);
    n = nb_reads(&rt);
    seek_to(&rt, 0);
    read_until(&rt, 1);
    vmstate_test_settle(t);
    check_sequential(&rt, n, 0);
    g_assert_cmpint(end_of_read(&rt, nb_reads(&rt) - 1), >, WINDOW / 2);
    read_until(&rt, INT64_MAX);
    g_assert_cmpuint(rt.errors, ==, 0);
    reader_close(&rt);
}

static void test_free_after_error(VmstateTest *t)
{
    ReaderTest rt;

    vmstate_test_fail(t->node, VMSTATE_TEST_READ, 2, 1000, EIO);
    reader_open(&rt, t, LONG_STATE);
    read_until(&rt, 1000);
    vmstate_test_settle(t);
    reader_close(&rt);
    g_assert_cmpuint(rt.errors, ==, 0);
}

/* A node that has no VM state says so when it is asked for it */
static void test_unsupported(void)
{
    QDict *options = qdict_new();
    uint8_t buf[16];
    struct iovec iov = { buf, sizeof(buf) };
    BlockDriverState *bs;
    VmstateReader *r;
    Error *err = NULL;
    ssize_t ret;

    qdict_put_str(options, "driver", "null-co");
    qdict_put_str(options, "node-name", VMSTATE_TEST_NODE_NAME);
    bs = bdrv_open(NULL, NULL, options, BDRV_O_RDWR, &error_abort);

    r = vmstate_reader_new(bs, 1000, NULL, NULL);
    ret = vmstate_reader_read(r, &iov, 1, &err);
    vmstate_test_check_error(ret, err, ENOTSUP, 0);
    error_free(err);
    vmstate_reader_free(r);
    bdrv_unref(bs);
}

/* No memory for the window is an error like others: one can try again */
static void test_no_memory(void)
{
    VmstateTest *t;
    ReaderTest rt;

    if (!vmstate_test_in_subprocess()) {
        return;
    }
    t = vmstate_test_new(&vmstate_test_settings[0]);
    reader_open(&rt, t, LONG_STATE);

    vmstate_test_limit_memory(WINDOW / 2);
    g_assert_cmpint(read_some(&rt, 17, 1), ==, -ENOMEM);
    vmstate_test_check_error(rt.ret, rt.err, ENOMEM, -1);
    g_assert_cmpuint(nb_reads(&rt), ==, 0);
    vmstate_test_unlimit_memory();

    rt.errors = 0;
    read_until(&rt, INT64_MAX);
    check_whole_stream(&rt);
    reader_close(&rt);
    vmstate_test_free(t);
}

/* Leak checkers do not see what is mapped, so look at the address space */
static void test_no_leak(void)
{
    VmstateTest *t;
    uint64_t before = 0;
    int i;

    if (!vmstate_test_in_subprocess()) {
        return;
    }
    t = vmstate_test_new(&vmstate_test_settings[0]);
    for (i = 0; i < 30; i++) {
        ReaderTest rt;

        if (i == 5) {
            before = vmstate_test_memory_used();
        }
        vmstate_test_node_reset(t->node);
        vmstate_test_fail(t->node, VMSTATE_TEST_READ, 3, i % 3, EIO);
        reader_open(&rt, t, LONG_STATE);
        read_until(&rt, i % 5 * 3 * MiB);
        vmstate_reader_free(rt.r);
        error_free(rt.err);
    }
    g_assert_cmpuint(vmstate_test_memory_used(), <, before + 2 * WINDOW);
    vmstate_test_free(t);
}

/* Several at a time */

static const VmstateStreamOptions deep_options = {
    .window = DEEP_WINDOW,
    .read_depth = DEEP_DEPTH,
};

/* Read so far that it has begun, with nothing in flight */
static void reader_open_deep(ReaderTest *rt, VmstateTest *t)
{
    vmstate_test_node_reset(t->node);
    reader_open_tuned(rt, t, DEEP_STATE, DEEP_STATE, &deep_options);
    read_until(rt, DEEP_FROM + DEEP_REQUEST);
    vmstate_test_settle(t);
}

/* Hold several reads, behind all that has been consumed */
static void hold_deep_reads(ReaderTest *rt)
{
    unsigned last = nb_reads(rt) - 1;

    vmstate_test_hold(rt->t->node);
    read_until(rt, end_of_read(rt, last));
    vmstate_test_wait_in_flight(rt->t->node, VMSTATE_TEST_READ, DEEP_DEPTH);
}

static void test_deep_whole(VmstateTest *t)
{
    int64_t offset = 0;
    ReaderTest rt;
    unsigned i;

    reader_open_deep(&rt, t);
    hold_deep_reads(&rt);
    vmstate_test_release(t->node);
    read_until(&rt, INT64_MAX);
    g_assert_cmpuint(rt.errors, ==, 0);
    g_assert_cmpuint(rt.delivered, ==, DEEP_STATE);
    for (i = 0; i < nb_reads(&rt); i++) {
        VmstateTestRequest req = get_read(&rt, i);

        g_assert_cmpint(req.offset, ==, offset);
        if (offset < DEEP_FROM) {
            g_assert_cmpuint(req.others, ==, 0);
        } else {
            g_assert_cmpint(req.bytes, <=, DEEP_REQUEST);
        }
        offset += req.bytes;
    }
    g_assert_cmpint(offset, ==, DEEP_STATE);
    reader_close(&rt);
}

/* However long the stream is, one read at a time */
static void check_never_deep(VmstateTest *t, int64_t window, unsigned depth)
{
    VmstateStreamOptions options = {
        .window = window,
        .read_depth = depth,
    };
    ReaderTest rt;

    reader_open_tuned(&rt, t, DEEP_STATE, DEEP_STATE, &options);
    read_until(&rt, INT64_MAX);
    check_whole_stream(&rt);
    reader_close(&rt);
}

static void test_deep_never(VmstateTest *t)
{
    check_never_deep(t, DEEP_WINDOW, 1);
}

/* A window that has no room for several and the consumer */
static void test_deep_small_window(VmstateTest *t)
{
    check_never_deep(t, 2 * MiB, 16);
}

/* Several at a time turn out to be slower than one */
static void test_deep_back(VmstateTest *t)
{
    const int64_t size = DEEP_STATE + 4 * DEEP_WINDOW;
    int64_t start_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    int64_t now;
    ReaderTest rt;
    unsigned i;

    reader_open_tuned(&rt, t, size, size, &deep_options);
    read_until(&rt, DEEP_FROM + DEEP_REQUEST);
    now = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    read_until(&rt, DEEP_FROM + DEEP_WINDOW);
    vmstate_test_settle(t);
    hold_deep_reads(&rt);
    WITH_QEMU_LOCK_GUARD(&t->node->lock) {
        t->node->open_at_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME) +
                              2 * (now - start_ns);
    }
    read_until(&rt, INT64_MAX);
    g_assert_cmpuint(rt.delivered, ==, size);
    for (i = 0; i < nb_reads(&rt); i++) {
        VmstateTestRequest req = get_read(&rt, i);

        /* One more is in flight when the others are to end */
        if (req.offset > 2 * DEEP_FROM + DEEP_WINDOW) {
            g_assert_cmpuint(req.others, ==, 0);
        }
    }
    reader_close(&rt);
}

/* What has ended is not delivered before what comes first */
static void test_deep_order(VmstateTest *t)
{
    ReaderTest rt;
    unsigned i, n;

    reader_open_deep(&rt, t);
    hold_deep_reads(&rt);
    n = nb_reads(&rt);
    for (i = 1; i < DEEP_DEPTH; i++) {
        vmstate_test_release_one(t->node, n - i);
    }
    /* The first one, and the last one for which there was room */
    vmstate_test_wait_in_flight(t->node, VMSTATE_TEST_READ, 2);
    rt.release = true;
    read_until(&rt, INT64_MAX);
    g_assert_cmpuint(rt.errors, ==, 0);
    g_assert_cmpuint(rt.delivered, ==, DEEP_STATE);
    reader_close(&rt);
}

/* One of them fails once, while others are in flight */
static void test_deep_transient_error(VmstateTest *t)
{
    unsigned i, n;

    for (i = 1; i <= DEEP_DEPTH; i++) {
        ReaderTest rt;

        reader_open_deep(&rt, t);
        hold_deep_reads(&rt);
        n = nb_reads(&rt);
        vmstate_test_fail_one(t->node, n - i, EIO);
        vmstate_test_release(t->node);
        read_until(&rt, INT64_MAX);
        g_assert_cmpint(t->node->first_errno, ==, EIO);
        g_assert_cmpuint(rt.errors, ==, 0);
        g_assert_cmpuint(rt.delivered, ==, DEEP_STATE);
        reader_close(&rt);
    }
}

static void test_deep_bad_byte(VmstateTest *t)
{
    static const int64_t places[] = {
        2 * DEEP_FROM - 6 * MiB, 2 * DEEP_FROM - 5 * MiB - 1,
        2 * DEEP_FROM - 6 * MiB + 777, DEEP_STATE - 1,
    };
    int i;

    for (i = 0; i < ARRAY_SIZE(places); i++) {
        ReaderTest rt;

        reader_open_deep(&rt, t);
        check_bad_byte(&rt, places[i]);
        reader_close(&rt);
    }
}

static void test_deep_seek(VmstateTest *t)
{
    static const int64_t places[] = { 5, DEEP_STATE - MiB };
    int i;

    for (i = 0; i < ARRAY_SIZE(places); i++) {
        ReaderTest rt;

        reader_open_deep(&rt, t);
        hold_deep_reads(&rt);
        rt.release = true;
        seek_to(&rt, places[i]);
        g_assert_cmpuint(vmstate_test_in_flight(t->node), ==, 0);
        read_until(&rt, INT64_MAX);
        g_assert_cmpuint(rt.errors, ==, 0);
        g_assert_cmpint(vmstate_reader_tell(rt.r), ==, DEEP_STATE);
        reader_close(&rt);
    }
}

static void test_deep_drain(VmstateTest *t)
{
    ReaderTest rt;

    reader_open_deep(&rt, t);
    hold_deep_reads(&rt);
    vmstate_test_check_drain_waits(t);
    read_until(&rt, INT64_MAX);
    g_assert_cmpuint(rt.delivered, ==, DEEP_STATE);
    reader_close(&rt);
}

static void test_deep_free(VmstateTest *t)
{
    ReaderTest rt;

    reader_open_deep(&rt, t);
    hold_deep_reads(&rt);
    vmstate_test_release_later(t->node);
    vmstate_reader_free(rt.r);
    g_assert_cmpuint(vmstate_test_in_flight(t->node), ==, 0);
}

static void add_cases(void)
{
    static const VmstateTestEntry cases[] = {
        { "sizes", test_sizes },
        { "fast-node", test_fast_node },
        { "tuned", test_tuned },
        { "small-reads", test_small_reads },
        { "tiny-reads", test_tiny_reads },
        { "empty-iov", test_empty_iov },
        { "unknown-size", test_unknown_size },
        { "unknown-size/bad-end", test_unknown_size_bad_end },
        { "lazy-start", test_lazy_start },
        { "ahead", test_ahead },
        { "no-needless-wait", test_no_needless_wait },
        { "storage-stalls", test_storage_stalls },
        { "no-wait-for-window", test_no_wait_for_window },
        { "short-read", test_short_read },
        { "growth", test_growth },
        { "seek/inside", test_seek_inside },
        { "seek/outside", test_seek_outside },
        { "seek/past-end", test_seek_past_end },
        { "seek/in-flight", test_seek_in_flight },
        { "drain", test_drain },
        { "move-node", test_move_node },
        { "free/in-flight", test_free_in_flight },
        { "free/unused", test_free_unused },
        { "error/transient", test_transient_error },
        { "error/reported", test_reported_error },
        { "error/ignored", test_error_ignored },
        { "error/bad-byte", test_bad_byte },
        { "error/unreached", test_unreached_error },
        { "error/then-seek", test_seek_from_error },
        { "error/then-seek-back", test_seek_back_from_error },
        { "error/then-free", test_free_after_error },
        { "deep/whole", test_deep_whole },
        { "deep/never", test_deep_never },
        { "deep/small-window", test_deep_small_window },
        { "deep/back", test_deep_back },
        { "deep/order", test_deep_order },
        { "deep/transient-error", test_deep_transient_error },
        { "deep/bad-byte", test_deep_bad_byte },
        { "deep/seek", test_deep_seek },
        { "deep/drain", test_deep_drain },
        { "deep/free", test_deep_free },
        { }
    };

    vmstate_test_add_reader("/vmstate-reader", cases);
}

int main(int argc, char **argv)
{
    bdrv_init();
    qemu_init_main_loop(&error_abort);

    g_test_init(&argc, &argv, NULL);
    g_test_message("VMSTATE_TEST_SEED=%" PRIu32, vmstate_test_seed());

    add_cases();
    g_test_add_func("/vmstate-reader/error/unsupported", test_unsupported);
    g_test_add_func("/vmstate-reader/memory/none", test_no_memory);
    g_test_add_func("/vmstate-reader/memory/no-leak", test_no_leak);

    return g_test_run();
}
