/*
 * Sequences of operations on VM state streams, and what each must lead to
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/iov.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "block/vmstate-reader.h"
#include "block/vmstate-writer.h"
#include "../../migration/channel-vmstate.h"
#include "vmstate-model-int.h"

#define MAX_NIOV 64

/* What the consumer's memory contains where the reader has no business */
#define UNTOUCHED 0x33

static const int model_errors[] = { EIO, ENOSPC, EPERM, ENOMEM };

/* Storage and surroundings, which are the same for all kinds of stream */

uint32_t take(Sequence *seq, uint32_t limit)
{
    size_t bytes = limit <= 0x100 ? 1 : limit <= 0x10000 ? 2 : 4;
    uint32_t value;

    if (seq->left < bytes) {
        seq->left = 0;
        return 0;
    }
    value = ldn_le_p(seq->next, bytes);
    seq->next += bytes;
    seq->left -= bytes;
    return value % limit;
}

void model_init(Model *m, VmstateTest *t, Sequence *seq)
{
    *m = (Model) {
        .t = t,
        .seq = seq,
    };
    vmstate_test_node_reset(t->node);
    g_rand_set_seed(t->rand, take(m->seq, 0x10000));
    g_rand_set_seed(t->node->rand, take(m->seq, 0x10000));
}

void model_set_pace(Model *m)
{
    VmstateTestNode *node = m->t->node;
    uint32_t pace = take(m->seq, 64);

    if (pace == 0) {
        /* Takes real time, so seldom */
        vmstate_test_hold(node);
        vmstate_test_release_later(node);
        return;
    }
    QEMU_LOCK_GUARD(&node->lock);
    node->open_at_ns = 0;
    node->pace = pace < 12 ? VMSTATE_TEST_AT_ONCE : VMSTATE_TEST_SHUFFLE;
    node->max_turns = pace;
}

void model_inject_error(Model *m, VmstateTestOp op, unsigned within)
{
    unsigned first = vmstate_test_started(m->t->node, op) + 1 +
                     take(m->seq, within);
    unsigned count = take(m->seq, 4);
    int err = model_errors[take(m->seq, ARRAY_SIZE(model_errors))];

    vmstate_test_fail(m->t->node, op, first, count, err);
}

void model_move_node(Model *m)
{
    VmstateTest *t = m->t;
    AioContext *main_ctx = qemu_get_aio_context();
    AioContext *other = t->ctx == main_ctx
                        ? iothread_get_aio_context(t->iothread) : main_ctx;

    m->moved = !m->moved;
    bdrv_try_change_aio_context(t->bs, m->moved ? other : t->ctx, NULL,
                                &error_abort);
}

void model_drain(Model *m)
{
    bdrv_drained_begin(m->t->bs);
    bdrv_drained_end(m->t->bs);
}

void model_turns(Model *m)
{
    unsigned turns = take(m->seq, 32);

    while (turns--) {
        aio_poll(qemu_get_aio_context(), false);
    }
}

void model_close(Model *m)
{
    if (m->moved) {
        model_move_node(m);
    }
    g_assert_cmpuint(vmstate_test_in_flight(m->t->node), ==, 0);
}

void model_set_bad_range(Model *m, int64_t from)
{
    VmstateTestNode *node = m->t->node;
    int64_t offset = MAX(from + (int64_t)take(m->seq, 4 * MiB), 0);
    int64_t bytes = take(m->seq, 2) ? take(m->seq, 0x10000) : 0;

    QEMU_LOCK_GUARD(&node->lock);
    node->bad_offset = offset;
    node->bad_bytes = bytes;
}

void model_check_written(VmstateTestNode *node, const VmstateTestRequest *req)
{
    g_assert_cmpuint(req->offset + req->bytes, <=, node->data->len);
    g_assert(vmstate_test_matches(node->data->data + req->offset, req->offset,
                                  req->bytes));
}

void model_check_write_error(VmstateTestNode *node, const char *text)
{
    bool wrote = false;
    unsigned i;

    QEMU_LOCK_GUARD(&node->lock);
    g_assert_cmpint(node->first_errno, >, 0);
    for (i = 0; i < node->log->len; i++) {
        VmstateTestRequest *req = &g_array_index(node->log, VmstateTestRequest,
                                                 i);

        wrote |= req->op == VMSTATE_TEST_WRITE && req->ended && req->ret < 0;
    }
    vmstate_test_check_error_text(text, node->first_errno,
                                  wrote ? node->failed_offset : -1);
}

