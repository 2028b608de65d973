/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The model of a rotating disk in virtual time
 *
 * Expected values are worked out from the formulae in bench/models/README.rst,
 * by other means than the model uses; figures of whole loads are textbook ones.
 */
#include <glib.h>
#include <math.h>

#include "disk-model.h"

#define MICROSECOND G_GINT64_CONSTANT(1000)
#define MILLISECOND (1000 * MICROSECOND)
#define SECOND (1000 * MILLISECOND)
#define KIB G_GINT64_CONSTANT(1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

#define MAX_DEPTH 64
/* From a command that is done to the next one of the same client */
#define CLIENT_TIME (20 * MICROSECOND)

static DiskParameters parameters;
static DiskModel *disk;
static int64_t now;

static void setup(void)
{
    disk_model_free(disk);
    disk = disk_model_new(&parameters);
    g_assert_nonnull(disk);
    now = 0;
}

static void setup_default(void)
{
    disk_parameters_init(&parameters);
    g_assert_null(disk_parameters_error(&parameters));
    setup();
}

static void submit(DiskRequest *request, DiskRequestKind kind, int64_t offset,
                   int64_t length)
{
    *request = (DiskRequest) {
        .kind = kind, .offset = offset, .length = length,
    };
    disk_model_submit(disk, request, now);
}

/* Lets time pass up to the end of @request, which must come. */
static void finish(const DiskRequest *request)
{
    disk_model_advance(disk, now);
    while (request->done == DISK_UNKNOWN) {
        int64_t next = disk_model_next(disk);

        g_assert_cmpint(next, !=, DISK_UNKNOWN);
        g_assert_cmpint(next, >, now);
        now = next;
        disk_model_advance(disk, now);
    }
    now = MAX(now, request->done);
}

static int64_t run(DiskRequestKind kind, int64_t offset, int64_t length)
{
    DiskRequest request;
    int64_t start = now;

    submit(&request, kind, offset, length);
    finish(&request);
    return now - start;
}

#define assert_near g_assert_cmpfloat_with_epsilon

/* Loads: @depth clients, each of which sends a command when its last is done */

typedef struct Load {
    DiskRequestKind kind;
    int depth;
    int64_t length;
    int count;
    /* the offset of command @number */
    int64_t (*offset)(const struct Load *load, int number);
    bool fua;
} Load;

static int64_t at_random(const Load *load, int number)
{
    int64_t blocks = parameters.mechanics.capacity / load->length;

    return g_test_rand_double_range(0, blocks - 1) * load->length;
}

static int64_t in_order(const Load *load, int number)
{
    return number * load->length;
}

/* 1, 0, 3, 2, ... */
static int64_t swapped(const Load *load, int number)
{
    return (number ^ 1) * load->length;
}

/* Two readers, the second one half the disk away */
static int64_t two_streams(const Load *load, int number)
{
    return number % 2 * 500000 * MIB + number / 2 * load->length;
}

static void send(const Load *load, DiskRequest *request, int number)
{
    *request = (DiskRequest) {
        .kind = load->kind,
        .offset = load->offset(load, number),
        .length = load->length,
        .fua = load->fua,
    };
    disk_model_submit(disk, request, now);
}

static DiskRequest *first_done(DiskRequest *requests, int count)
{
    DiskRequest *first = requests;

    for (int i = 1; i < count; i++) {
        if (requests[i].done < first->done) {
            first = &requests[i];
        }
    }
    return first;
}

/* Commands a second. */
static double run_load(const Load *load)
{
    DiskRequest requests[MAX_DEPTH];
    int64_t start = now;
    int64_t last = now;
    int sent = 0;

    while (sent < load->depth) {
        send(load, &requests[sent], sent);
        sent++;
    }
    for (int done = 0; done < load->count; done++) {
        DiskRequest *request = first_done(requests, load->depth);

        while (request->done > disk_model_next(disk)) {
            now = disk_model_next(disk);
            disk_model_advance(disk, now);
            request = first_done(requests, load->depth);
        }
        g_assert_cmpint(request->done, !=, DISK_UNKNOWN);
        last = MAX(last, request->done);
        now = MAX(now, request->done + CLIENT_TIME);
        send(load, request, sent++);
    }
    for (int i = 0; i < load->depth; i++) {
        finish(&requests[i]);
    }
    return (double)load->count * SECOND / (last - start);
}

