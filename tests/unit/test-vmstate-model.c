/*
 * VM state streams against their model, with random sequences of operations
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * VMSTATE_TEST_SEED chooses others; with QFS_SOAK=1 there are many more.  What
 * fails says which sequence it was.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "vmstate-model.h"

#ifdef CONFIG_TSAN
/* Which takes a limited number of coroutines */
#define SEQUENCES 6
#else
#define SEQUENCES 24
#endif
#define SOAK_FACTOR 50
#define MIN_BYTES 16
#define MAX_BYTES 400

/* Of one sequence, which takes some milliseconds */
#define TIME_LIMIT 60

/* What runs now: for a signal handler, so ready to be written */
static char current[160];

static void say_current(int signal_number)
{
    ssize_t written = write(STDERR_FILENO, current, strlen(current));

    /* There is nothing else that could be done */
    (void)written;
    if (signal_number == SIGALRM) {
        abort();
    }
}

static unsigned nb_sequences(void)
{
    bool soak = !g_strcmp0(g_getenv("QFS_SOAK"), "1");

    return SEQUENCES * (soak ? SOAK_FACTOR : 1);
}

static void run_sequence(VmstateTest *t, VmstateModelFunc *run, uint32_t seed)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    int32_t size = g_rand_int_range(rand, MIN_BYTES, MAX_BYTES);
    g_autofree uint8_t *data = g_malloc(size);

    for (int32_t i = 0; i < size; i++) {
        data[i] = g_rand_int(rand) >> 24;
    }
    alarm(TIME_LIMIT);
    run(t, data, size);
    alarm(0);
}

static void run_sequences(VmstateTest *t, VmstateModelFunc *run)
{
    unsigned count = nb_sequences();

    g_test_message("%u sequences", count);
    for (unsigned i = 0; i < count; i++) {
        snprintf(current, sizeof(current), "# failed, or took more than %d "
                 "seconds: sequence %u with VMSTATE_TEST_SEED=%" PRIu32 "\n",
                 TIME_LIMIT, i, vmstate_test_seed());
        run_sequence(t, run, vmstate_test_seed() * 1000003 + i);
    }
}

static void test_writer(VmstateTest *t)
{
    run_sequences(t, vmstate_model_write);
}

static void test_reader(VmstateTest *t)
{
    run_sequences(t, vmstate_model_read);
}

static void test_put(VmstateTest *t)
{
    run_sequences(t, vmstate_model_put);
}

static void test_get(VmstateTest *t)
{
    run_sequences(t, vmstate_model_get);
}

int main(int argc, char **argv)
{
    const struct sigaction action = { .sa_handler = say_current };
    static const VmstateTestEntry writer[] = {
        { "sequences", test_writer },
        { }
    };
    static const VmstateTestEntry reader[] = {
        { "sequences", test_reader },
        { }
    };
    static const VmstateTestEntry file[] = {
        { "put", test_put },
        { "get", test_get },
        { }
    };

    bdrv_init();
    qemu_init_main_loop(&error_abort);
    module_call_init(MODULE_INIT_QOM);

    g_test_init(&argc, &argv, NULL);
    g_test_message("VMSTATE_TEST_SEED=%" PRIu32, vmstate_test_seed());
    sigaction(SIGALRM, &action, NULL);
    sigaction(SIGABRT, &action, NULL);

    vmstate_test_add("/vmstate-model/writer", writer);
    vmstate_test_add_reader("/vmstate-model/reader", reader);
    vmstate_test_add("/vmstate-model/file", file);

    return g_test_run();
}