void model_repeat(VmstateTest *t, const uint8_t *data, size_t size,
                  ModelRunFunc *run)
{
    Sequence seq = { data, size };

    while (seq.left) {
        run(t, &seq);
    }
}

/* The next request that the model does not know, or NULL.  With the lock. */
static VmstateTestRequest *model_next_request(Model *m, bool ended)
{
    GArray *log = m->t->node->log;
    VmstateTestRequest *req;

    if (m->checked == log->len) {
        return NULL;
    }
    req = &g_array_index(log, VmstateTestRequest, m->checked);
    if (ended && !req->ended) {
        return NULL;
    }
    g_assert(req->ctx == (m->t->read_ctx ?: m->t->ctx));
    m->checked++;
    return req;
}

/* The writer */

typedef enum WriterEnd {
    WRITER_OPEN,
    WRITER_FINISHED,
    WRITER_ABORTED,
} WriterEnd;

typedef struct WriterModel {
    Model m;
    QIOChannelVmstate *vioc;
    VmstateWriter *w;       /* the channel's */
    bool by_channel;
    size_t chunk;
    unsigned depth;

    /* What is known of the stream */
    uint64_t length;
    uint64_t requested;     /* bytes that requests have begun for */
    unsigned flushes;
    unsigned verified;      /* requests whose data were looked at */
    WriterEnd end;
    char *error;            /* text of the first one */
    bool must_fail;         /* there is one, whether it was told or not */
    bool frozen;            /* no request may begin any more */
    QEMUBH *cancel_bh;
    bool cancel_pending;
    bool cancelled;

    /* For the party: what to do */
    size_t bytes;
    unsigned calls;
    bool may_be_cancelled;  /* meanwhile */
    Error *err;             /* what it led to */
} WriterModel;

static void writer_check_new_requests(WriterModel *wm)
{
    VmstateTestNode *node = wm->m.t->node;
    VmstateTestRequest *req;

    QEMU_LOCK_GUARD(&node->lock);
    while ((req = model_next_request(&wm->m, false))) {
        g_assert_false(wm->frozen);
        if (req->op == VMSTATE_TEST_FLUSH) {
            g_assert_cmpint(wm->end, ==, WRITER_FINISHED);
            g_assert_cmpuint(wm->flushes++, ==, 0);
            g_assert_cmpuint(req->others, ==, 0);
            g_assert_cmpuint(wm->requested, ==, wm->length);
            continue;
        }
        /* Each chunk once, begun in order, and whole but for the last one */
        g_assert_cmpint(req->op, ==, VMSTATE_TEST_WRITE);
        g_assert_cmpuint(wm->flushes, ==, 0);
        g_assert_cmpuint(req->others, <, wm->depth);
        g_assert_cmpuint(req->offset, ==, wm->requested);
        g_assert_cmpuint(req->offset % wm->chunk, ==, 0);
        if (req->bytes < wm->chunk) {
            g_assert_cmpint(wm->end, ==, WRITER_FINISHED);
            g_assert_cmpuint(req->offset + req->bytes, ==, wm->length);
        }
        g_assert_cmpuint(req->bytes, <=, wm->chunk);
        wm->requested += req->bytes;
    }
    g_assert_cmpuint(wm->requested, <=, wm->length);
    g_assert_cmpuint(node->started_after_failure, ==, 0);
}

/* With nothing in flight */
static void writer_check_stats(WriterModel *wm)
{
    VmstateTestNode *node = wm->m.t->node;
    uint64_t requests = 0, bytes = 0, max_request = 0;
    VmstateStreamStats stats;
    unsigned i;

    vmstate_writer_get_stats(wm->w, &stats);
    QEMU_LOCK_GUARD(&node->lock);
    for (i = 0; i < node->log->len; i++) {
        VmstateTestRequest *req = &g_array_index(node->log, VmstateTestRequest,
                                                 i);

        requests += req->op == VMSTATE_TEST_WRITE;
        if (req->op == VMSTATE_TEST_WRITE && req->ret == 0) {
            bytes += req->bytes;
            max_request = MAX(max_request, req->bytes);
            if (i >= wm->verified) {
                model_check_written(node, req);
            }
        }
    }
    wm->verified = i;
    g_assert_cmpuint(stats.requests, ==, requests);
    g_assert_cmpuint(stats.bytes, ==, bytes);
    g_assert_cmpuint(stats.max_request, ==, max_request);
    g_assert_cmpuint(stats.max_in_flight, ==,
                     node->max_in_flight[VMSTATE_TEST_WRITE]);
    g_assert_cmpuint(stats.max_in_flight, <=, wm->depth);
    g_assert_cmpuint(stats.buffer_bytes, <=, wm->chunk * (wm->depth + 1));
    g_assert_cmpuint(stats.buffer_bytes, <=,
                     wm->length + QEMU_ALIGN_UP(2 * MiB, wm->chunk));
    g_assert_cmpuint(stats.buffer_bytes % wm->chunk, ==, 0);
}

