/*
 * VM state streams through a QEMUFile: sequences of what migration does with it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What is put and what is got is the model stream, of which the model knows the
 * position.  The engines' requests are no matter of this model; what is stored
 * and told is.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "../../migration/channel-vmstate.h"
#include "vmstate-model-int.h"
#include "vmstate-test-fields.h"

/* Of a QEMUFile's own buffer */
#define FILE_BUFFER (32 * KiB)

/* Memory for what is not copied before the file is flushed */
#define KEPT_BYTES (512 * KiB)

/* Must not show in the image */
#define SPOILT 0x5a

typedef enum FileOp {
    FILE_FIELDS,
    FILE_BUFFERS,
    FILE_KEPT,              /* put without copying; got in place */
    FILE_PEEK,
    FILE_SKIP,
    FILE_SEEK,
    FILE_FLUSH,
    FILE_FINISH,
} FileOp;

typedef struct FileModel {
    Model m;
    QIOChannelVmstate *vioc;
    QEMUFile *f;
    uint8_t *buf;
    char *error;            /* text of the first one */
    bool stopped;           /* the channel was */
    int set_error;          /* that its user has set; or 0 */

    /* Output */
    uint64_t length;        /* bytes put, whether there was an error or not */
    size_t kept;            /* bytes of @buf that the file may still need */
    bool must_fail;         /* an error is to be told by the next flush */

    /* Input */
    int64_t pos;
    int64_t stored;         /* bytes of the model stream in the node */
    int64_t end;            /* of the stream; -1 if not known */

    /* For the party */
    FileOp op;
    size_t bytes;
    unsigned calls;
} FileModel;

/* Of a number */
static size_t file_random_field(FileModel *fm)
{
    static const size_t sizes[] = { 1, 1, 2, 4, 4, 8 };

    return sizes[g_rand_int_range(fm->m.t->rand, 0, ARRAY_SIZE(sizes))];
}

static size_t file_take_size(FileModel *fm)
{
    Sequence *seq = fm->m.seq;

    switch (take(seq, 8)) {
    case 0:
        return take(seq, 2);
    case 1:
        return FILE_BUFFER - 1 + take(seq, 3);
    case 2:
        return 2 * MiB + take(seq, 0x10000);
    case 3:
        return 4 * KiB;
    case 4:
        return take(seq, FILE_BUFFER);
    default:
        return take(seq, 0x1000);
    }
}

static void file_set_op(FileModel *fm, FileOp op)
{
    fm->op = op;
    fm->bytes = file_take_size(fm);
    fm->calls = fm->bytes > MiB ? 1 : 1 + take(fm->m.seq, 100);
}

/* Error or none, it is told once and for all */
static bool file_has_new_error(FileModel *fm, Error **errp)
{
    int ret = qemu_file_get_error_obj(fm->f, errp);

    g_assert_cmpint(ret < 0, ==, *errp != NULL);
    if (fm->error) {
        g_assert_cmpstr(error_get_pretty(*errp), ==, fm->error);
        return false;
    }
    if (!ret) {
        return false;
    }
    g_assert_cmpint(ret, ==, fm->set_error ?: -EIO);
    fm->error = g_strdup(error_get_pretty(*errp));
    return true;
}

/* What storage and others do to the stream; seldom, somebody stops it */
static void file_disturb(FileModel *fm, VmstateTestOp op)
{
    Model *m = &fm->m;

    switch (take(m->seq, 32)) {
    case 0:
        fm->stopped = true;
        qio_channel_vmstate_stop(fm->vioc);
        break;
    case 1 ... 4:
        model_set_pace(m);
        break;
    case 5 ... 8:
        model_inject_error(m, op, 8);
        break;
    case 9 ... 12:
        model_move_node(m);
        break;
    case 13 ... 16:
        model_drain(m);
        break;
    default:
        model_turns(m);
        break;
    }
}

static void file_free(FileModel *fm)
{
    object_unref(OBJECT(fm->vioc));
    g_free(fm->buf);
    g_free(fm->error);
    model_close(&fm->m);
}

/* Output */

