/*
 * Tests of the choice how many reads of VM state to have at a time
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Storage is a formula here, so that no time passes and nothing else on the
 * machine has a say.
 */

#include "qemu/osdep.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "block/vmstate-depth.h"
#include "vmstate-test-driver.h"

#define WINDOW (10 * MiB)
#define DEPTH 8

/* Lengths in windows until the first choice is made */
#define ONE_WINDOWS 3
#define DEEP_WINDOWS 3

/* The least that goes by until the next try */
#define MIN_RUN_WINDOWS 64

/* Up to which share of its time a request takes more or less */
#define NOISE 0.1

typedef struct Storage {
    double latency_s;       /* that several requests have at the same time */
    double rate;            /* bytes per second */
    double deep_rate;       /* the same when there are several at a time */
} Storage;

/* One head, which has to move between the places of several requests */
static const Storage rotating = { 0.0005, 150e6, 105e6 };
static const Storage far_away = { 0.002, 1000e6, 1000e6 };
static const Storage near_by = { 0.00005, 1500e6, 1500e6 };

typedef struct DepthTest {
    VmstateDepth d;
    GRand *rand;
    uint64_t bytes;
    uint64_t deep_bytes;
    double seconds;
} DepthTest;

static void depth_open(DepthTest *dt, unsigned max)
{
    *dt = (DepthTest) { .rand = g_rand_new_with_seed(vmstate_test_seed()) };
    vmstate_depth_init(&dt->d, max, WINDOW);
}

static double request_seconds(const Storage *s, unsigned depth, size_t bytes)
{
    if (depth == 1) {
        return s->latency_s + bytes / s->rate;
    }
    return MAX(bytes / s->deep_rate,
               (s->latency_s + bytes / s->deep_rate) / depth);
}

static void read_one(DepthTest *dt, const Storage *s)
{
    unsigned depth = vmstate_depth_now(&dt->d);
    size_t bytes = depth == 1 ? WINDOW / 2
                              : QEMU_ALIGN_DOWN(WINDOW / (depth + 1), MiB);
    double noise = g_rand_double_range(dt->rand, 1 - NOISE, 1 + NOISE);
    double seconds = request_seconds(s, depth, bytes) * noise;

    dt->bytes += bytes;
    dt->deep_bytes += depth == 1 ? 0 : bytes;
    dt->seconds += seconds;
    vmstate_depth_account(&dt->d, bytes, seconds * NANOSECONDS_PER_SECOND);
}

static void read_bytes(DepthTest *dt, const Storage *s, uint64_t bytes)
{
    uint64_t end = dt->bytes + bytes;

    while (dt->bytes < end) {
        read_one(dt, s);
    }
}

static void depth_close(DepthTest *dt)
{
    g_rand_free(dt->rand);
}

static void test_one_only(void)
{
    DepthTest dt;

    depth_open(&dt, 1);
    read_bytes(&dt, &far_away, 16 * GiB);
    g_assert_cmpuint(dt.deep_bytes, ==, 0);
    depth_close(&dt);
}

/* When what is tried: others count on it */
static void test_begin(void)
{
    DepthTest dt;

    depth_open(&dt, DEPTH);
    read_bytes(&dt, &rotating, ONE_WINDOWS * WINDOW);
    g_assert_cmpuint(dt.deep_bytes, ==, 0);
    g_assert_cmpuint(vmstate_depth_now(&dt.d), ==, DEPTH);
    read_bytes(&dt, &rotating, DEEP_WINDOWS * WINDOW);
    g_assert_cmpuint(dt.deep_bytes, ==, DEEP_WINDOWS * WINDOW);
    g_assert_cmpuint(vmstate_depth_now(&dt.d), ==, 1);
    depth_close(&dt);
}