static bool is_cancelled(const char *text)
{
    return strstr(text, g_strerror(ECANCELED));
}

/* The first error that the stream tells */
static void writer_check_first_error(WriterModel *wm)
{
    VmstateTestNode *node = wm->m.t->node;
    const char *text = error_get_pretty(wm->err);

    wm->error = g_strdup(text);
    if (is_cancelled(text)) {
        g_assert(wm->cancelled || wm->end == WRITER_ABORTED);
        return;
    }
    model_check_write_error(node, text);
}

/* After each call that can fail */
static void writer_check_result(WriterModel *wm)
{
    if (!wm->err) {
        g_assert_null(wm->error);
        g_assert_false(wm->must_fail);
        return;
    }
    if (wm->error) {
        /* Sticky, whatever has failed since */
        g_assert_cmpstr(error_get_pretty(wm->err), ==, wm->error);
    } else {
        writer_check_first_error(wm);
    }
    error_free(g_steal_pointer(&wm->err));
    wm->must_fail = true;
}

/*
 * What went wrong in storage is known to the writer by now if both live in this
 * thread, or when nothing is in flight.
 */
static void writer_note_failure(WriterModel *wm, bool settled)
{
    VmstateTestNode *node = wm->m.t->node;

    if (!settled && wm->m.t->ctx != qemu_get_aio_context()) {
        return;
    }
    QEMU_LOCK_GUARD(&node->lock);
    if (node->first_errno || wm->cancelled) {
        wm->must_fail = true;
        wm->frozen = true;
    }
}

static int coroutine_mixed_fn writer_call(WriterModel *wm,
                                          const struct iovec *iov,
                                          size_t niov, Error **errp)
{
    size_t bytes = iov_size(iov, niov);
    ssize_t ret;

    if (!wm->by_channel) {
        return vmstate_writer_write(wm->w, iov, niov, errp);
    }
    ret = qio_channel_writev(QIO_CHANNEL(wm->vioc), iov, niov, errp);
    g_assert(ret == -1 || ret == bytes);
    return MIN(ret, 0);
}

static void coroutine_mixed_fn write_party(void *opaque)
{
    WriterModel *wm = opaque;
    g_autofree uint8_t *buf = g_malloc(wm->bytes + 1);
    unsigned i;

    for (i = 0; i < wm->calls && !wm->err; i++) {
        GRand *rand = wm->m.t->rand;
        unsigned niov = g_rand_int_range(rand, 1, MAX_NIOV + 1);
        uint64_t pos = vmstate_writer_bytes(wm->w);
        struct iovec iov[MAX_NIOV];
        int ret;

        vmstate_test_fill(buf, pos, wm->bytes);
        vmstate_test_split(rand, iov, niov, buf, wm->bytes);
        ret = writer_call(wm, iov, niov, &wm->err);
        g_assert_cmpint(ret < 0, ==, wm->err != NULL);
        /* Must not show in the image */
        memset(buf, 0x5a, wm->bytes);
        if (ret == 0 && !qatomic_read(&wm->vioc->stopped)) {
            g_assert_cmpuint(vmstate_writer_bytes(wm->w), ==, pos + wm->bytes);
        }
    }
}

static size_t writer_take_size(WriterModel *wm)
{
    Sequence *seq = wm->m.seq;

    switch (take(seq, 8)) {
    case 0:
        return 0;
    case 1:
        return wm->chunk - 1 + take(seq, 3);
    case 2:
        return MIN(wm->chunk * take(seq, 4), 8 * MiB) + take(seq, 0x10000);
    case 3:
        /* More than all buffers hold, if they are not too large */
        return MIN(wm->chunk * (wm->depth + 2), 8 * MiB) + take(seq, 0x100);
    case 4:
        /* Up to the next boundary */
        return wm->chunk - wm->length % wm->chunk;
    default:
        return take(seq, 0x10000);
    }
}