static void output_check_error(FileModel *fm)
{
    Error *err = NULL;

    if (file_has_new_error(fm, &err) && !fm->set_error) {
        /* Who stops a channel knows why, and need not be told */
        g_assert_false(fm->stopped);
        model_check_write_error(fm->m.t->node, fm->error);
    }
    error_free(err);
}

/* The file needs nothing of the memory any more */
static void coroutine_mixed_fn output_flush(FileModel *fm)
{
    int ret = qemu_fflush(fm->f);

    g_assert_cmpint(ret, ==, qemu_file_get_error(fm->f));
    if (!ret && !fm->stopped) {
        g_assert_cmpuint(qio_channel_vmstate_tell(fm->vioc), ==, fm->length);
    }
    memset(fm->buf, SPOILT, fm->kept);
    fm->kept = 0;
}

static void coroutine_mixed_fn output_put(FileModel *fm, size_t bytes)
{
    g_autofree uint8_t *data = g_malloc(bytes + 1);

    vmstate_test_fill(data, fm->length, bytes);
    if (fm->op == FILE_FIELDS) {
        vmstate_test_put_field(fm->f, data, bytes);
    } else {
        qemu_put_buffer(fm->f, data, bytes);
    }
    fm->length += bytes;
    memset(data, SPOILT, bytes);
}

/* Some of them next to each other, which the file makes one of */
static void coroutine_mixed_fn output_put_kept(FileModel *fm, size_t bytes)
{
    size_t gap = g_rand_int_range(fm->m.t->rand, 0, 2);

    bytes = MIN(bytes, KEPT_BYTES - 1);
    if (fm->kept + gap + bytes > KEPT_BYTES) {
        output_flush(fm);
    }
    vmstate_test_fill(fm->buf + fm->kept + gap, fm->length, bytes);
    qemu_put_buffer_async(fm->f, fm->buf + fm->kept + gap, bytes, false);
    fm->kept += gap + bytes;
    fm->length += bytes;
}

static void coroutine_mixed_fn output_party(void *opaque)
{
    FileModel *fm = opaque;
    unsigned i;

    for (i = 0; i < fm->calls; i++) {
        switch (fm->op) {
        case FILE_FIELDS:
            output_put(fm, file_random_field(fm));
            break;
        case FILE_BUFFERS:
            output_put(fm, fm->bytes);
            break;
        default:
            output_put_kept(fm, fm->bytes);
            break;
        }
    }
}

static void coroutine_mixed_fn output_flush_party(void *opaque)
{
    FileModel *fm = opaque;

    /* So that there is something to flush */
    output_put(fm, 1);
    output_flush(fm);
    if (fm->op == FILE_FINISH && !qemu_file_get_error(fm->f)) {
        qio_channel_vmstate_finish(fm->vioc, NULL);
    }
}

static void output_write(FileModel *fm)
{
    static const FileOp ops[] = { FILE_FIELDS, FILE_BUFFERS, FILE_KEPT };

    file_set_op(fm, ops[take(fm->m.seq, ARRAY_SIZE(ops))]);
    if (fm->length + fm->calls * fm->bytes < MAX_WRITTEN) {
        vmstate_test_run(fm->m.t, output_party, fm);
        output_check_error(fm);
    }
}

static void output_flush_or_finish(FileModel *fm, FileOp op)
{
    fm->op = op;
    vmstate_test_run(fm->m.t, output_flush_party, fm);
    output_check_error(fm);
    if (fm->must_fail && !fm->stopped) {
        g_assert_nonnull(fm->error);
    }
}

/* Nothing is in flight, so the engine knows what went wrong */
static void output_wait(FileModel *fm)
{
    vmstate_test_settle(fm->m.t);
    QEMU_LOCK_GUARD(&fm->m.t->node->lock);
    fm->must_fail = fm->m.t->node->first_errno;
}

static void output_set_error(FileModel *fm)
{
    if (!fm->error) {
        fm->set_error = -EPIPE;
    }
    qemu_file_set_error(fm->f, -EPIPE);
    output_check_error(fm);
}

