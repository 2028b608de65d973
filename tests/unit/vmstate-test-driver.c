/*
 * A block driver that keeps VM state in memory and counts, and the settings in
 * which a VM state stream can be used
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#ifdef CONFIG_LINUX
#include <sys/resource.h>
#endif
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/iov.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "qemu/timer.h"
#include "qemu/tsan.h"
#include "qemu/units.h"
#include "block/aio-wait.h"
#include "vmstate-test-driver.h"

/* How often a held request looks whether it may go on */
#define HELD_POLL_NS (50 * SCALE_US)

/* How long what must come may take, generous for checkers that slow us down */
#define PATIENCE_NS (10 * NANOSECONDS_PER_SECOND)

/* What a read buffer contains before the data come */
#define POISON 0xa5

const VmstateTestSetting vmstate_test_settings[] = {
#ifndef CONFIG_TSAN
    /*
     * Party and node share the main loop's thread, so there is next to nothing
     * that could race.  The few cases in which another thread takes part have
     * it in the other settings as well.
     */
    { "main-loop", VMSTATE_TEST_MAIN_LOOP },
    { "coroutine", VMSTATE_TEST_COROUTINE },
    { "main-loop/drained", VMSTATE_TEST_MAIN_LOOP, false, true },
#endif
    { "thread", VMSTATE_TEST_THREAD },
    { "iothread-coroutine", VMSTATE_TEST_IOTHREAD_COROUTINE },
    { "main-loop/node-in-iothread", VMSTATE_TEST_MAIN_LOOP, true },
    { "coroutine/node-in-iothread", VMSTATE_TEST_COROUTINE, true },
    { "thread/node-in-iothread", VMSTATE_TEST_THREAD, true },
    { "iothread/node-in-iothread", VMSTATE_TEST_IOTHREAD, true },
    { "iothread-coroutine/node-in-iothread",
      VMSTATE_TEST_IOTHREAD_COROUTINE, true },
    { "main-loop/node-in-iothread/drained",
      VMSTATE_TEST_MAIN_LOOP, true, true },
    { "thread/node-in-iothread/drained", VMSTATE_TEST_THREAD, true, true },
    { "main-loop/reads-in-iothread",
      VMSTATE_TEST_MAIN_LOOP, .reads_elsewhere = true },
    { "coroutine/reads-in-iothread",
      VMSTATE_TEST_COROUTINE, .reads_elsewhere = true },
    { "coroutine/reads-in-iothread/drained",
      VMSTATE_TEST_COROUTINE, .reads_elsewhere = true, .drained = true },
    { }
};

uint32_t vmstate_test_seed(void)
{
    const char *str = g_getenv("VMSTATE_TEST_SEED");
    unsigned seed = 1;

    g_assert(!str || qemu_strtoui(str, NULL, 0, &seed) == 0);
    return seed;
}

/* The model stream.  Its beginning is computed once, to save time. */

#define MODEL_BYTES ((int64_t)64 * MiB)
static uint8_t *model;

static uint64_t model_word(uint64_t index)
{
    /* Mixes well enough that shifted, swapped or repeated data differ */
    uint64_t x = (index + 1) * 0x9e3779b97f4a7c15ull;

    x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93ull;
    return cpu_to_le64(x ^ (x >> 29));
}

static void model_compute(uint8_t *p, int64_t offset, size_t bytes)
{
    while (bytes) {
        uint64_t word = model_word(offset / sizeof(word));
        size_t skip = offset % sizeof(word);
        size_t n = MIN(bytes, sizeof(word) - skip);

        if (n == sizeof(word)) {
            memcpy(p, &word, sizeof(word));
        } else {
            memcpy(p, (uint8_t *)&word + skip, n);
        }
        p += n;
        offset += n;
        bytes -= n;
    }
}

static void model_prepare(void)
{
    if (!model) {
        model = g_malloc(MODEL_BYTES);
        model_compute(model, 0, MODEL_BYTES);
    }
}

/* How many of @bytes from @offset were computed at the beginning */
static size_t model_known(int64_t offset, size_t bytes)
{
    return MIN(bytes, MAX(MODEL_BYTES - offset, 0));
}

/*
 * If ThreadSanitizer followed each byte that a test fills or compares, it would
 * take twice as long.  It is told to ignore what the thread does there, and
 * gets to see the first byte of each KiB.
 */
#define SEEN_EVERY KiB