static double megabytes(const Load *load)
{
    return run_load(load) * load->length / 1e6;
}

/* Mechanics */

static void test_seek(void)
{
    const DiskMechanics *m = &parameters.mechanics;
    int64_t third = m->capacity / 3;
    int64_t far;
    double sum = 0;
    int count = 100000;

    setup_default();
    g_assert_cmpint(disk_seek_time(m, 0, 0, false), ==, 0);
    g_assert_cmpint(disk_seek_time(m, 0, m->track - 1, true), ==, 0);
    assert_near(disk_seek_time(m, 0, m->track, false), 1e6, 2e4);
    assert_near(disk_seek_time(m, third, 0, false), 8.2e6, 10);
    assert_near(disk_seek_time(m, 0, m->capacity, false), 17e6, 10);
    assert_near(disk_seek_time(m, 0, third, true), 9e6, 10);
    /* A quarter of the way takes half the time beyond settling */
    assert_near(disk_seek_time(m, 0, third / 4, false), 4.6e6, 1e3);

    for (int i = 0; i < count; i++) {
        far = g_test_rand_double_range(0, m->capacity);
        sum += disk_seek_time(m, g_test_rand_double_range(0, m->capacity), far,
                              false);
    }
    /* That a third of the stroke takes the average time is a rule of thumb */
    assert_near(sum / count, 8.2e6, 0.3e6);
}

static void test_rotation(void)
{
    const DiskMechanics *m = &parameters.mechanics;
    int64_t quarter = m->track / 4;
    int64_t i;

    setup_default();
    /* At the start of the track, so the byte is a quarter of a turn away */
    assert_near(disk_arrival_time(m, 0, 0, quarter, false), m->turn / 4, 10);
    /* Just missed: all but one turn */
    assert_near(disk_arrival_time(m, m->turn / 4 + 1000, 0, quarter, false),
                m->turn * 5 / 4, 10);
    /* A track further on it is the same angle, and the seek fits in */
    assert_near(disk_arrival_time(m, 0, 0, quarter + m->track, false),
                m->turn / 4, 10);
    /* No transfer leads out of phase, however long and however cut up */
    for (i = 1; i < 100000; i++) {
        int64_t length = i * 4097;
        int64_t end = disk_transfer_time(m, length);

        assert_near(disk_arrival_time(m, end, length, length, false), end, 20);
        g_assert_cmpint(disk_bytes_within(m, end), ==, length);
    }
}

/* One command at a time */

static void test_random_read(void)
{
    Load load = { DISK_READ, 1, 4 * KIB, 4000, at_random };

    setup_default();
    assert_near(run_load(&load), 81, 3);
}

static void test_read_hit(void)
{
    setup_default();
    run(DISK_READ, GIB, 64 * KIB);
    now += SECOND;
    /* What was read ahead, which are 2 MiB, and that again */
    g_assert_cmpint(run(DISK_READ, GIB + MIB, 64 * KIB), <, MILLISECOND);
    g_assert_cmpint(run(DISK_READ, GIB + MIB, 64 * KIB), <, MILLISECOND);
    /* Not what is far beyond, nor what was there before it */
    g_assert_cmpint(run(DISK_READ, GIB + 8 * MIB, 64 * KIB), >, MILLISECOND);
    g_assert_cmpint(run(DISK_READ, GIB - MIB, 64 * KIB), >, MILLISECOND);
}

static void test_segments(void)
{
    setup_default();
    for (int i = 0; i < 9; i++) {
        run(DISK_READ, i * GIB, 4 * KIB);
        now += 100 * MILLISECOND;
    }
    g_assert_cmpint(run(DISK_READ, 8 * GIB + 4 * KIB, 4 * KIB), <, MILLISECOND);
    g_assert_cmpint(run(DISK_READ, GIB + 4 * KIB, 4 * KIB), <, MILLISECOND);
    /* There are eight, and this was the oldest */
    g_assert_cmpint(run(DISK_READ, 4 * KIB, 4 * KIB), >, MILLISECOND);
}