static void output_step(FileModel *fm)
{
    Model *m = &fm->m;

    switch (take(m->seq, 36)) {
    case 0 ... 7:
        file_disturb(fm, VMSTATE_TEST_WRITE);
        break;
    case 8:
        model_inject_error(m, VMSTATE_TEST_FLUSH, 1);
        break;
    case 9 ... 10:
        output_wait(fm);
        break;
    case 11:
        if (take(m->seq, 4) == 0) {
            output_set_error(fm);
        }
        break;
    case 12 ... 16:
        output_flush_or_finish(fm, FILE_FLUSH);
        break;
    default:
        output_write(fm);
        break;
    }
}

/* Whatever became of the stream, nothing wrong was stored */
static void output_check_stored(FileModel *fm, bool failed)
{
    VmstateTestNode *node = fm->m.t->node;
    unsigned flushes = 0;
    unsigned i;

    QEMU_LOCK_GUARD(&node->lock);
    for (i = 0; i < node->log->len; i++) {
        VmstateTestRequest *req = &g_array_index(node->log, VmstateTestRequest,
                                                 i);

        flushes += req->op == VMSTATE_TEST_FLUSH;
        if (req->op == VMSTATE_TEST_WRITE && req->ret == 0) {
            model_check_written(node, req);
        }
    }
    g_assert_cmpuint(node->data->len, <=, fm->length);
    if (!failed) {
        g_assert_cmpuint(flushes, ==, 1);
        g_assert_cmpuint(node->data->len, ==, fm->length);
        g_assert(vmstate_test_matches(node->data->data, 0, fm->length));
    }
}

/* As saving does it: finish first, or give up, or neither */
static void output_close(FileModel *fm)
{
    bool failed;
    int ret;

    switch (take(fm->m.seq, 4)) {
    case 0:
        output_set_error(fm);
        qio_channel_vmstate_abort(fm->vioc);
        break;
    case 1:
        output_flush_or_finish(fm, FILE_FINISH);
        break;
    default:
        break;
    }
    failed = fm->stopped || fm->set_error;
    ret = qemu_fclose(fm->f);
    WITH_QEMU_LOCK_GUARD(&fm->m.t->node->lock) {
        failed |= fm->m.t->node->first_errno != 0;
    }
    g_assert_cmpint(ret < 0, ==, failed);
    if (fm->set_error) {
        g_assert_cmpint(ret, ==, fm->set_error);
    }
    output_check_stored(fm, failed);
}

static void output_run(VmstateTest *t, Sequence *seq)
{
    static const size_t chunks[] = { 32 * KiB, 96 * KiB, 1 * MiB };
    VmstateStreamOptions options = vmstate_stream_defaults;
    FileModel fm = {};

    model_init(&fm.m, t, seq);
    t->node->cluster_size = 64 * KiB;
    options.chunk_size = chunks[take(seq, ARRAY_SIZE(chunks))];
    options.depth = 1 + take(seq, 12);
    fm.vioc = qio_channel_vmstate_new_output(t->bs, &options);
    fm.f = qemu_file_new_output(QIO_CHANNEL(fm.vioc));
    fm.buf = g_malloc(KEPT_BYTES);
    while (seq->left && take(seq, 64)) {
        output_step(&fm);
    }
    output_close(&fm);
    file_free(&fm);
}

void vmstate_model_put(VmstateTest *t, const uint8_t *data, size_t size)
{
    model_repeat(t, data, size, output_run);
}

/* Input */

/* Up to where there are bytes: all that the channel gave, once it failed */
static int64_t input_limit(FileModel *fm)
{
    return qemu_file_get_error(fm->f) ? qio_channel_vmstate_tell(fm->vioc)
                                      : INT64_MAX;
}

/* A request for the very byte that the channel is at has failed */
static void input_check_read_error(FileModel *fm)
{
    VmstateTestNode *node = fm->m.t->node;
    VmstateTestRequest *last;

    QEMU_LOCK_GUARD(&node->lock);
    g_assert_cmpuint(node->log->len, >, 0);
    last = &g_array_index(node->log, VmstateTestRequest, node->log->len - 1);
    g_assert_cmpint(last->ret, <, 0);
    g_assert_cmpint(last->offset, ==, qio_channel_vmstate_tell(fm->vioc));
    vmstate_test_check_error_text(fm->error, -last->ret, last->offset);
}