static void see_writes(uint8_t *buf, size_t bytes)
{
    volatile uint8_t *p = buf;  /* to be accessed although it has no effect */
    size_t i;

    for (i = 0; i < bytes; i += SEEN_EVERY) {
        p[i] = p[i];
    }
}

static void see_reads(const uint8_t *buf, size_t bytes)
{
    const volatile uint8_t *p = buf;    /* as above */
    size_t i;

    for (i = 0; i < bytes; i += SEEN_EVERY) {
        (void)p[i];
    }
}

void vmstate_test_fill(void *buf, int64_t offset, size_t bytes)
{
    size_t known = model_known(offset, bytes);

    if (known) {
        QEMU_TSAN_ANNOTATE_IGNORE_READS_BEGIN();
        memcpy(buf, model + offset, known);
        QEMU_TSAN_ANNOTATE_IGNORE_READS_END();
        see_writes(buf, known);
    }
    model_compute((uint8_t *)buf + known, offset + known, bytes - known);
}

static bool matches_known(const uint8_t *p, int64_t offset, size_t bytes)
{
    int diff;

    if (!bytes) {
        return true;
    }
    QEMU_TSAN_ANNOTATE_IGNORE_READS_BEGIN();
    diff = memcmp(p, model + offset, bytes);
    QEMU_TSAN_ANNOTATE_IGNORE_READS_END();
    see_reads(p, bytes);
    return diff == 0;
}

static bool matches_computed(const uint8_t *p, int64_t offset, size_t bytes)
{
    uint8_t expected[16 * KiB];

    while (bytes) {
        size_t n = MIN(bytes, sizeof(expected));

        model_compute(expected, offset, n);
        if (memcmp(p, expected, n)) {
            return false;
        }
        p += n;
        offset += n;
        bytes -= n;
    }
    return true;
}

bool vmstate_test_matches(const void *buf, int64_t offset, size_t bytes)
{
    size_t known = model_known(offset, bytes);
    const uint8_t *p = buf;

    return matches_known(p, offset, known) &&
           matches_computed(p + known, offset + known, bytes - known);
}

bool vmstate_test_all_are(const uint8_t *buf, size_t bytes, uint8_t value)
{
    return !bytes || (buf[0] == value && !memcmp(buf, buf + 1, bytes - 1));
}

bool vmstate_test_matches_stored(const uint8_t *buf, int64_t offset,
                                 size_t bytes, int64_t stored)
{
    size_t model = MIN(bytes, MAX(stored - offset, 0));

    return vmstate_test_matches(buf, offset, model) &&
           vmstate_test_all_are(buf + model, bytes - model, 0);
}

void vmstate_test_split(GRand *rand, struct iovec *iov, unsigned niov,
                        uint8_t *buf, size_t bytes)
{
    unsigned i;

    for (i = 0; i < niov; i++) {
        size_t n = bytes;

        if (i < niov - 1) {
            n = MIN(bytes, g_rand_int_range(rand, 0, 2 * bytes / niov + 2));
        }
        iov[i] = (struct iovec) { buf, n };
        buf += n;
        bytes -= n;
    }
}

/* The driver */

static VmstateTestRequest *request_at(VmstateTestNode *node, unsigned index)
{
    return &g_array_index(node->log, VmstateTestRequest, index);
}

/* Called with the lock held */
static int request_result(VmstateTestNode *node, VmstateTestOp op,
                          int64_t offset, int64_t bytes)
{
    VmstateTestFailure *fail = &node->fail[op];
    unsigned n = node->started[op];

    if (n >= fail->first && n < fail->first + fail->count) {
        return -fail->err;
    }
    if (op == VMSTATE_TEST_READ && offset < node->bad_offset +
        node->bad_bytes && node->bad_offset < offset + bytes) {
        return -EIO;
    }
    return 0;
}

static unsigned all_in_flight(VmstateTestNode *node)
{
    unsigned sum = 0;
    int op;

    for (op = 0; op < VMSTATE_TEST_OP__MAX; op++) {
        sum += node->in_flight[op];
    }
    return sum;
}