static void writer_write(WriterModel *wm)
{
    wm->bytes = writer_take_size(wm);
    wm->calls = wm->bytes > MiB ? 1 : 1 + take(wm->m.seq, 4);
    if (wm->end != WRITER_OPEN || wm->length > MAX_WRITTEN) {
        return;
    }
    vmstate_test_run(wm->m.t, write_party, wm);
    wm->length = vmstate_writer_bytes(wm->w);
    if (!wm->err && wm->by_channel && wm->cancelled) {
        /* Who stops a channel knows why, and hears of it when he finishes */
        return;
    }
    writer_check_result(wm);
}

static void coroutine_mixed_fn settle_party(void *opaque)
{
    WriterModel *wm = opaque;

    if (wm->by_channel) {
        qio_channel_vmstate_settle(wm->vioc);
    } else {
        vmstate_writer_settle(wm->w);
    }
    g_assert_cmpuint(vmstate_test_in_flight(wm->m.t->node), ==, 0);
}

/* All that can be written has been */
static void writer_check_settled(WriterModel *wm)
{
    writer_check_new_requests(wm);
    writer_note_failure(wm, true);
    if (!wm->must_fail && wm->end == WRITER_OPEN) {
        g_assert_cmpuint(wm->requested, ==,
                         QEMU_ALIGN_DOWN(wm->length, wm->chunk));
    }
    writer_check_stats(wm);
}

static void writer_settle(WriterModel *wm)
{
    vmstate_test_run(wm->m.t, settle_party, wm);
    writer_check_settled(wm);
}

/* Nobody does anything: the writer goes on by itself */
static void writer_wait(WriterModel *wm)
{
    vmstate_test_settle(wm->m.t);
    writer_check_settled(wm);
}

static void writer_cancel_bh(void *opaque)
{
    WriterModel *wm = opaque;

    wm->cancel_pending = false;
    wm->cancelled = true;
    if (wm->by_channel) {
        qio_channel_vmstate_stop(wm->vioc);
    } else {
        vmstate_writer_cancel(wm->w);
    }
}

/* Now, or soon, perhaps while the producer waits */
static void writer_cancel(WriterModel *wm)
{
    wm->cancel_pending = true;
    if (take(wm->m.seq, 2)) {
        qemu_bh_schedule(wm->cancel_bh);
    } else {
        writer_cancel_bh(wm);
        writer_note_failure(wm, false);
    }
}

static void coroutine_mixed_fn finish_party(void *opaque)
{
    WriterModel *wm = opaque;
    Error *again = NULL;
    int ret, ret_again;

    ret = wm->by_channel ? qio_channel_vmstate_finish(wm->vioc, &wm->err)
                         : vmstate_writer_finish(wm->w, &wm->err);
    g_assert_cmpuint(vmstate_test_in_flight(wm->m.t->node), ==, 0);
    g_assert_cmpint(ret < 0, ==, wm->err != NULL);
    ret_again = vmstate_writer_finish(wm->w, &again);
    g_assert_cmpint(ret_again < 0, ==, again != NULL);
    if (!wm->may_be_cancelled) {
        g_assert_cmpint(ret_again, ==, ret);
    }
    error_free(again);
}

static void writer_check_finished(WriterModel *wm)
{
    VmstateTestNode *node = wm->m.t->node;

    g_assert_cmpuint(wm->requested, ==, wm->length);
    g_assert_cmpuint(wm->flushes, ==, 1);
    g_assert_cmpuint(node->data->len, ==, wm->length);
    g_assert(vmstate_test_matches(node->data->data, 0, wm->length));
}

static void writer_finish(WriterModel *wm)
{
    bool failed;

    if (wm->end == WRITER_OPEN) {
        wm->end = WRITER_FINISHED;
    }
    wm->may_be_cancelled = wm->cancel_pending;
    vmstate_test_run(wm->m.t, finish_party, wm);
    writer_check_new_requests(wm);
    failed = wm->err;
    if (!wm->may_be_cancelled) {
        writer_note_failure(wm, true);
    }
    writer_check_result(wm);
    wm->frozen = true;
    if (!failed) {
        writer_check_finished(wm);
    }
    writer_check_stats(wm);
}