/* Streams */

static void test_sequential_read(void)
{
    static const int64_t lengths[] = { 4 * KIB, 128 * KIB, MIB, 5 * MIB };

    for (int depth = 1; depth <= 8; depth *= 8) {
        for (int i = 0; i < G_N_ELEMENTS(lengths); i++) {
            Load load = { DISK_READ, depth, lengths[i],
                          512 * MIB / lengths[i], in_order };

            setup_default();
            if (lengths[i] == 4 * KIB && depth == 1) {
                /* 10 + 7 µs on the cable, 20 of the client's own */
                assert_near(megabytes(&load), 109, 3);
            } else {
                assert_near(megabytes(&load), 150, 2);
            }
        }
    }
}

static void test_sequential_write(void)
{
    static const int64_t lengths[] = { 64 * KIB, MIB, 5 * MIB };

    for (int i = 0; i < G_N_ELEMENTS(lengths); i++) {
        Load load = { DISK_WRITE, 4, lengths[i], GIB / lengths[i], in_order };
        int64_t start;

        setup_default();
        start = now;
        run_load(&load);
        run(DISK_FLUSH, 0, 0);
        assert_near((GIB + 4 * lengths[i]) * 1e3 / (now - start), 150, 3);
    }
}

/* A slow reader: the head stops when the segment is full, and starts again. */
static void test_slow_reader(void)
{
    setup_default();
    for (int64_t offset = 0; offset < 64 * MIB; offset += 64 * KIB) {
        int64_t took = run(DISK_READ, offset, 64 * KIB);

        if (offset) {
            g_assert_cmpint(took, <, MILLISECOND);
        }
        now += 2 * MILLISECOND;
    }
}

/*
 * On from the end of block 0 to block 3: 1.68 turns, of which the whole one is
 * along the spiral; the same back to block 2.
 */
static void test_out_of_order(void)
{
    Load load = { DISK_READ, 1, MIB, 400, swapped };
    double turns = 2.0 * MIB / parameters.mechanics.track;
    double forward = turns - floor(turns);
    double block = turns / 2;
    double pair;

    setup_default();
    pair = (forward + block + (1 - forward) + block) *
           parameters.mechanics.turn;
    assert_near(megabytes(&load), 2 * MIB * 1e3 / pair, 2);
    /* The drive puts in order what it has */
    load.depth = 8;
    setup_default();
    assert_near(megabytes(&load), 150, 3);
    /* Unless it may not */
    parameters.queue = 1;
    setup();
    g_assert_cmpfloat(megabytes(&load), <, 110);
}

static void test_two_streams(void)
{
    Load load = { DISK_READ, 2, 128 * KIB, 2000, two_streams };
    double with;
    double without;

    setup_default();
    with = megabytes(&load);
    parameters.read_ahead_min = 0;
    setup();
    without = megabytes(&load);
    /* Each command is a seek over half the disk, and half a turn */
    assert_near(without, 128 * KIB * 1e3 / (10.4e6 + 4.2e6 + 0.9e6),
                1.5);
    g_assert_cmpfloat(with, >, 2 * without);
    g_assert_cmpfloat(with, <, 50);
}

/* The queue */

static void test_queue(void)
{
    Load load = { DISK_READ, 32, 4 * KIB, 8000, at_random };
    double first_come;

    setup_default();
    parameters.queue = 1;
    setup();
    first_come = run_load(&load);
    assert_near(first_come, 81, 3);
    for (int queue = 4; queue <= 32; queue *= 2) {
        double next;

        parameters.queue = queue;
        setup();
        next = run_load(&load);
        g_assert_cmpfloat(next, >, 1.1 * first_come);
        first_come = next;
    }
    g_assert_cmpfloat(first_come, >, 150);
    g_assert_cmpfloat(first_come, <, 240);
}