/* Returns the request's index in the log */
static unsigned begin_request(VmstateTestNode *node, VmstateTestOp op,
                              int64_t offset, int64_t bytes)
{
    VmstateTestRequest req = {
        .op = op,
        .offset = offset,
        .bytes = bytes,
        .ctx = qemu_get_current_aio_context(),
    };

    QEMU_LOCK_GUARD(&node->lock);
    node->started[op]++;
    req.others = all_in_flight(node);
    req.ret = request_result(node, op, offset, bytes);
    if (node->first_errno) {
        node->started_after_failure++;
    }
    node->in_flight[op]++;
    node->max_in_flight[op] = MAX(node->max_in_flight[op],
                                  node->in_flight[op]);
    if (node->open_at && node->in_flight[op] >= node->open_at) {
        node->pace = VMSTATE_TEST_SHUFFLE;
    }
    g_array_append_val(node->log, req);
    return node->log->len - 1;
}

static int end_request(VmstateTestNode *node, unsigned index)
{
    VmstateTestRequest *req;

    QEMU_LOCK_GUARD(&node->lock);
    req = request_at(node, index);
    req->ended = true;
    node->in_flight[req->op]--;
    if (req->ret < 0 && !node->first_errno) {
        node->first_errno = -req->ret;
        node->failed_offset = req->offset;
    }
    return req->ret;
}

static bool has_come(int64_t ns)
{
    return ns && qemu_clock_get_ns(QEMU_CLOCK_REALTIME) >= ns;
}

static bool may_go_on(VmstateTestNode *node, unsigned index)
{
    QEMU_LOCK_GUARD(&node->lock);
    if (has_come(node->open_at_ns)) {
        node->pace = VMSTATE_TEST_SHUFFLE;
    }
    return node->pace != VMSTATE_TEST_HELD || index < node->hold_from ||
           has_come(request_at(node, index)->open_at_ns);
}

static void coroutine_fn take_time(VmstateTestNode *node, unsigned index)
{
    int turns = 0;

    while (!may_go_on(node, index)) {
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, HELD_POLL_NS);
    }
    WITH_QEMU_LOCK_GUARD(&node->lock) {
        if (node->pace == VMSTATE_TEST_SHUFFLE) {
            turns = g_rand_int_range(node->rand, 0, node->max_turns);
        }
    }
    while (turns--) {
        aio_co_schedule(qemu_get_current_aio_context(), qemu_coroutine_self());
        qemu_coroutine_yield();
    }
}

static int coroutine_fn GRAPH_RDLOCK
vmstate_test_co_save_vmstate(BlockDriverState *bs, QEMUIOVector *qiov,
                             int64_t pos)
{
    VmstateTestNode *node = bs->opaque;
    unsigned index = begin_request(node, VMSTATE_TEST_WRITE, pos, qiov->size);
    int i, ret;

    for (i = 0; i < qiov->niov; i++) {
        g_assert(QEMU_PTR_IS_ALIGNED(qiov->iov[i].iov_base,
                                     bdrv_opt_mem_align(bs)));
    }
    take_time(node, index);

    /* As late as can be, so that a buffer that is reused too early shows */
    WITH_QEMU_LOCK_GUARD(&node->lock) {
        ret = request_at(node, index)->ret;
        if (ret == 0) {
            if (node->data->len < pos + qiov->size) {
                g_byte_array_set_size(node->data, pos + qiov->size);
            }
            qemu_iovec_to_buf(qiov, 0, node->data->data + pos, qiov->size);
        }
    }
    return end_request(node, index);
}

/* Like qcow2, returns zeroes behind the end of what is stored */
static void read_model(VmstateTestNode *node, QEMUIOVector *qiov, int64_t pos)
{
    size_t bytes = 0;

    g_assert_cmpint(qiov->niov, ==, 1);
    if (pos < node->model_bytes) {
        bytes = MIN(qiov->size, node->model_bytes - pos);
        vmstate_test_fill(qiov->iov[0].iov_base, pos, bytes);
    }
    qemu_iovec_memset(qiov, bytes, 0, qiov->size - bytes);
}

static int coroutine_fn GRAPH_RDLOCK
vmstate_test_co_load_vmstate(BlockDriverState *bs, QEMUIOVector *qiov,
                             int64_t pos)
{
    VmstateTestNode *node = bs->opaque;
    size_t align = bdrv_opt_mem_align(bs);
    unsigned index = begin_request(node, VMSTATE_TEST_READ, pos, qiov->size);

    /* An aligned offset needs an aligned address, others are bounced anyway */
    g_assert_cmpuint((uintptr_t)qiov->iov[0].iov_base % align, ==, pos % align);
    WITH_QEMU_LOCK_GUARD(&node->lock) {
        g_assert_cmpint(pos + qiov->size, <=, node->read_limit);
        g_assert_cmpint(qiov->size, <=, node->max_read);
    }
    qemu_iovec_memset(qiov, 0, POISON, qiov->size);
    take_time(node, index);

    WITH_QEMU_LOCK_GUARD(&node->lock) {
        if (request_at(node, index)->ret == 0) {
            read_model(node, qiov, pos);
        }
    }
    return end_request(node, index);
}