static void coroutine_mixed_fn abort_party(void *opaque)
{
    WriterModel *wm = opaque;

    if (wm->by_channel) {
        qio_channel_vmstate_drop(wm->vioc);
    } else {
        vmstate_writer_abort(wm->w);
    }
    g_assert_cmpuint(vmstate_test_in_flight(wm->m.t->node), ==, 0);
}

static void writer_abort(WriterModel *wm)
{
    if (wm->end == WRITER_OPEN) {
        wm->end = WRITER_ABORTED;
        wm->must_fail = true;
    }
    vmstate_test_run(wm->m.t, abort_party, wm);
    writer_check_new_requests(wm);
    wm->frozen = true;
    writer_check_stats(wm);
}

static void writer_step(WriterModel *wm)
{
    Model *m = &wm->m;

    switch (take(m->seq, 40)) {
    case 0:
        model_set_pace(m);
        break;
    case 1:
        model_inject_error(m, VMSTATE_TEST_WRITE, 8);
        break;
    case 2:
        model_inject_error(m, VMSTATE_TEST_FLUSH, 1);
        break;
    case 3:
        model_move_node(m);
        break;
    case 4:
        model_drain(m);
        break;
    case 5 ... 8:
        model_turns(m);
        break;
    case 9 ... 10:
        writer_settle(wm);
        break;
    case 11 ... 12:
        writer_wait(wm);
        break;
    case 13:
        writer_cancel(wm);
        break;
    case 14:
        writer_finish(wm);
        break;
    case 15:
        writer_abort(wm);
        break;
    default:
        writer_write(wm);
        break;
    }
    writer_check_new_requests(wm);
    writer_note_failure(wm, false);
}

static void writer_open(WriterModel *wm)
{
    static const size_t chunks[] = {
        32 * KiB, 64 * KiB, 96 * KiB, 256 * KiB, 1 * MiB, 3 * MiB,
    };
    static const int64_t clusters[] = { 0, 512, 64 * KiB, 192 * KiB };
    VmstateTest *t = wm->m.t;
    VmstateStreamOptions options = vmstate_stream_defaults;

    options.chunk_size = chunks[take(wm->m.seq, ARRAY_SIZE(chunks))];
    options.depth = 1 + take(wm->m.seq, 12);
    t->node->cluster_size = clusters[take(wm->m.seq, ARRAY_SIZE(clusters))];
    wm->by_channel = take(wm->m.seq, 2);
    wm->depth = options.depth;
    wm->chunk = QEMU_ALIGN_UP(options.chunk_size, t->node->cluster_size ?: 1);
    wm->vioc = qio_channel_vmstate_new_output(t->bs, &options);
    wm->w = wm->vioc->writer;
    wm->cancel_bh = aio_bh_new(qemu_get_aio_context(), writer_cancel_bh, wm);
}

/* Also with requests in flight */
static void writer_close(WriterModel *wm)
{
    qemu_bh_delete(wm->cancel_bh);
    qio_channel_vmstate_abort(wm->vioc);
    g_assert_cmpuint(vmstate_test_in_flight(wm->m.t->node), ==, 0);
    object_unref(OBJECT(wm->vioc));
    model_close(&wm->m);
    g_free(wm->error);
}

static void writer_run(VmstateTest *t, Sequence *seq)
{
    WriterModel wm = {};

    model_init(&wm.m, t, seq);
    writer_open(&wm);
    /* One that has ended is asked once more, now and then */
    while (seq->left && (wm.end == WRITER_OPEN || !take(seq, 4))) {
        writer_step(&wm);
    }
    writer_close(&wm);
}

void vmstate_model_write(VmstateTest *t, const uint8_t *data, size_t size)
{
    model_repeat(t, data, size, writer_run);
}

/* The reader */

typedef struct ReaderModel {
    Model m;
    QIOChannelVmstate *vioc;
    VmstateReader *r;       /* the channel's */
    bool by_channel;
    int64_t window;
    unsigned depth;         /* reads at a time at most */
    int64_t stored;         /* bytes of the model stream in the node */
    int64_t end;            /* of the stream; INT64_MAX if not known */

    /* What is known of the stream */
    int64_t pos;
    int64_t next;           /* where the next request must begin */
    int64_t failed_at;      /* where one has failed, and others go on; or -1 */
    int64_t retry_end;      /* read-ahead failed before this */
    bool piece_failed;      /* the last request did, in that range */
    bool goes_on;           /* it fills the window, asked or not */
    uint64_t delivered;

    /* For the party: what to do, and what it led to */
    size_t bytes;
    int64_t target;
    bool at_end;
    uint8_t *buf;
    ssize_t ret;
    Error *err;
} ReaderModel;