/* Near commands keep coming, and the far one is served all the same. */
static void test_starvation(void)
{
    DiskRequest far;
    DiskRequest near[8];

    setup_default();
    for (int i = 0; i < G_N_ELEMENTS(near); i++) {
        submit(&near[i], DISK_READ, g_test_rand_int_range(0, 1000) * MIB,
               4 * KIB);
    }
    submit(&far, DISK_READ, 900 * GIB, 4 * KIB);
    while (far.done == DISK_UNKNOWN && now < 2 * parameters.max_wait) {
        DiskRequest *done = first_done(near, G_N_ELEMENTS(near));

        now = MIN(done->done, disk_model_next(disk));
        disk_model_advance(disk, now);
        if (now >= done->done) {
            submit(done, DISK_READ, g_test_rand_int_range(0, 1000) * MIB,
                   4 * KIB);
        }
    }
    g_assert_cmpint(far.done, >, parameters.max_wait);
    g_assert_cmpint(far.done, <, parameters.max_wait + 50 * MILLISECOND);
}

/* The write-back cache */

static void test_write_back(void)
{
    DiskRequest first;

    setup_default();
    submit(&first, DISK_WRITE, 100 * GIB, 4 * KIB);
    g_assert_cmpint(first.done, <, MILLISECOND);
    g_assert_cmpint(disk_model_dirty(disk), ==, 4 * KIB);
    /* Read from the cache meanwhile */
    g_assert_cmpint(run(DISK_READ, 100 * GIB, 4 * KIB), <, MILLISECOND);
    now += 50 * MILLISECOND;
    disk_model_advance(disk, now);
    g_assert_cmpint(disk_model_dirty(disk), ==, 0);
}

static void test_cache_full(void)
{
    setup_default();
    for (int64_t sent = 0; sent < 32; sent++) {
        g_assert_cmpint(run(DISK_WRITE, sent * MIB, MIB), <, 3 * MILLISECOND);
    }
    for (int64_t sent = 32; sent < 128; sent++) {
        run(DISK_WRITE, sent * MIB, MIB);
    }
    g_assert_cmpint(disk_model_dirty(disk), <=, parameters.write_cache);
    assert_near(96.0 * MIB * 1e3 / now, 150, 4);
}

static void test_flush(void)
{
    DiskRequest flush;
    DiskRequest after;

    setup_default();
    g_assert_cmpint(run(DISK_FLUSH, 0, 0), <, MILLISECOND);
    for (int64_t i = 0; i < 16; i++) {
        run(DISK_WRITE, i * MIB, MIB);
    }
    submit(&flush, DISK_FLUSH, 0, 0);
    submit(&after, DISK_WRITE, GIB, 4 * KIB);
    /* Nothing overtakes a flush */
    g_assert_cmpint(after.done, ==, DISK_UNKNOWN);
    finish(&flush);
    g_assert_cmpint(disk_model_dirty(disk), <=, 4 * KIB);
    assert_near(now, 16.0 * MIB * 1e3 / 150, 10e6);
    g_assert_cmpint(after.done, >=, flush.done);
}

static void test_fua(void)
{
    Load load = { DISK_WRITE, 1, 4 * KIB, 1000, in_order, .fua = true };

    setup_default();
    /* The next block has just gone by: a turn each, as without a cache */
    assert_near(run_load(&load), 120, 2);
    g_assert_cmpint(disk_model_dirty(disk), ==, 0);
    load.fua = false;
    parameters.write_cache = 0;
    setup();
    assert_near(run_load(&load), 120, 2);
}

/* Random writes are sorted, and slower than reads at equal depth are not. */
static void test_random_write(void)
{
    Load load = { DISK_WRITE, 1, 4 * KIB, 4000, at_random };

    setup_default();
    assert_near(run_load(&load), 190, 35);
}

/* Reads do not wait for all that was written before. */
static void test_read_among_writes(void)
{
    setup_default();
    for (int64_t i = 0; i < 24; i++) {
        run(DISK_WRITE, i * MIB, MIB);
    }
    g_assert_cmpint(run(DISK_READ, 500 * GIB, 4 * KIB), <, 50 * MILLISECOND);
    g_assert_cmpint(disk_model_dirty(disk), >, 16 * MIB);
}