static int coroutine_fn GRAPH_RDLOCK
vmstate_test_co_flush(BlockDriverState *bs)
{
    VmstateTestNode *node = bs->opaque;
    unsigned index = begin_request(node, VMSTATE_TEST_FLUSH, 0, 0);

    take_time(node, index);
    return end_request(node, index);
}

static int coroutine_fn GRAPH_RDLOCK
vmstate_test_co_get_info(BlockDriverState *bs, BlockDriverInfo *bdi)
{
    VmstateTestNode *node = bs->opaque;

    if (!node->cluster_size) {
        return -ENOTSUP;
    }
    bdi->cluster_size = node->cluster_size;
    return 0;
}

static void vmstate_test_refresh_limits(BlockDriverState *bs, Error **errp)
{
    bs->bl.opt_mem_alignment = VMSTATE_TEST_MEM_ALIGN;
}

static int vmstate_test_open(BlockDriverState *bs, QDict *options, int flags,
                             Error **errp)
{
    VmstateTestNode *node = bs->opaque;

    qemu_mutex_init(&node->lock);
    node->rand = g_rand_new_with_seed(vmstate_test_seed());
    node->data = g_byte_array_new();
    node->log = g_array_new(false, false, sizeof(VmstateTestRequest));
    vmstate_test_node_reset(node);
    return 0;
}

static void vmstate_test_close(BlockDriverState *bs)
{
    VmstateTestNode *node = bs->opaque;

    g_rand_free(node->rand);
    g_byte_array_free(node->data, true);
    g_array_free(node->log, true);
    qemu_mutex_destroy(&node->lock);
}

static BlockDriver bdrv_vmstate_test = {
    .format_name            = "vmstate-test",
    .instance_size          = sizeof(VmstateTestNode),

    .bdrv_open              = vmstate_test_open,
    .bdrv_close             = vmstate_test_close,
    .bdrv_refresh_limits    = vmstate_test_refresh_limits,
    .bdrv_child_perm        = bdrv_default_perms,

    .bdrv_co_save_vmstate   = vmstate_test_co_save_vmstate,
    .bdrv_co_load_vmstate   = vmstate_test_co_load_vmstate,
    .bdrv_co_flush          = vmstate_test_co_flush,
    .bdrv_co_get_info       = vmstate_test_co_get_info,
};

/* What a test does with the node */

void vmstate_test_node_reset(VmstateTestNode *node)
{
    QEMU_LOCK_GUARD(&node->lock);
    g_assert_cmpuint(all_in_flight(node), ==, 0);
    node->pace = VMSTATE_TEST_SHUFFLE;
    node->max_turns = 12;
    node->hold_from = 0;
    node->open_at = 0;
    node->open_at_ns = 0;
    node->cluster_size = 64 * KiB;
    memset(node->fail, 0, sizeof(node->fail));
    node->bad_offset = 0;
    node->bad_bytes = 0;
    node->read_limit = INT64_MAX;
    node->max_read = INT64_MAX;
    node->model_bytes = 0;
    g_byte_array_set_size(node->data, 0);
    g_array_set_size(node->log, 0);
    memset(node->started, 0, sizeof(node->started));
    memset(node->max_in_flight, 0, sizeof(node->max_in_flight));
    node->first_errno = 0;
    node->failed_offset = -1;
    node->started_after_failure = 0;
}

void vmstate_test_node_reserve(VmstateTestNode *node, size_t bytes)
{
    QEMU_LOCK_GUARD(&node->lock);
    g_byte_array_set_size(node->data, bytes);
    g_byte_array_set_size(node->data, 0);
}

void vmstate_test_fail(VmstateTestNode *node, VmstateTestOp op, unsigned first,
                       unsigned count, int err)
{
    QEMU_LOCK_GUARD(&node->lock);
    node->fail[op] = (VmstateTestFailure) { first, count, err };
}

void vmstate_test_fail_one(VmstateTestNode *node, unsigned index, int err)
{
    QEMU_LOCK_GUARD(&node->lock);
    g_assert_false(request_at(node, index)->ended);
    request_at(node, index)->ret = -err;
}