/* Where what has been read without a gap ends */
static int64_t reader_end(ReaderModel *rm)
{
    return rm->failed_at < 0 ? rm->next : rm->failed_at;
}

/* All that was in flight when a request failed has ended */
static void reader_begin_retry(ReaderModel *rm)
{
    rm->retry_end = rm->next;
    rm->next = rm->failed_at;
    rm->failed_at = -1;
}

static void reader_check_request(ReaderModel *rm, const VmstateTestRequest *req)
{
    bool retry;

    if (rm->failed_at >= 0 && req->others == 0) {
        reader_begin_retry(rm);
    }
    retry = rm->next < rm->retry_end;

    g_assert_cmpint(req->op, ==, VMSTATE_TEST_READ);
    g_assert_cmpuint(req->others, <, retry ? 1 : rm->depth);
    g_assert_cmpint(req->offset, ==, rm->next);
    g_assert_cmpint(req->bytes, >, 0);
    g_assert_cmpint(req->bytes, <=, rm->window / 2);
    g_assert_cmpint(req->offset + req->bytes, <=, rm->end);
    g_assert_cmpint(req->offset + req->bytes, <=, rm->pos + rm->window);
    if (!QEMU_IS_ALIGNED(req->offset, VMSTATE_READER_MIN_REQUEST) && !retry) {
        g_assert_cmpint(req->bytes, <=, VMSTATE_READER_MIN_REQUEST -
                        req->offset % VMSTATE_READER_MIN_REQUEST);
    }
    if (retry) {
        g_assert_cmpint(req->bytes, <=, VMSTATE_READER_MIN_REQUEST);
        g_assert_cmpint(req->offset + req->bytes, <=, rm->retry_end);
    }
    if (!retry && req->ret < 0 && rm->failed_at < 0) {
        rm->failed_at = req->offset;
    }
    if (!retry || req->ret == 0) {
        rm->next += req->bytes;
    }
    rm->piece_failed = retry && req->ret < 0;
}

/* @pos: how far the consumer can have got when they began */
static void reader_check_new_requests(ReaderModel *rm, int64_t pos)
{
    VmstateTestNode *node = rm->m.t->node;
    VmstateTestRequest *req;

    rm->pos = pos;
    QEMU_LOCK_GUARD(&node->lock);
    while ((req = model_next_request(&rm->m, true))) {
        reader_check_request(rm, req);
    }
    if (rm->failed_at >= 0 && !node->in_flight[VMSTATE_TEST_READ]) {
        reader_begin_retry(rm);
    }
}

static void reader_check_stats(ReaderModel *rm)
{
    VmstateTestNode *node = rm->m.t->node;
    VmstateStreamStats stats;

    vmstate_reader_get_stats(rm->r, &stats);
    g_assert_cmpuint(stats.bytes, ==, rm->delivered);
    g_assert_cmpuint(stats.requests, ==, rm->m.checked);
    g_assert_cmpuint(stats.max_in_flight, >=, rm->m.checked > 0);
    g_assert_cmpuint(stats.max_in_flight, <=, rm->depth);
    g_assert_cmpuint(stats.buffer_bytes, <=, rm->window);
    if (rm->m.checked) {
        g_assert_cmpuint(stats.buffer_bytes, ==, rm->end < rm->window
                         ? QEMU_ALIGN_UP(rm->end, VMSTATE_READER_MIN_REQUEST)
                         : rm->window);
    }
    QEMU_LOCK_GUARD(&node->lock);
    g_assert_cmpuint(node->max_in_flight[VMSTATE_TEST_READ], <=,
                     stats.max_in_flight);
}

/* Then untouched memory */
static void reader_check_bytes(ReaderModel *rm, size_t delivered)
{
    g_assert(vmstate_test_matches_stored(rm->buf, rm->pos, delivered,
                                         rm->stored));
    g_assert(vmstate_test_all_are(rm->buf + delivered, rm->bytes - delivered,
                                  UNTOUCHED));
}