/* Late, or often: whoever asks does not change what happens. */
static void test_virtual_time(void)
{
    DiskRequest often[16];
    DiskRequest late[16];

    setup_default();
    for (int i = 0; i < G_N_ELEMENTS(often); i++) {
        submit(&often[i], i % 3 ? DISK_READ : DISK_WRITE,
               g_test_rand_int_range(0, 900000) * MIB, 64 * KIB);
    }
    for (now = 0; now < SECOND; now += 77 * MICROSECOND) {
        disk_model_advance(disk, now);
    }
    setup();
    for (int i = 0; i < G_N_ELEMENTS(late); i++) {
        submit(&late[i], often[i].kind, often[i].offset, often[i].length);
    }
    disk_model_advance(disk, SECOND);
    for (int i = 0; i < G_N_ELEMENTS(late); i++) {
        g_assert_cmpint(late[i].done, !=, DISK_UNKNOWN);
        g_assert_cmpint(late[i].done, ==, often[i].done);
    }
}

/* Whatever comes, all of it is done, and in the end nothing is dirty. */
static void test_chaos(void)
{
    for (int round = 0; round < 50; round++) {
        DiskRequest requests[MAX_DEPTH] = {};

        setup_default();
        parameters.queue = g_test_rand_int_range(1, 40);
        parameters.write_cache = g_test_rand_int_range(0, 3) * MIB;
        parameters.segments = g_test_rand_int_range(1, 9);
        setup();
        for (int i = 0; i < 3000; i++) {
            DiskRequest *request = &requests[i % MAX_DEPTH];
            int dice = g_test_rand_int_range(0, 20);
            int64_t length = g_test_rand_int_range(1, 500) * 4 * KIB;

            if (i >= MAX_DEPTH) {
                finish(request);
            }
            submit(request, !dice ? DISK_FLUSH : dice % 2 ? DISK_READ :
                   DISK_WRITE, g_test_rand_int_range(0, 50) * MIB, length);
            g_assert_cmpint(request->done, >=, now);
            now += g_test_rand_int_range(0, 3000) * MICROSECOND;
            g_assert_cmpint(disk_model_dirty(disk), <=,
                            parameters.write_cache);
        }
        for (int i = 0; i < MAX_DEPTH; i++) {
            finish(&requests[i]);
        }
        run(DISK_FLUSH, 0, 0);
        g_assert_cmpint(disk_model_dirty(disk), ==, 0);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_set_nonfatal_assertions();
    disk_parameters_init(&parameters);
    g_test_add_func("/disk-model/seek", test_seek);
    g_test_add_func("/disk-model/rotation", test_rotation);
    g_test_add_func("/disk-model/random-read", test_random_read);
    g_test_add_func("/disk-model/read-hit", test_read_hit);
    g_test_add_func("/disk-model/segments", test_segments);
    g_test_add_func("/disk-model/sequential-read", test_sequential_read);
    g_test_add_func("/disk-model/sequential-write", test_sequential_write);
    g_test_add_func("/disk-model/slow-reader", test_slow_reader);
    g_test_add_func("/disk-model/out-of-order", test_out_of_order);
    g_test_add_func("/disk-model/two-streams", test_two_streams);
    g_test_add_func("/disk-model/queue", test_queue);
    g_test_add_func("/disk-model/starvation", test_starvation);
    g_test_add_func("/disk-model/write-back", test_write_back);
    g_test_add_func("/disk-model/cache-full", test_cache_full);
    g_test_add_func("/disk-model/flush", test_flush);
    g_test_add_func("/disk-model/fua", test_fua);
    g_test_add_func("/disk-model/random-write", test_random_write);
    g_test_add_func("/disk-model/read-among-writes", test_read_among_writes);
    g_test_add_func("/disk-model/virtual-time", test_virtual_time);
    g_test_add_func("/disk-model/chaos", test_chaos);
    return g_test_run();
}