void vmstate_test_hold_after(VmstateTestNode *node, unsigned count)
{
    QEMU_LOCK_GUARD(&node->lock);
    node->pace = VMSTATE_TEST_HELD;
    node->hold_from = node->log->len + count;
    node->open_at_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME) + PATIENCE_NS;
}

void vmstate_test_hold(VmstateTestNode *node)
{
    vmstate_test_hold_after(node, 0);
}

void vmstate_test_release(VmstateTestNode *node)
{
    QEMU_LOCK_GUARD(&node->lock);
    node->pace = VMSTATE_TEST_SHUFFLE;
}

void vmstate_test_release_one(VmstateTestNode *node, unsigned index)
{
    QEMU_LOCK_GUARD(&node->lock);
    request_at(node, index)->open_at_ns = 1;
}

void vmstate_test_release_later(VmstateTestNode *node)
{
    QEMU_LOCK_GUARD(&node->lock);
    node->open_at_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME) +
                       VMSTATE_TEST_LATER_NS;
}

void vmstate_test_release_one_later(VmstateTestNode *node, unsigned index)
{
    QEMU_LOCK_GUARD(&node->lock);
    request_at(node, index)->open_at_ns =
        qemu_clock_get_ns(QEMU_CLOCK_REALTIME) + VMSTATE_TEST_LATER_NS;
}

void vmstate_test_hold_until(VmstateTestNode *node, unsigned count)
{
    vmstate_test_hold(node);
    QEMU_LOCK_GUARD(&node->lock);
    node->open_at = count;
}

unsigned vmstate_test_started(VmstateTestNode *node, VmstateTestOp op)
{
    QEMU_LOCK_GUARD(&node->lock);
    return node->started[op];
}

unsigned vmstate_test_in_flight(VmstateTestNode *node)
{
    QEMU_LOCK_GUARD(&node->lock);
    return all_in_flight(node);
}

static unsigned in_flight_of(VmstateTestNode *node, VmstateTestOp op)
{
    QEMU_LOCK_GUARD(&node->lock);
    return node->in_flight[op];
}

/* One turn of the main loop, and a chance for other threads */
static void main_loop_turn(void)
{
    if (!aio_poll(qemu_get_aio_context(), false)) {
        g_usleep(20);
    }
}

void vmstate_test_wait_in_flight(VmstateTestNode *node, VmstateTestOp op,
                                 unsigned count)
{
    int64_t deadline = qemu_clock_get_ns(QEMU_CLOCK_REALTIME) + PATIENCE_NS;

    while (in_flight_of(node, op) != count) {
        g_assert_cmpint(qemu_clock_get_ns(QEMU_CLOCK_REALTIME), <, deadline);
        main_loop_turn();
    }
}

static void nothing_bh(void *opaque)
{
}

/* Counting turns and not time, this is right on a busy machine too */
void vmstate_test_settle(VmstateTest *t)
{
    AioContext *iothread_ctx = iothread_get_aio_context(t->iothread);
    unsigned quiet = 0, before = 0;

    while (quiet < 20) {
        unsigned now = vmstate_test_started(t->node, VMSTATE_TEST_READ) +
                       vmstate_test_started(t->node, VMSTATE_TEST_WRITE);

        if (now != before || vmstate_test_in_flight(t->node)) {
            quiet = 0;
        }
        quiet++;
        before = now;
        if (t->ctx == iothread_ctx || t->read_ctx == iothread_ctx) {
            aio_wait_bh_oneshot(iothread_ctx, nothing_bh, NULL);
        }
        aio_poll(qemu_get_aio_context(), false);
    }
}

void vmstate_test_check_context(VmstateTestNode *node, AioContext *ctx)
{
    unsigned i;

    QEMU_LOCK_GUARD(&node->lock);
    g_assert_cmpuint(node->log->len, >, 0);
    for (i = 0; i < node->log->len; i++) {
        g_assert(request_at(node, i)->ctx == ctx);
        g_assert(request_at(node, i)->ended);
    }
}

static bool names_offset(const char *text, int64_t offset)
{
    const char *p = strstr(text, "offset ");
    int64_t found;

    return p && qemu_strtoi64(p + strlen("offset "), &p, 10, &found) == 0 &&
           found == offset;
}