/* The tries must cost next to nothing */
static void test_rotating(void)
{
    DepthTest dt;

    depth_open(&dt, DEPTH);
    read_bytes(&dt, &rotating, 8 * GiB);
    g_assert_cmpfloat(dt.deep_bytes, <, 0.05 * dt.bytes);
    g_assert_cmpfloat(dt.bytes / dt.seconds, >, 0.95 * rotating.rate);
    depth_close(&dt);
}

static void test_far_away(void)
{
    DepthTest dt;

    depth_open(&dt, DEPTH);
    read_bytes(&dt, &far_away, 8 * GiB);
    g_assert_cmpfloat(dt.deep_bytes, >, 0.95 * dt.bytes);
    g_assert_cmpfloat(dt.bytes / dt.seconds, >, 0.95 * far_away.deep_rate);
    depth_close(&dt);
}

/* The more a try costs, the less often it is made */
static void test_cost(void)
{
    const Storage farther = { 0.005, 1000e6, 1000e6 };
    uint64_t tried;
    DepthTest dt;

    depth_open(&dt, DEPTH);
    read_bytes(&dt, &farther, (ONE_WINDOWS + DEEP_WINDOWS) * WINDOW);
    tried = dt.bytes - dt.deep_bytes;
    read_bytes(&dt, &farther, 5 * MIN_RUN_WINDOWS / 4 * WINDOW);
    g_assert_cmpuint(dt.bytes - dt.deep_bytes, ==, tried);
    read_bytes(&dt, &farther, MIN_RUN_WINDOWS * WINDOW);
    g_assert_cmpuint(dt.bytes - dt.deep_bytes, >, tried);
    depth_close(&dt);
}

/* No difference is no reason */
static void test_near_by(void)
{
    DepthTest dt;

    depth_open(&dt, DEPTH);
    read_bytes(&dt, &near_by, 8 * GiB);
    g_assert_cmpfloat(dt.deep_bytes, <, 0.05 * dt.bytes);
    depth_close(&dt);
}

/* The share of @bytes that is read several requests at a time */
static double deep_share(DepthTest *dt, const Storage *s, uint64_t bytes)
{
    uint64_t deep_before = dt->deep_bytes, before = dt->bytes;

    read_bytes(dt, s, bytes);
    return (double)(dt->deep_bytes - deep_before) / (dt->bytes - before);
}

/* A cache in front of the storage is used up, or others come and go */
static void test_change(void)
{
    DepthTest dt;

    depth_open(&dt, DEPTH);
    g_assert_cmpfloat(deep_share(&dt, &far_away, 2 * GiB), >, 0.9);
    read_bytes(&dt, &rotating, 5 * GiB);
    g_assert_cmpfloat(deep_share(&dt, &rotating, 1 * GiB), <, 0.1);
    read_bytes(&dt, &far_away, 14 * GiB);
    g_assert_cmpfloat(deep_share(&dt, &far_away, 2 * GiB), >, 0.9);
    depth_close(&dt);
}

/* The clock may not have moved on */
static void test_no_time(void)
{
    VmstateDepth d;

    vmstate_depth_init(&d, DEPTH, WINDOW);
    for (uint64_t bytes = 0; bytes < 8 * GiB; bytes += WINDOW) {
        vmstate_depth_account(&d, WINDOW, 0);
    }
    g_assert_cmpint(d.phase, ==, VMSTATE_DEPTH_RUN);
    g_assert_cmpuint(vmstate_depth_now(&d), ==, 1);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_message("VMSTATE_TEST_SEED=%" PRIu32, vmstate_test_seed());

    g_test_add_func("/vmstate-depth/one-only", test_one_only);
    g_test_add_func("/vmstate-depth/begin", test_begin);
    g_test_add_func("/vmstate-depth/rotating", test_rotating);
    g_test_add_func("/vmstate-depth/far-away", test_far_away);
    g_test_add_func("/vmstate-depth/cost", test_cost);
    g_test_add_func("/vmstate-depth/near-by", test_near_by);
    g_test_add_func("/vmstate-depth/change", test_change);
    g_test_add_func("/vmstate-depth/no-time", test_no_time);
    return g_test_run();
}