static void coroutine_mixed_fn read_party(void *opaque)
{
    ReaderModel *rm = opaque;
    GRand *rand = rm->m.t->rand;
    unsigned niov = g_rand_int_range(rand, 1, MAX_NIOV + 1);
    struct iovec iov[MAX_NIOV];

    vmstate_test_split(rand, iov, niov, rm->buf, rm->bytes);
    rm->ret = rm->by_channel
              ? qio_channel_readv(QIO_CHANNEL(rm->vioc), iov, niov, &rm->err)
              : vmstate_reader_read(rm->r, iov, niov, &rm->err);
}

/* A request for the very byte the consumer is at has failed twice */
static void reader_check_error(ReaderModel *rm)
{
    VmstateTestNode *node = rm->m.t->node;
    VmstateTestRequest *last;

    QEMU_LOCK_GUARD(&node->lock);
    g_assert_true(rm->piece_failed);
    g_assert_cmpint(rm->next, ==, rm->pos);
    last = &g_array_index(node->log, VmstateTestRequest, rm->m.checked - 1);
    g_assert_cmpint(last->offset, ==, rm->pos);
    g_assert_cmpint(rm->ret, ==, rm->by_channel ? -1 : last->ret);
    vmstate_test_check_error_text(error_get_pretty(rm->err), -last->ret,
                                  rm->pos);
}

static void reader_check_result(ReaderModel *rm)
{
    g_assert_cmpint(rm->ret < 0, ==, rm->err != NULL);
    if (rm->at_end && rm->by_channel) {
        g_assert_nonnull(strstr(error_get_pretty(rm->err), "ends after"));
    } else if (rm->ret < 0) {
        reader_check_error(rm);
    } else {
        g_assert_cmpint(rm->ret == 0, ==, !rm->bytes || rm->at_end);
        g_assert_cmpint(rm->ret, <=, (ssize_t)rm->bytes);
    }
    error_free(g_steal_pointer(&rm->err));
}

static size_t reader_take_size(ReaderModel *rm)
{
    Sequence *seq = rm->m.seq;

    switch (take(seq, 8)) {
    case 0:
        return take(seq, 2);
    case 1:
        return rm->window - 1 + take(seq, 3);
    case 2:
        return take(seq, rm->window / 2);
    case 3:
        /* As a QEMUFile does */
        return 32 * KiB;
    case 4:
        /* To the end of what is there, or one more or less */
        return MAX(reader_end(rm) - rm->pos - 1 + (int64_t)take(seq, 3), 0);
    default:
        return take(seq, 0x10000);
    }
}

static void reader_read(ReaderModel *rm)
{
    int64_t before = rm->pos;
    size_t got;

    rm->bytes = reader_take_size(rm);
    rm->at_end = rm->bytes && rm->pos >= rm->end;
    rm->buf = g_malloc(rm->bytes + 1);
    memset(rm->buf, UNTOUCHED, rm->bytes);
    vmstate_test_run(rm->m.t, read_party, rm);

    got = MAX(rm->ret, 0);
    reader_check_bytes(rm, got);
    g_assert_cmpint(vmstate_reader_tell(rm->r), ==, before + got);
    reader_check_new_requests(rm, before + got);
    g_assert_cmpint(rm->pos, <=, MAX(reader_end(rm), before));
    reader_check_result(rm);
    rm->delivered += got;
    rm->goes_on = got > 0;
    g_free(rm->buf);
}

static void coroutine_mixed_fn seek_party(void *opaque)
{
    ReaderModel *rm = opaque;

    if (rm->by_channel) {
        rm->ret = qio_channel_io_seek(QIO_CHANNEL(rm->vioc), rm->target,
                                      SEEK_SET, &error_abort);
        g_assert_cmpint(rm->ret, ==, rm->target);
    } else {
        vmstate_reader_seek(rm->r, rm->target);
    }
}

static int64_t reader_take_target(ReaderModel *rm)
{
    Sequence *seq = rm->m.seq;
    int64_t limit = MIN(rm->end, MAX_STATE);

    switch (take(seq, 8)) {
    case 0:
        return take(seq, MAX_STATE);
    case 1:
        return MAX(limit - 1 + (int64_t)take(seq, 3), 0);
    case 2:
        return MAX(rm->pos - (int64_t)take(seq, 0x10000), 0);
    case 3:
        /* About the end of what is there */
        return MAX(reader_end(rm) - 1 + (int64_t)take(seq, 3), 0);
    case 4:
        return rm->pos + take(seq, 2 * rm->window);
    case 5:
        return QEMU_ALIGN_DOWN(rm->pos, VMSTATE_READER_MIN_REQUEST);
    case 6:
        return rm->pos;
    default:
        return rm->pos + take(seq, 0x10000);
    }
}