void vmstate_test_check_error(int64_t ret, Error *errp, int err,
                              int64_t offset)
{
    g_assert_cmpint(ret, ==, -err);
    g_assert_nonnull(errp);
    g_test_message("%s", error_get_pretty(errp));
    vmstate_test_check_error_text(error_get_pretty(errp), err, offset);
}

void vmstate_test_check_error_text(const char *text, int err, int64_t offset)
{
    g_assert_nonnull(strstr(text, VMSTATE_TEST_NODE_NAME));
    g_assert_nonnull(strstr(text, g_strerror(err)));
    if (offset >= 0) {
        g_assert_true(names_offset(text, offset));
    }
}

static unsigned all_started(VmstateTestNode *node)
{
    QEMU_LOCK_GUARD(&node->lock);
    return node->log->len;
}

void vmstate_test_check_drain_waits(VmstateTest *t)
{
    unsigned started;

    g_assert_cmpuint(vmstate_test_in_flight(t->node), >, 0);
    vmstate_test_release_later(t->node);
    bdrv_drained_begin(t->bs);
    started = all_started(t->node);
    /* It is not just a moment between two requests */
    g_usleep(VMSTATE_TEST_LATER_NS / SCALE_US);
    g_assert_cmpuint(all_started(t->node), ==, started);
    g_assert_cmpuint(vmstate_test_in_flight(t->node), ==, 0);
    bdrv_drained_end(t->bs);
}

bool vmstate_test_in_subprocess(void)
{
#if defined(QEMU_SANITIZE_ADDRESS) || defined(CONFIG_TSAN)
    g_test_skip("limits or measures address space, of which sanitizers take "
                "terabytes");
    return false;
#elif !defined(CONFIG_LINUX)
    g_test_skip("no way to limit or measure memory");
    return false;
#endif
    if (g_test_subprocess()) {
        return true;
    }
    g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_INHERIT_STDERR);
    g_test_trap_assert_passed();
    return false;
}

#ifdef CONFIG_LINUX
uint64_t vmstate_test_memory_used(void)
{
    g_autofree char *statm = NULL;
    const char *end;
    uint64_t pages;

    g_assert_true(g_file_get_contents("/proc/self/statm", &statm, NULL, NULL));
    g_assert_cmpint(qemu_strtou64(statm, &end, 10, &pages), ==, 0);
    return pages * qemu_real_host_page_size();
}

static void set_address_space_limit(rlim_t soft)
{
    struct rlimit limit;

    g_assert_cmpint(getrlimit(RLIMIT_AS, &limit), ==, 0);
    limit.rlim_cur = MIN(soft, limit.rlim_max);
    g_assert_cmpint(setrlimit(RLIMIT_AS, &limit), ==, 0);
}

void vmstate_test_limit_memory(size_t bytes)
{
    set_address_space_limit(vmstate_test_memory_used() + bytes);
}

void vmstate_test_unlimit_memory(void)
{
    set_address_space_limit(RLIM_INFINITY);
}
#else
uint64_t vmstate_test_memory_used(void)
{
    g_assert_not_reached();
}

void vmstate_test_limit_memory(size_t bytes)
{
    g_assert_not_reached();
}

void vmstate_test_unlimit_memory(void)
{
    g_assert_not_reached();
}
#endif

/* Settings and parties */

VmstateTest *vmstate_test_new(const VmstateTestSetting *setting)
{
    VmstateTest *t = g_new0(VmstateTest, 1);

    model_prepare();
    t->setting = setting;
    t->rand = g_rand_new_with_seed(vmstate_test_seed());
    t->iothread = iothread_new();
    t->ctx = setting->node_in_iothread ? iothread_get_aio_context(t->iothread)
                                       : qemu_get_aio_context();
    t->read_ctx = setting->reads_elsewhere
                  ? iothread_get_aio_context(t->iothread) : NULL;
    t->bs = bdrv_new_open_driver(&bdrv_vmstate_test, VMSTATE_TEST_NODE_NAME,
                                 BDRV_O_RDWR, &error_abort);
    t->node = t->bs->opaque;
    bdrv_try_change_aio_context(t->bs, t->ctx, NULL, &error_abort);
    if (setting->drained) {
        bdrv_drain_all_begin();
    }
    return t;
}

