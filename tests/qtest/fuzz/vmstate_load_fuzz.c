/*
 * Fuzzing target: snapshots with damaged VM state
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * An input is the VM state of a snapshot in a qcow2 image, its length included.
 * It is put in the place of a real one and loaded by the job that QMP's
 * snapshot-load starts.  Whatever it is, the job must end, either well or with
 * an error of one line that says where loading ended.
 *
 * With VMSTATE_FUZZ_SEED=FILE the real state is written to that file, as the
 * input to begin with.
 */

#include "qemu/osdep.h"

#include "block/block_int.h"
#include "block/qcow2.h"
#include "exec/cpu-common.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-migration.h"
#include "qemu/job.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "tests/qtest/libqtest.h"
#include "fuzz.h"

#define JOB "fuzz"
#define TAG "s0"
#define NODE "disk"

/* One of them has room for the whole state, so that it lies in one piece */
#define CLUSTER (64 * KiB)

static int image_fd;
static off_t state_offset;      /* in the image file */
static BlockDriverState *image;

static GString *get_command_line(FuzzTarget *t)
{
    return g_string_new("qemu-fuzz -machine none -m 1 -display none "
                        "-nodefaults -monitor none -serial none");
}

static strList *node_list(void)
{
    strList *nodes = NULL;

    QAPI_LIST_PREPEND(nodes, g_strdup(NODE));
    return nodes;
}

static Job *get_job(void)
{
    JOB_LOCK_GUARD();
    return job_get_locked(JOB);
}

static bool job_has_ended(Job *job)
{
    JOB_LOCK_GUARD();
    return job->status == JOB_STATUS_CONCLUDED;
}

/* Returns the text of the job's error, or NULL */
static char *end_job(void)
{
    Job *job = get_job();
    char *text = NULL;

    while (!job_has_ended(job)) {
        main_loop_wait(false);
    }
    JOB_LOCK_GUARD();
    if (job->ret < 0) {
        g_assert_nonnull(job->err);
        text = g_strdup(error_get_pretty(job->err));
    }
    job_dismiss_locked(&job, &error_abort);
    return text;
}

static void open_image(const char *path)
{
    QDict *options = qdict_new();

    bdrv_img_create(path, "qcow2", NULL, NULL, (char *)"cluster_size=64k",
                    MiB, 0, true, &error_fatal);
    qdict_put_str(options, "driver", "qcow2");
    qdict_put_str(options, "node-name", NODE);
    /* It is not worth a flush */
    qdict_put_str(options, "cache.no-flush", "on");
    qdict_put_str(options, "file.driver", "file");
    qdict_put_str(options, "file.filename", path);
    qdict_put_str(options, "file.locking", "off");
    image = bdrv_open(NULL, NULL, options, BDRV_O_RDWR, &error_fatal);
}

/* Some pages that are not zero */
static void fill_ram(void)
{
    g_autofree uint8_t *page = g_malloc(4 * KiB);

    for (unsigned i = 0; i < 3; i++) {
        memset(page, 0x41 + i, 4 * KiB);
        cpu_physical_memory_write(i * 64 * KiB, page, 4 * KiB);
    }
}

/* State begins with a magic number, and at the beginning of a cluster */
static off_t find_state(void)
{
    char magic[4];
    off_t offset;

    for (offset = 0; pread(image_fd, magic, 4, offset) == 4;
         offset += CLUSTER) {
        if (!memcmp(magic, "QEVM", 4)) {
            return offset;
        }
    }
    g_assert_not_reached();
}

static QCowSnapshot *snapshot(void)
{
    BDRVQcow2State *s = image->opaque;

    g_assert_cmpuint(s->nb_snapshots, ==, 1);
    return &s->snapshots[0];
}

static void write_seed(const char *path)
{
    size_t size = snapshot()->vm_state_size;
    g_autofree char *state = g_malloc(size);

    g_assert_cmpint(pread(image_fd, state, size, state_offset), ==, size);
    g_assert(g_file_set_contents(path, state, size, NULL));
}

static void make_snapshot(QTestState *s)
{
    g_autofree char *path = NULL;
    g_autofree char *error = NULL;
    strList *nodes = node_list();

    image_fd = g_file_open_tmp("vmstate-fuzz-XXXXXX", &path, NULL);
    g_assert_cmpint(image_fd, >=, 0);
    open_image(path);
    unlink(path);
    fill_ram();
    qmp_snapshot_save(JOB, TAG, NODE, nodes, &error_fatal);
    error = end_job();
    g_assert_null(error);
    qapi_free_strList(nodes);

    state_offset = find_state();
    if (getenv("VMSTATE_FUZZ_SEED")) {
        write_seed(getenv("VMSTATE_FUZZ_SEED"));
    }
}

static void put_state(const unsigned char *data, size_t size)
{
    g_assert_cmpint(pwrite(image_fd, data, size, state_offset), ==, size);
    snapshot()->vm_state_size = size;
}

/* Of what is seen before the disk is reverted, where only the state can fail */
static bool is_early_error(const char *text)
{
    static const char *const beginnings[] = {
        "VM state of snapshot '" TAG "' in node '" NODE "' is damaged: ",
        "VM state of snapshot '" TAG "' in node '" NODE "' has version ",
        "Snapshot '" TAG "' in node '" NODE "' is of a machine of type '",
        "'" TAG "' is a disk-only snapshot: ",
    };

    for (size_t i = 0; i < ARRAY_SIZE(beginnings); i++) {
        if (g_str_has_prefix(text, beginnings[i])) {
            return true;
        }
    }
    return false;
}

static void check_error(const char *text)
{
    for (const char *p = text; *p; p++) {
        g_assert_true(g_ascii_isprint(*p));
    }
    g_assert_nonnull(strstr(text, TAG));
    if (strstr(text, "while loading VM state")) {
        g_assert_nonnull(strstr(text, "section '"));
        g_assert_nonnull(strstr(text, "offset "));
    } else {
        g_assert_true(is_early_error(text));
    }
}

static void load(QTestState *s, const unsigned char *data, size_t size)
{
    strList *nodes = node_list();
    g_autofree char *error = NULL;

    put_state(data, MIN(size, CLUSTER));
    qmp_snapshot_load(JOB, TAG, NODE, nodes, &error_fatal);
    error = end_job();
    if (error) {
        check_error(error);
    }
    qapi_free_strList(nodes);
}

static void register_vmstate_load(void)
{
    fuzz_add_target(&(FuzzTarget) {
        .name = "vmstate-load",
        .description = "Load a snapshot whose VM state is damaged",
        .get_init_cmdline = get_command_line,
        .pre_fuzz = make_snapshot,
        .fuzz = load,
    });
}

fuzz_target_init(register_vmstate_load);