/* An error has a cause, and the right one is told */
static void input_check_error(FileModel *fm)
{
    int64_t pos = qio_channel_vmstate_tell(fm->vioc);
    g_autofree char *ends = g_strdup_printf("VM state ends after %" PRId64
                                            " bytes", fm->end);
    Error *err = NULL;

    if (!file_has_new_error(fm, &err)) {
        error_free(err);
        return;
    }
    if (fm->stopped) {
        g_assert_nonnull(strstr(fm->error, "was stopped"));
    } else if (fm->end >= 0 && pos >= fm->end) {
        g_assert_cmpstr(fm->error, ==, ends);
    } else {
        input_check_read_error(fm);
    }
    error_free(err);
}

/*
 * Of @wanted bytes at @pos, @got were there: all that are.
 *
 * Some of them may be wrong: when qemu_peek_buffer() does not find all that it
 * is asked for, it moves what there is to the beginning of the file's buffer,
 * but returns the place where that was before, unless @moved: it is known to be
 * there already.  So only what filled a whole buffer is sure to be right.
 */
static void input_check(FileModel *fm, const uint8_t *found, size_t got,
                        size_t wanted, int64_t pos, bool moved)
{
    int64_t left = MAX(input_limit(fm) - pos, 0);
    size_t good = got == wanted || moved ? got
                                         : QEMU_ALIGN_DOWN(got, FILE_BUFFER);

    g_assert_cmpuint(got, ==, MIN(wanted, left));
    g_assert(vmstate_test_matches_stored(found, pos, good, fm->stored));
    if (fm->end >= 0 && got) {
        g_assert_cmpint(pos + got, <=, fm->end);
    }
    input_check_error(fm);
}

/* Numbers that are cut off have zeroes where there is nothing */
static void coroutine_mixed_fn input_get_field(FileModel *fm)
{
    size_t bytes = file_random_field(fm);
    size_t left;

    vmstate_test_get_field(fm->f, fm->buf, bytes);
    left = MIN(bytes, MAX(input_limit(fm) - fm->pos, 0));
    g_assert(vmstate_test_all_are(fm->buf + left, bytes - left, 0));
    input_check(fm, fm->buf, left, bytes, fm->pos, true);
    fm->pos += left;
}

static void coroutine_mixed_fn input_get(FileModel *fm)
{
    bool in_place = fm->op == FILE_KEPT;
    uint8_t *found = fm->buf;
    size_t got;

    if (in_place) {
        got = qemu_get_buffer_in_place(fm->f, &found, fm->bytes);
    } else {
        got = qemu_get_buffer(fm->f, found, fm->bytes);
    }
    /* Which looks, and then looks again */
    input_check(fm, found, got, fm->bytes, fm->pos,
                in_place && fm->bytes < FILE_BUFFER);
    fm->pos += got;
    /* Whoever was stopped gets what is in the file's buffer at most */
    if (fm->stopped && fm->bytes > FILE_BUFFER) {
        g_assert_nonnull(fm->error);
    }
}

static size_t coroutine_mixed_fn input_peek_at(FileModel *fm, size_t bytes,
                                               size_t ahead, bool again)
{
    uint8_t *found = NULL;
    size_t got = qemu_peek_buffer(fm->f, &found, bytes, ahead);

    input_check(fm, found, got, bytes, fm->pos + ahead, again);
    return got;
}

/* What was looked at is still there; what is there can be skipped */
static void coroutine_mixed_fn input_peek(FileModel *fm)
{
    size_t bytes = MIN(fm->bytes, FILE_BUFFER - 1);
    size_t ahead;
    size_t got = input_peek_at(fm, bytes, 0, false);

    g_assert_cmpuint(input_peek_at(fm, bytes, 0, true), ==, got);
    if (!got) {
        return;
    }
    ahead = g_rand_int_range(fm->m.t->rand, 0, got);
    input_peek_at(fm, bytes - ahead, ahead, true);
    if (fm->op == FILE_SKIP) {
        /* More than there can be is not skipped at all */
        qemu_file_skip(fm->f, FILE_BUFFER + 1);
        qemu_file_skip(fm->f, ahead);
        fm->pos += ahead;
    }
}