void vmstate_test_free(VmstateTest *t)
{
    if (t->setting->drained) {
        bdrv_drain_all_end();
    }
    /* The engines are gone, and so are their references */
    g_assert_cmpint(t->bs->refcnt, ==, 1);
    bdrv_try_change_aio_context(t->bs, qemu_get_aio_context(), NULL,
                                &error_abort);
    bdrv_unref(t->bs);
    iothread_join(t->iothread);
    g_rand_free(t->rand);
    g_free(t);
}

bool vmstate_test_is_single_threaded(VmstateTest *t)
{
    switch (t->setting->party) {
    case VMSTATE_TEST_MAIN_LOOP:
    case VMSTATE_TEST_COROUTINE:
        return !t->setting->node_in_iothread && !t->setting->reads_elsewhere;
    case VMSTATE_TEST_IOTHREAD:
    case VMSTATE_TEST_IOTHREAD_COROUTINE:
        return t->setting->node_in_iothread;
    case VMSTATE_TEST_THREAD:
        return false;
    }
    g_assert_not_reached();
}

typedef struct VmstateTestRun {
    VmstateTestFunc *fn;
    void *opaque;
    bool done;              /* main loop thread only */
} VmstateTestRun;

static void run_done_bh(void *opaque)
{
    VmstateTestRun *run = opaque;

    run->done = true;
}

static void coroutine_mixed_fn run_party(void *opaque)
{
    VmstateTestRun *run = opaque;

    run->fn(run->opaque);
    aio_bh_schedule_oneshot(qemu_get_aio_context(), run_done_bh, run);
}

static void coroutine_fn run_in_coroutine(void *opaque)
{
    run_party(opaque);
}

static void *run_in_thread(void *opaque)
{
    rcu_register_thread();
    run_party(opaque);
    rcu_unregister_thread();
    return NULL;
}

void vmstate_test_run(VmstateTest *t, VmstateTestFunc *fn, void *opaque)
{
    AioContext *iothread_ctx = iothread_get_aio_context(t->iothread);
    VmstateTestRun run = { .fn = fn, .opaque = opaque };
    QemuThread thread;

    switch (t->setting->party) {
    case VMSTATE_TEST_MAIN_LOOP:
        run_party(&run);
        break;
    case VMSTATE_TEST_COROUTINE:
        aio_co_enter(qemu_get_aio_context(),
                     qemu_coroutine_create(run_in_coroutine, &run));
        break;
    case VMSTATE_TEST_IOTHREAD_COROUTINE:
        aio_co_enter(iothread_ctx,
                     qemu_coroutine_create(run_in_coroutine, &run));
        break;
    case VMSTATE_TEST_IOTHREAD:
        aio_bh_schedule_oneshot(iothread_ctx, run_party, &run);
        break;
    case VMSTATE_TEST_THREAD:
        qemu_thread_create(&thread, "party", run_in_thread, &run,
                           QEMU_THREAD_JOINABLE);
        break;
    }
    while (!run.done) {
        aio_poll(qemu_get_aio_context(), true);
    }
    if (t->setting->party == VMSTATE_TEST_THREAD) {
        qemu_thread_join(&thread);
    }
}

typedef struct VmstateTestCase {
    const VmstateTestSetting *setting;
    VmstateTestCaseFunc *func;
} VmstateTestCase;

static void run_case(gconstpointer opaque)
{
    const VmstateTestCase *c = opaque;
    VmstateTest *t = vmstate_test_new(c->setting);

    c->func(t);
    vmstate_test_free(t);
}

static void add_entry(const char *prefix, const VmstateTestEntry *entry,
                      const VmstateTestSetting *setting)
{
    VmstateTestCase *c = g_new(VmstateTestCase, 1);
    g_autofree char *path = g_strdup_printf("%s/%s/%s", prefix, entry->name,
                                            setting->name);

    *c = (VmstateTestCase) { setting, entry->func };
    g_test_add_data_func_full(path, c, run_case, g_free);
}

static void add_entries(const char *prefix, const VmstateTestEntry *entries,
                        bool reader)
{
    const VmstateTestSetting *setting;

    for (; entries->name; entries++) {
        for (setting = vmstate_test_settings; setting->name; setting++) {
            if (reader || !setting->reads_elsewhere) {
                add_entry(prefix, entries, setting);
            }
        }
    }
}

void vmstate_test_add(const char *prefix, const VmstateTestEntry *entries)
{
    add_entries(prefix, entries, false);
}

void vmstate_test_add_reader(const char *prefix,
                             const VmstateTestEntry *entries)
{
    add_entries(prefix, entries, true);
}