static void reader_seek(ReaderModel *rm)
{
    int64_t before = rm->pos;

    rm->target = MIN(reader_take_target(rm), 4 * MAX_STATE);
    vmstate_test_run(rm->m.t, seek_party, rm);
    g_assert_cmpint(vmstate_reader_tell(rm->r), ==, rm->target);
    reader_check_new_requests(rm, MAX(before, rm->target));
    rm->pos = rm->target;
    if (rm->target < before || rm->target > reader_end(rm)) {
        /* The window was dropped, and nothing is in flight */
        g_assert_cmpuint(vmstate_test_in_flight(rm->m.t->node), ==, 0);
        rm->next = rm->target;
        rm->failed_at = -1;
        rm->retry_end = 0;
    }
    rm->goes_on = false;
}

/* The consumer does nothing: the window is filled all the same */
static void reader_wait(ReaderModel *rm)
{
    vmstate_test_settle(rm->m.t);
    reader_check_new_requests(rm, rm->pos);
    reader_check_stats(rm);
    if (rm->goes_on && rm->next >= rm->retry_end && rm->next < rm->end) {
        g_assert_cmpint(rm->next - rm->pos, >, rm->window / 2);
    }
}

static void reader_step(ReaderModel *rm)
{
    Model *m = &rm->m;

    switch (take(m->seq, 32)) {
    case 0:
        model_set_pace(m);
        break;
    case 1 ... 2:
        model_inject_error(m, VMSTATE_TEST_READ, 8);
        break;
    case 3:
        model_set_bad_range(m, reader_end(rm) - KiB);
        break;
    case 4:
        model_move_node(m);
        break;
    case 5:
        model_drain(m);
        break;
    case 6 ... 7:
        model_turns(m);
        break;
    case 8 ... 10:
        reader_wait(rm);
        break;
    case 11 ... 16:
        reader_seek(rm);
        break;
    default:
        reader_read(rm);
        break;
    }
    reader_check_new_requests(rm, rm->pos);
}

static int64_t reader_take_state(ReaderModel *rm)
{
    Sequence *seq = rm->m.seq;

    switch (take(seq, 4)) {
    case 0:
        return take(seq, 5000);
    case 1:
        return MAX((int64_t)take(seq, 8) * MiB - 1 + take(seq, 3), 0);
    default:
        return take(seq, MAX_STATE);
    }
}

static void reader_open(ReaderModel *rm)
{
    VmstateTest *t = rm->m.t;
    VmstateStreamOptions options = vmstate_stream_defaults;
    int64_t size = reader_take_state(rm);

    options.window = (2 + take(rm->m.seq, 4)) * VMSTATE_READER_MIN_REQUEST;
    options.read_depth = 1 + take(rm->m.seq, 4);
    rm->window = options.window;
    rm->depth = options.read_depth;
    rm->failed_at = -1;
    rm->stored = take(rm->m.seq, 4) ? size : reader_take_state(rm);
    if (!take(rm->m.seq, 6)) {
        size = -1;
    }
    rm->end = size < 0 ? INT64_MAX : size;
    rm->by_channel = take(rm->m.seq, 2);
    t->node->model_bytes = rm->stored;
    rm->vioc = qio_channel_vmstate_new_input(t->bs, size, t->read_ctx, NULL,
                                             &options);
    rm->r = rm->vioc->reader;
}

/* Also with a request in flight */
static void reader_close(ReaderModel *rm)
{
    qio_channel_vmstate_abort(rm->vioc);
    g_assert_cmpuint(vmstate_test_in_flight(rm->m.t->node), ==, 0);
    object_unref(OBJECT(rm->vioc));
    reader_check_new_requests(rm, rm->pos);
    model_close(&rm->m);
}

static void reader_run(VmstateTest *t, Sequence *seq)
{
    ReaderModel rm = {};

    model_init(&rm.m, t, seq);
    reader_open(&rm);
    while (seq->left && take(seq, 64)) {
        reader_step(&rm);
    }
    reader_close(&rm);
}

void vmstate_model_read(VmstateTest *t, const uint8_t *data, size_t size)
{
    model_repeat(t, data, size, reader_run);
}