static void coroutine_mixed_fn input_party(void *opaque)
{
    FileModel *fm = opaque;
    unsigned i;

    for (i = 0; i < fm->calls; i++) {
        switch (fm->op) {
        case FILE_FIELDS:
            input_get_field(fm);
            break;
        case FILE_PEEK:
        case FILE_SKIP:
            input_peek(fm);
            break;
        case FILE_SEEK:
            qemu_set_offset(fm->f, fm->pos, SEEK_SET);
            break;
        default:
            input_get(fm);
            break;
        }
    }
}

static void input_read(FileModel *fm)
{
    static const FileOp ops[] = {
        FILE_FIELDS, FILE_BUFFERS, FILE_KEPT, FILE_PEEK, FILE_SKIP
    };

    file_set_op(fm, ops[take(fm->m.seq, ARRAY_SIZE(ops))]);
    vmstate_test_run(fm->m.t, input_party, fm);
}

static void input_seek(FileModel *fm)
{
    Sequence *seq = fm->m.seq;
    int64_t limit = fm->end < 0 ? MAX_STATE : fm->end;

    switch (take(seq, 4)) {
    case 0:
        fm->pos = take(seq, MAX_STATE);
        break;
    case 1:
        fm->pos = MAX(limit - (int64_t)take(seq, 0x10000), 0);
        break;
    case 2:
        fm->pos = MAX(fm->pos - (int64_t)take(seq, 0x10000), 0);
        break;
    default:
        fm->pos += take(seq, 0x10000);
        break;
    }
    fm->op = FILE_SEEK;
    fm->calls = 1;
    vmstate_test_run(fm->m.t, input_party, fm);
}

static void input_step(FileModel *fm)
{
    Model *m = &fm->m;

    switch (take(m->seq, 48)) {
    case 0 ... 7:
        file_disturb(fm, VMSTATE_TEST_READ);
        break;
    case 8:
        model_set_bad_range(m, fm->pos);
        break;
    case 9 ... 10:
        vmstate_test_settle(m->t);
        break;
    case 11 ... 14:
        input_seek(fm);
        break;
    default:
        input_read(fm);
        break;
    }
}

static void input_open(FileModel *fm)
{
    VmstateTest *t = fm->m.t;
    Sequence *seq = fm->m.seq;
    VmstateStreamOptions options = vmstate_stream_defaults;

    options.window = (2 + take(seq, 4)) * VMSTATE_READER_MIN_REQUEST;
    fm->end = take(seq, take(seq, 2) ? 5000 : MAX_STATE);
    /* Usually all of it */
    fm->stored = take(seq, 4) ? fm->end : take(seq, MAX_STATE);
    if (!take(seq, 6)) {
        fm->end = -1;
    }
    t->node->model_bytes = fm->stored;
    fm->vioc = qio_channel_vmstate_new_input(t->bs, fm->end, NULL, NULL,
                                             &options);
    fm->f = qemu_file_new_input(QIO_CHANNEL(fm->vioc));
    fm->buf = g_malloc(2 * MiB + 0x10000);
}

/* Also with a request in flight */
static void input_close(FileModel *fm)
{
    int ret = qemu_fclose(fm->f);

    g_assert_cmpint(ret < 0, ==, fm->error != NULL);
    g_assert_cmpuint(vmstate_test_in_flight(fm->m.t->node), ==, 0);
}

static void input_run(VmstateTest *t, Sequence *seq)
{
    FileModel fm = {};

    model_init(&fm.m, t, seq);
    input_open(&fm);
    while (seq->left && take(seq, 64)) {
        input_step(&fm);
    }
    input_close(&fm);
    file_free(&fm);
}

void vmstate_model_get(VmstateTest *t, const uint8_t *data, size_t size)
{
    model_repeat(t, data, size, input_run);
}
