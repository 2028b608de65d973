/*
 * Internal VM snapshots: the QMP jobs snapshot-save, -load and -delete
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Most cases need no guest: the test writes guest RAM itself, and the VM that
 * does not execute anything has a run state all the same.  Those in
 * /snapshot/guest run one that counts.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/units.h"
#include "libqtest.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "qobject/qnum.h"
#include "qobject/qstring.h"

/* What a case may wait for at most, on a machine that is busy */
#define PATIENCE_MS     (60 * 1000)

#define DISK_MIB        8
#define RAM_MIB         32
#define PAGE_SIZE       4096

/* RAM that nobody but the test writes to, as long as nothing is executed */
#define RAM_START       (1 * MiB)
#define RAM_SIZE        (RAM_MIB * MiB - RAM_START)

/* Where RAM that is plugged begins: there is none between it and 4 GiB */
#define DIMM_START      (4 * GiB)
#define DIMM_SIZE       (16 * MiB)

#define LIFE_DONE       "created running waiting pending concluded null"
#define LIFE_STOPPING   "created running STOP RESUME waiting pending " \
                        "concluded null"
#define LIFE_FAILED     "created running aborting concluded null"
#define LIFE_BROKEN     "created running STOP aborting concluded null"

typedef struct TestVm {
    QTestState *qts;
    GString *events;        /* since the last job was started */
    int serial;             /* of the guest that counts, or -1 */
    uint32_t count;         /* the last number it has printed */
} TestVm;

typedef struct TestJob {
    const char *command;    /* what follows "snapshot-" */
    const char *tag;
    const char *vmstate;    /* NULL if the command has none */
    const char *devices;    /* separated by commas */
} TestJob;

static char *tmpdir;

/* --- Images -------------------------------------------------------------- */

static char *tmpfile_path(const char *name)
{
    return g_build_filename(tmpdir, name, NULL);
}

/* Runs a program that may not fail */
static void run_program(const char *const *argv)
{
    g_autofree char *output = NULL;
    g_autofree char *errors = NULL;
    g_autoptr(GError) err = NULL;
    int status;

    g_spawn_sync(NULL, (char **)argv, NULL, 0, NULL, NULL, &output, &errors,
                 &status, &err);
    g_assert_no_error(err);
    if (!g_spawn_check_exit_status(status, &err)) {
        g_test_message("%s %s: %s%s", argv[0], argv[1], output, errors);
    }
    g_assert_no_error(err);
}

static void create_disk(const char *name)
{
    g_autofree char *path = tmpfile_path(name);

    g_assert_true(mkimg(path, "qcow2", DISK_MIB));
}

static void create_raw_disk(const char *name)
{
    g_autofree char *path = tmpfile_path(name);

    g_assert_true(mkimg(path, "raw", DISK_MIB));
}

static void remove_file(const char *name)
{
    g_autofree char *path = tmpfile_path(name);

    unlink(path);
}

static char *disk_args(const char *name, const char *driver,
                       const char *options)
{
    return g_strdup_printf(" -blockdev driver=%s,node-name=%s,file.driver=file,"
                           "file.filename=%s/%s%s", driver, name, tmpdir, name,
                           options);
}

/* Names of new images, and the arguments for QEMU to use them */
static char *create_disks(int count)
{
    GString *args = g_string_new("");

    for (int i = 0; i < count; i++) {
        g_autofree char *name = g_strdup_printf("disk%d", i);
        g_autofree char *one = disk_args(name, "qcow2", "");

        create_disk(name);
        g_string_append(args, one);
    }
    return g_string_free(args, false);
}

/* With no VM running: is all of the disk's first MiB @byte, is nothing lost? */
static void check_disk(const char *name, uint8_t byte)
{
    g_autofree char *path = tmpfile_path(name);
    g_autofree char *raw = tmpfile_path("raw-copy");
    g_autofree char *data = NULL;
    const char *img = getenv("QTEST_QEMU_IMG");
    const char *check[] = { img, "check", "-q", "-f", "qcow2", path, NULL };
    const char *copy[] = { img, "convert", "-f", "qcow2", "-O", "raw", path,
                           raw, NULL };
    gsize size;

    run_program(check);
    run_program(copy);
    g_assert_true(g_file_get_contents(raw, &data, &size, NULL));
    g_assert_cmpuint(size, ==, DISK_MIB * MiB);
    for (size_t i = 0; i < 1 * MiB; i++) {
        g_assert_cmphex((uint8_t)data[i], ==, byte);
    }
    unlink(raw);
}

/* --- Virtual machines ---------------------------------------------------- */

static bool vm_note_event(QTestState *qts, const char *name, QDict *event,
                          void *opaque)
{
    TestVm *vm = opaque;

    if (g_str_equal(name, "JOB_STATUS_CHANGE")) {
        name = qdict_get_str(qdict_get_qdict(event, "data"), "status");
    } else if (!g_str_equal(name, "STOP") && !g_str_equal(name, "RESUME")) {
        return true;
    }
    g_string_append_printf(vm->events, "%s%s", vm->events->len ? " " : "",
                           name);
    return true;
}

static TestVm *vm_from(QTestState *qts)
{
    TestVm *vm = g_new0(TestVm, 1);

    vm->qts = qts;
    vm->events = g_string_new("");
    vm->serial = -1;
    qtest_qmp_set_event_callback(qts, vm_note_event, vm);
    return vm;
}

static TestVm *vm_new(const char *disks, const char *options)
{
    return vm_from(qtest_initf("-machine pc -nodefaults -m %d%s %s", RAM_MIB,
                               disks, options));
}

static void vm_quit(TestVm *vm)
{
    qtest_quit(vm->qts);
    if (vm->serial >= 0) {
        close(vm->serial);
    }
    g_string_free(vm->events, true);
    g_free(vm);
}

static void check_status(TestVm *vm, const char *status)
{
    g_autoptr(QDict) ret = qtest_qmp_assert_success_ref(
        vm->qts, "{'execute': 'query-status'}");

    g_assert_cmpstr(qdict_get_str(ret, "status"), ==, status);
}

static void vm_execute(TestVm *vm, const char *command)
{
    qtest_qmp_assert_success(vm->qts, "{'execute': %s}", command);
}

static void write_disk(TestVm *vm, const char *node, uint8_t byte)
{
    g_autofree char *out = qtest_hmp(vm->qts,
                                     "qemu-io %s \"write -q -P %d 0 1M\"",
                                     node, byte);

    g_assert_cmpstr(out, ==, "");
}

/* Snapshots of @node, as query-named-block-nodes tells */
static QList *get_snapshots(TestVm *vm, const char *node)
{
    QDict *rsp = qtest_qmp(vm->qts, "{'execute': 'query-named-block-nodes'}");
    QList *snapshots = NULL;
    QListEntry *e;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(rsp, "return"), e) {
        QDict *info = qobject_to(QDict, qlist_entry_obj(e));

        if (g_str_equal(qdict_get_str(info, "node-name"), node)) {
            snapshots = qdict_get_qlist(qdict_get_qdict(info, "image"),
                                        "snapshots");
            break;
        }
    }
    snapshots = snapshots ? qobject_ref(snapshots) : qlist_new();
    qobject_unref(rsp);
    return snapshots;
}

/*
 * Names of the snapshots of @node, in brackets and in the order in which they
 * were made.  Those that keep a VM state have a star.
 */
static void check_snapshots(TestVm *vm, const char *node, const char *wanted)
{
    g_autoptr(GString) names = g_string_new("");
    g_autoptr(QList) snapshots = get_snapshots(vm, node);
    QListEntry *e;

    QLIST_FOREACH_ENTRY(snapshots, e) {
        QDict *info = qobject_to(QDict, qlist_entry_obj(e));

        g_string_append_printf(names, "[%s]%s", qdict_get_str(info, "name"),
                               qdict_get_int(info, "vm-state-size") ? "*" : "");
    }
    g_assert_cmpstr(names->str, ==, wanted);
}

/* What the only snapshot called @tag has as @field */
static QObject *get_snapshot_field(TestVm *vm, const char *node,
                                   const char *tag, const char *field)
{
    g_autoptr(QList) snapshots = get_snapshots(vm, node);
    QObject *value = NULL;
    QListEntry *e;

    QLIST_FOREACH_ENTRY(snapshots, e) {
        QDict *info = qobject_to(QDict, qlist_entry_obj(e));

        if (g_str_equal(qdict_get_str(info, "name"), tag)) {
            g_assert_null(value);
            value = qobject_ref(qdict_get(info, field));
        }
    }
    g_assert_nonnull(value);
    return value;
}

static int64_t get_state_size(TestVm *vm, const char *node, const char *tag)
{
    QObject *value = get_snapshot_field(vm, node, tag, "vm-state-size");
    int64_t size = qnum_get_int(qobject_to(QNum, value));

    qobject_unref(value);
    return size;
}

static void check_snapshot_id(TestVm *vm, const char *node, const char *tag,
                              const char *id)
{
    QObject *value = get_snapshot_field(vm, node, tag, "id");

    g_assert_cmpstr(qstring_get_str(qobject_to(QString, value)), ==, id);
    qobject_unref(value);
}

/* --- Guest RAM ----------------------------------------------------------- */

typedef struct TestRam {
    uint64_t start;
    uint64_t size;
    uint8_t *data;          /* what should be there */
} TestRam;

static TestRam *ram_new(uint64_t start, uint64_t size)
{
    TestRam *ram = g_new0(TestRam, 1);

    ram->start = start;
    ram->size = size;
    ram->data = g_malloc0(size);
    return ram;
}

static void ram_free(TestRam *ram)
{
    g_free(ram->data);
    g_free(ram);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(TestRam, ram_free)

/* Data without repetition, so that no page can be taken for another one */
static void ram_put(TestRam *ram, uint64_t offset, uint64_t size, uint32_t seed)
{
    g_assert_cmpuint(offset + size, <=, ram->size);
    for (uint64_t i = 0; i < size; i += 4) {
        seed = seed * 1664525 + 1013904223;
        stl_le_p(ram->data + offset + i, seed ^ i);
    }
}

/* Make the VM's memory what @ram says of this range */
static void ram_write(TestVm *vm, TestRam *ram, uint64_t offset, uint64_t size)
{
    qtest_bufwrite(vm->qts, ram->start + offset, ram->data + offset, size);
}

static void ram_spoil(TestVm *vm, TestRam *ram)
{
    qtest_memset(vm->qts, ram->start, 0xa5, ram->size);
}

static char *vm_dump(TestVm *vm, uint64_t start, uint64_t size)
{
    g_autofree char *path = tmpfile_path("ram");
    char *data;
    gsize bytes;

    qtest_qmp_assert_success(vm->qts,
                             "{'execute': 'pmemsave', 'arguments': {"
                             "'val': %" PRIu64 ", 'size': %" PRIu64 ", "
                             "'filename': %s}}", start, size, path);
    g_assert_true(g_file_get_contents(path, &data, &bytes, NULL));
    g_assert_cmpuint(bytes, ==, size);
    unlink(path);
    return data;
}

static bool ram_is_as_wanted(TestVm *vm, TestRam *ram)
{
    g_autofree char *data = vm_dump(vm, ram->start, ram->size);

    return !memcmp(data, ram->data, ram->size);
}

/* --- Jobs ---------------------------------------------------------------- */

static void job_start(TestVm *vm, const char *id, const TestJob *job)
{
    g_autofree char *command = g_strconcat("snapshot-", job->command, NULL);
    g_auto(GStrv) nodes = g_strsplit(job->devices, ",", 0);
    QDict *args = qdict_new();
    QList *devices = qlist_new();

    for (char **node = nodes; *node; node++) {
        qlist_append_str(devices, *node);
    }
    qdict_put_str(args, "job-id", id);
    qdict_put_str(args, "tag", job->tag);
    qdict_put(args, "devices", devices);
    if (job->vmstate) {
        qdict_put_str(args, "vmstate", job->vmstate);
    }
    g_string_truncate(vm->events, 0);
    qtest_qmp_assert_success(vm->qts, "{'execute': %s, 'arguments': %p}",
                             command, args);
}

static void job_wait(TestVm *vm)
{
    while (!g_str_has_suffix(vm->events->str, "concluded")) {
        QDict *event = qtest_qmp_receive_dict(vm->qts);

        vm_note_event(vm->qts, qdict_get_str(event, "event"), event, vm);
        qobject_unref(event);
    }
}

/* What query-jobs tells of job @id */
static QDict *job_query(TestVm *vm, const char *id)
{
    QDict *rsp = qtest_qmp(vm->qts, "{'execute': 'query-jobs'}");
    QDict *found = NULL;
    QListEntry *e;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(rsp, "return"), e) {
        QDict *info = qobject_to(QDict, qlist_entry_obj(e));

        if (g_str_equal(qdict_get_str(info, "id"), id)) {
            found = qobject_ref(info);
        }
    }
    qobject_unref(rsp);
    return found;
}

static void job_dismiss(TestVm *vm, const char *id)
{
    qtest_qmp_assert_success(vm->qts, "{'execute': 'job-dismiss', "
                             "'arguments': {'id': %s}}", id);
}

/* Check what is left of a job that has ended; return its error or NULL */
static char *job_conclude(TestVm *vm, const char *id, const TestJob *job)
{
    g_autofree char *type = g_strconcat("snapshot-", job->command, NULL);
    g_autoptr(QDict) info = job_query(vm, id);
    char *error = g_strdup(qdict_get_try_str(info, "error"));

    g_assert_cmpstr(qdict_get_str(info, "type"), ==, type);
    g_assert_cmpstr(qdict_get_str(info, "status"), ==, "concluded");
    if (!error) {
        g_assert_cmpint(qdict_get_int(info, "total-progress"), >, 0);
        g_assert_cmpint(qdict_get_int(info, "current-progress"), ==,
                        qdict_get_int(info, "total-progress"));
    }
    job_dismiss(vm, id);
    return error;
}

static char *job_run(TestVm *vm, const TestJob *job)
{
    job_start(vm, "job0", job);
    job_wait(vm);
    return job_conclude(vm, "job0", job);
}

static void job_succeed(TestVm *vm, const TestJob *job, const char *life)
{
    g_autofree char *error = job_run(vm, job);

    g_assert_cmpstr(error, ==, NULL);
    g_assert_cmpstr(vm->events->str, ==, life);
}

static void save_on(TestVm *vm, const char *tag, const char *vmstate,
                    const char *devices)
{
    TestJob job = { "save", tag, vmstate, devices };

    job_succeed(vm, &job, LIFE_STOPPING);
}

static void load_from(TestVm *vm, const char *tag, const char *vmstate,
                      const char *devices)
{
    TestJob job = { "load", tag, vmstate, devices };

    job_succeed(vm, &job, LIFE_STOPPING);
}

static void delete_on(TestVm *vm, const char *tag, const char *devices)
{
    TestJob job = { "delete", tag, NULL, devices };

    job_succeed(vm, &job, LIFE_DONE);
}

/* The same for a VM that runs and has one disk */

static void save(TestVm *vm, const char *tag)
{
    save_on(vm, tag, "disk0", "disk0");
}

static void load(TestVm *vm, const char *tag)
{
    load_from(vm, tag, "disk0", "disk0");
}

/* And for one that does not run and must not be seen to */

static void save_idle(TestVm *vm, const char *tag)
{
    TestJob job = { "save", tag, "disk0", "disk0" };

    job_succeed(vm, &job, LIFE_DONE);
}

static void load_idle(TestVm *vm, const char *tag)
{
    TestJob job = { "load", tag, "disk0", "disk0" };

    job_succeed(vm, &job, LIFE_DONE);
}

/* Commands that are refused at once, not as a job that fails */

static void check_refusal(QDict *error, const char *part)
{
    const char *desc = qdict_get_str(error, "desc");

    if (!strstr(desc, part)) {
        g_assert_cmpstr(desc, ==, part);
    }
    qobject_unref(error);
}

static void check_refused_save(TestVm *vm, const char *id, const char *part)
{
    check_refusal(qtest_qmp_assert_failure_ref(
        vm->qts, "{'execute': 'snapshot-save', 'arguments': {'job-id': %s, "
        "'tag': 'two', 'vmstate': 'disk0', 'devices': ['disk0']}}", id), part);
}

static void check_refused_verb(TestVm *vm, const char *command, const char *id,
                               const char *part)
{
    check_refusal(qtest_qmp_assert_failure_ref(
        vm->qts, "{'execute': %s, 'arguments': {'id': %s}}", command, id),
        part);
}

/* --- Cases: jobs --------------------------------------------------------- */

static void test_job_life(void)
{
    g_autofree char *disks = create_disks(1);
    TestVm *vm = vm_new(disks, "");

    save(vm, "one");
    check_status(vm, "running");
    check_snapshots(vm, "disk0", "[one]*");

    load(vm, "one");
    check_status(vm, "running");
    check_snapshots(vm, "disk0", "[one]*");

    delete_on(vm, "one", "disk0");
    check_status(vm, "running");
    check_snapshots(vm, "disk0", "");
    vm_quit(vm);
    check_disk("disk0", 0);
}

static void test_job_ids(void)
{
    TestJob one = { "save", "one", "disk0", "disk0" };
    TestJob two = { "save", "two", "disk0", "disk0" };
    g_autofree char *disks = create_disks(1);
    TestVm *vm = vm_new(disks, "");

    check_refused_save(vm, "one job", "Invalid job ID 'one job'");
    check_refused_save(vm, "", "Invalid job ID ''");
    check_refused_verb(vm, "job-dismiss", "job0", "Job not found");

    /* It has the ID until it is dismissed, whatever became of it */
    job_start(vm, "job0", &one);
    job_wait(vm);
    check_refused_save(vm, "job0", "'job0' already in use");
    check_refused_verb(vm, "job-cancel", "job0", "'concluded'");
    check_snapshots(vm, "disk0", "[one]*");

    /* But does not keep others from running */
    job_start(vm, "job1", &two);
    job_wait(vm);
    g_assert_null(job_conclude(vm, "job0", &one));
    g_assert_null(job_conclude(vm, "job1", &two));
    check_refused_verb(vm, "job-dismiss", "job0", "Job not found");
    check_snapshots(vm, "disk0", "[one]*[two]*");

    load(vm, "one");
    vm_quit(vm);
}

/* --- Cases: errors ------------------------------------------------------- */

typedef struct ErrorTest {
    TestJob job;
    const char *error;      /* all of it */
    const char *part;       /* of an error that other code words */
} ErrorTest;

#define NO_SUPPORT      "does not support snapshots"

static const ErrorTest save_errors[] = {
    {
        .job = { "save", "one", "disk0", "disk0" },
        .error = "Snapshot 'one' already exists in one or more devices",
    }, {
        /* The other disk does not have it */
        .job = { "save", "one", "disk1", "disk0,disk1" },
        .error = "Snapshot 'one' already exists in one or more devices",
    }, {
        .job = { "save", "one", "disk1", "disk1,disk0" },
        .error = "Snapshot 'one' already exists in one or more devices",
    }, {
        .job = { "save", "two", "disk1", "disk0" },
        .part = "vmstate block device 'disk1' does not exist",
    }, {
        .job = { "save", "two", "nosuch", "disk0" },
        .part = "vmstate block device 'nosuch' does not exist",
    }, {
        .job = { "save", "two", "disk0", "disk0,nosuch" },
        .part = "'nosuch'",
    }, {
        .job = { "save", "two", "disk0", "" },
        .part = "At least one device",
    }, {
        .job = { "save", "two", "disk0", "disk0,raw" },
        .part = "'raw' is writable but " NO_SUPPORT,
    }, {
        .job = { "save", "two", "raw", "raw" },
        .part = NO_SUPPORT,
    }, {
        .job = { "save", "two", "disk0", "disk0,readonly" },
        .part = NO_SUPPORT,
    }, {
        .job = { "save", "two", "readonly", "disk0,readonly" },
        .part = NO_SUPPORT,
    }
};

static const ErrorTest load_errors[] = {
    {
        .job = { "load", "nosuch", "disk0", "disk0" },
        .error = "Snapshot 'nosuch' does not exist in one or more devices",
    }, {
        .job = { "load", "one", "disk0", "disk0,disk1" },
        .error = "Snapshot 'one' does not exist in one or more devices",
    }, {
        .job = { "load", "both", "disk1", "disk0,disk1" },
        .error = "'both' is a disk-only snapshot: qemu-img can revert to it "
                 "while the VM is off",
    }, {
        .job = { "load", "one", "disk1", "disk0" },
        .part = "vmstate block device 'disk1' does not exist",
    }, {
        .job = { "load", "one", "disk0", "disk0,nosuch" },
        .part = "'nosuch'",
    }, {
        .job = { "load", "one", "disk0", "" },
        .part = "At least one device",
    }, {
        .job = { "load", "one", "disk0", "disk0,raw" },
        .part = NO_SUPPORT,
    }, {
        .job = { "load", "one", "disk0", "disk0,readonly" },
        .part = NO_SUPPORT,
    }
};

static const ErrorTest delete_errors[] = {
    {
        .job = { "delete", "one", NULL, "disk0,nosuch" },
        .part = "'nosuch'",
    }, {
        .job = { "delete", "one", NULL, "" },
        .part = "At least one device",
    }, {
        .job = { "delete", "one", NULL, "disk0,raw" },
        .part = NO_SUPPORT,
    }, {
        .job = { "delete", "one", NULL, "disk0,readonly" },
        .part = NO_SUPPORT,
    }
};

static void check_error(TestVm *vm, const ErrorTest *test)
{
    g_autofree char *error = job_run(vm, &test->job);

    g_test_message("snapshot-%s: %s", test->job.command, error);
    g_assert_nonnull(error);
    if (test->error || !strstr(error, test->part)) {
        g_assert_cmpstr(error, ==, test->error ?: test->part);
    }

    /* Seen before anything was done: nobody can tell that it was tried */
    g_assert_cmpstr(vm->events->str, ==, LIFE_FAILED);
    check_status(vm, "running");
    check_snapshots(vm, "disk0", "[one]*[both]*");
    check_snapshots(vm, "disk1", "[both]");
}

static TestVm *vm_new_for_errors(void)
{
    g_autofree char *disks = create_disks(2);
    g_autofree char *raw = disk_args("raw", "raw", "");
    g_autofree char *ro = disk_args("readonly", "qcow2", ",read-only=on");
    g_autofree char *args = g_strconcat(disks, raw, ro, NULL);
    TestVm *vm;

    create_raw_disk("raw");
    create_disk("readonly");
    vm = vm_new(args, "");
    save(vm, "one");
    save_on(vm, "both", "disk0", "disk0,disk1");
    return vm;
}

static void run_error_tests(const ErrorTest *tests, size_t count)
{
    g_autoptr(TestRam) ram = ram_new(RAM_START, RAM_SIZE);
    TestVm *vm = vm_new_for_errors();

    ram_put(ram, 0, 4 * PAGE_SIZE, 1);
    ram_write(vm, ram, 0, 4 * PAGE_SIZE);
    for (size_t i = 0; i < count; i++) {
        check_error(vm, &tests[i]);
    }
    g_assert_true(ram_is_as_wanted(vm, ram));

    /* What was refused leaves nothing that is in the way of others */
    save_on(vm, "two", "disk1", "disk0,disk1");
    load_from(vm, "two", "disk1", "disk0,disk1");
    delete_on(vm, "two", "disk0,disk1");
    vm_quit(vm);
    check_disk("disk0", 0);
    check_disk("disk1", 0);
}

static void test_error_save(void)
{
    run_error_tests(save_errors, ARRAY_SIZE(save_errors));
}

static void test_error_load(void)
{
    run_error_tests(load_errors, ARRAY_SIZE(load_errors));
}

static void test_error_delete(void)
{
    run_error_tests(delete_errors, ARRAY_SIZE(delete_errors));
}

/* --- Cases: disks -------------------------------------------------------- */

static void write_disks(TestVm *vm, int count, uint8_t first)
{
    for (int i = 0; i < count; i++) {
        g_autofree char *node = g_strdup_printf("disk%d", i);

        write_disk(vm, node, first + i);
    }
}

/* The state is where it is wanted, whatever the order of the disks */
static void test_disks_three(void)
{
    g_autofree char *disks = create_disks(3);
    g_autoptr(TestRam) ram = ram_new(RAM_START, RAM_SIZE);
    TestVm *vm = vm_new(disks, "");

    ram_put(ram, 0, 1 * MiB, 1);
    ram_write(vm, ram, 0, 1 * MiB);
    write_disks(vm, 3, 0x11);
    save_on(vm, "one", "disk1", "disk0,disk1,disk2");
    check_snapshots(vm, "disk0", "[one]");
    check_snapshots(vm, "disk1", "[one]*");
    check_snapshots(vm, "disk2", "[one]");

    write_disks(vm, 3, 0x21);
    ram_spoil(vm, ram);
    save_on(vm, "two", "disk2", "disk2,disk1,disk0");
    check_snapshots(vm, "disk0", "[one][two]");
    check_snapshots(vm, "disk1", "[one]*[two]");
    check_snapshots(vm, "disk2", "[one][two]*");

    write_disks(vm, 3, 0x31);
    load_from(vm, "one", "disk1", "disk2,disk0,disk1");
    g_assert_true(ram_is_as_wanted(vm, ram));
    delete_on(vm, "two", "disk0,disk1,disk2");
    check_snapshots(vm, "disk1", "[one]*");
    check_snapshots(vm, "disk2", "[one]");
    vm_quit(vm);
    check_disk("disk0", 0x11);
    check_disk("disk1", 0x12);
    check_disk("disk2", 0x13);
}

/* Disks that are not named go on as they are */
static void test_disks_some(void)
{
    TestJob all = { "load", "one", "disk0", "disk0,disk1" };
    g_autofree char *disks = create_disks(3);
    g_autofree char *error = NULL;
    TestVm *vm = vm_new(disks, "");

    write_disks(vm, 3, 0x11);
    save_on(vm, "one", "disk0", "disk0,disk2");
    write_disks(vm, 3, 0x21);
    check_snapshots(vm, "disk1", "");

    load_from(vm, "one", "disk0", "disk0");
    delete_on(vm, "one", "disk2");
    check_snapshots(vm, "disk0", "[one]*");
    check_snapshots(vm, "disk2", "");
    error = job_run(vm, &all);
    g_assert_cmpstr(error, ==,
                    "Snapshot 'one' does not exist in one or more devices");
    vm_quit(vm);
    check_disk("disk0", 0x11);
    check_disk("disk1", 0x22);
    check_disk("disk2", 0x23);
}

/* To delete what is not there is no error: afterwards it is not there */
static void test_disks_delete_missing(void)
{
    g_autofree char *disks = create_disks(2);
    TestVm *vm = vm_new(disks, "");

    save(vm, "one");
    delete_on(vm, "nosuch", "disk0,disk1");
    check_snapshots(vm, "disk0", "[one]*");
    delete_on(vm, "one", "disk1,disk0");
    check_snapshots(vm, "disk0", "");
    vm_quit(vm);
}

/* --- Cases: names -------------------------------------------------------- */

static uint32_t name_seed(const char *tag)
{
    return g_str_hash(tag) | 1;
}

static void save_with_name(TestVm *vm, TestRam *ram, const char *tag)
{
    ram_put(ram, 0, PAGE_SIZE, name_seed(tag));
    ram_write(vm, ram, 0, PAGE_SIZE);
    save(vm, tag);
}

static void load_by_name(TestVm *vm, TestRam *ram, const char *tag)
{
    ram_put(ram, 0, PAGE_SIZE, name_seed(tag));
    load(vm, tag);
    g_assert_true(ram_is_as_wanted(vm, ram));
}

/* Every name is its own, also where it looks like part of another one */
static void run_name_tests(const char *const *tags, size_t count)
{
    g_autofree char *disks = create_disks(1);
    g_autoptr(TestRam) ram = ram_new(RAM_START, RAM_SIZE);
    TestVm *vm = vm_new(disks, "");

    for (size_t i = 0; i < count; i++) {
        save_with_name(vm, ram, tags[i]);
    }
    for (size_t i = 0; i < count; i++) {
        g_assert_cmpint(get_state_size(vm, "disk0", tags[i]), >, 0);
        load_by_name(vm, ram, tags[i]);
    }
    for (size_t i = 0; i < count; i++) {
        delete_on(vm, tags[i], "disk0");
    }
    check_snapshots(vm, "disk0", "");
    vm_quit(vm);
    check_disk("disk0", 0);
}

static void test_name_odd(void)
{
    static const char *const tags[] = {
        "one", "", " ", "one ", "before the upgrade", "it's \"quoted\"",
        "back\\slash", "100 %s", "-a", "schn\xc3\xa4pp\xc3\xa4",
    };

    run_name_tests(tags, ARRAY_SIZE(tags));
}

/* The longest that QEMU keeps, and one that is a byte shorter */
static void test_name_long(void)
{
    g_autofree char *longest = g_strnfill(255, 'x');
    g_autofree char *shorter = g_strnfill(254, 'x');
    const char *tags[] = { longest, shorter };

    run_name_tests(tags, ARRAY_SIZE(tags));
}

/* IDs are numbers, too, but a tag is a name */
static void test_name_like_id(void)
{
    g_autofree char *disks = create_disks(1);
    g_autoptr(TestRam) ram = ram_new(RAM_START, RAM_SIZE);
    TestVm *vm = vm_new(disks, "");

    save_with_name(vm, ram, "3");
    save_with_name(vm, ram, "1");
    save_with_name(vm, ram, "7");
    check_snapshot_id(vm, "disk0", "3", "1");
    check_snapshot_id(vm, "disk0", "1", "2");
    check_snapshot_id(vm, "disk0", "7", "3");
    load_by_name(vm, ram, "7");
    load_by_name(vm, ram, "1");
    load_by_name(vm, ram, "3");
    delete_on(vm, "1", "disk0");
    check_snapshots(vm, "disk0", "[3]*[7]*");
    delete_on(vm, "2", "disk0");
    check_snapshots(vm, "disk0", "[3]*[7]*");
    load_by_name(vm, ram, "3");
    vm_quit(vm);
}

/* --- Cases: RAM ---------------------------------------------------------- */

/* Zeroes that are saved have to be there after a revert, not what was before */
static void test_ram_zero(void)
{
    g_autofree char *disks = create_disks(1);
    g_autoptr(TestRam) ram = ram_new(RAM_START, RAM_SIZE);
    TestVm *vm = vm_new(disks, "");

    g_assert_true(ram_is_as_wanted(vm, ram));
    save(vm, "zero");
    g_assert_cmpint(get_state_size(vm, "disk0", "zero"), <, RAM_SIZE / 4);
    ram_spoil(vm, ram);
    save(vm, "full");
    load(vm, "zero");
    g_assert_true(ram_is_as_wanted(vm, ram));

    load(vm, "full");
    memset(ram->data, 0xa5, ram->size);
    g_assert_true(ram_is_as_wanted(vm, ram));
    vm_quit(vm);
    check_disk("disk0", 0);
}

static void test_ram_sparse(void)
{
    static const uint64_t pages[] = {
        0, 1, 255, 256, 4097, RAM_SIZE / PAGE_SIZE - 1
    };
    g_autofree char *disks = create_disks(1);
    g_autoptr(TestRam) ram = ram_new(RAM_START, RAM_SIZE);
    TestVm *vm = vm_new(disks, "");

    for (size_t i = 0; i < ARRAY_SIZE(pages); i++) {
        ram_put(ram, pages[i] * PAGE_SIZE, PAGE_SIZE, i + 1);
        ram_write(vm, ram, pages[i] * PAGE_SIZE, PAGE_SIZE);
    }
    /* Nearly a page of zeroes */
    ram->data[1000 * PAGE_SIZE - 1] = 1;
    ram_write(vm, ram, 999 * PAGE_SIZE, PAGE_SIZE);
    save(vm, "one");
    g_assert_cmpint(get_state_size(vm, "disk0", "one"), <, RAM_SIZE / 4);
    ram_spoil(vm, ram);
    load(vm, "one");
    g_assert_true(ram_is_as_wanted(vm, ram));
    vm_quit(vm);
}

/* Nothing has changed since the last snapshot: the next one is whole as well */
static void test_ram_unchanged(void)
{
    g_autofree char *disks = create_disks(1);
    g_autoptr(TestRam) ram = ram_new(RAM_START, RAM_SIZE);
    TestVm *vm = vm_new(disks, "");

    ram_put(ram, 0, 4 * MiB, 1);
    ram_write(vm, ram, 0, 4 * MiB);
    save(vm, "one");
    save(vm, "two");
    load(vm, "two");
    save(vm, "three");
    g_assert_cmpint(get_state_size(vm, "disk0", "two"), >, 4 * MiB);
    g_assert_cmpint(get_state_size(vm, "disk0", "three"), >, 4 * MiB);

    ram_spoil(vm, ram);
    delete_on(vm, "one", "disk0");
    load(vm, "three");
    g_assert_true(ram_is_as_wanted(vm, ram));
    ram_spoil(vm, ram);
    load(vm, "two");
    g_assert_true(ram_is_as_wanted(vm, ram));
    vm_quit(vm);
}

static TestVm *vm_new_with_slots(const char *disks, const char *options)
{
    return vm_from(qtest_initf("-machine pc -nodefaults -m %d,slots=2,"
                               "maxmem=1G%s %s", RAM_MIB, disks, options));
}

static void plug_dimm(TestVm *vm)
{
    qtest_qmp_assert_success(vm->qts,
                             "{'execute': 'object-add', 'arguments': {"
                             "'qom-type': 'memory-backend-ram', 'id': 'mem0', "
                             "'size': %" PRIu64 "}}", (uint64_t)DIMM_SIZE);
    qtest_qmp_device_add(vm->qts, "pc-dimm", "dimm0", "{'memdev': 'mem0'}");
}

static void check_dimm_load(TestVm *vm, TestRam *dimm)
{
    ram_spoil(vm, dimm);
    load(vm, "plugged");
    g_assert_true(ram_is_as_wanted(vm, dimm));
}

/* The first VM, which gets the memory while it runs and leaves snapshots */
static void save_with_dimm(const char *disks, TestRam *dimm)
{
    TestVm *vm = vm_new_with_slots(disks, "");

    save(vm, "plain");
    plug_dimm(vm);
    ram_put(dimm, 0, 1 * MiB, 1);
    ram_write(vm, dimm, 0, 1 * MiB);
    ram_put(dimm, DIMM_SIZE - PAGE_SIZE, PAGE_SIZE, 2);
    ram_write(vm, dimm, DIMM_SIZE - PAGE_SIZE, PAGE_SIZE);
    save(vm, "plugged");
    check_dimm_load(vm, dimm);
    vm_quit(vm);
}

/* A VM without it cannot be what was saved.  It can be what it was before. */
static void load_without_dimm(const char *disks)
{
    TestJob job = { "load", "plugged", "disk0", "disk0" };
    TestVm *vm = vm_new_with_slots(disks, "2>/dev/null");
    g_autofree char *error = job_run(vm, &job);
    const char *start =
        "Disks were reverted to snapshot 'plugged', but the VM as a whole "
        "could not be, so it stays stopped; revert to a snapshot again or "
        "reset the VM before continuing: Error while loading VM state, "
        "section 'ram', offset ";

    g_test_message("%s", error);
    g_assert_nonnull(error);
    if (!g_str_has_prefix(error, start)) {
        g_assert_cmpstr(error, ==, start);
    }
    g_assert_cmpstr(vm->events->str, ==, LIFE_BROKEN);
    check_status(vm, "restore-vm");

    load_idle(vm, "plain");
    check_status(vm, "restore-vm");
    vm_execute(vm, "cont");
    check_status(vm, "running");
    load(vm, "plain");
    vm_quit(vm);
}

static void test_ram_hotplugged(void)
{
    g_autofree char *disks = create_disks(1);
    g_autoptr(TestRam) dimm = ram_new(DIMM_START, DIMM_SIZE);
    TestVm *vm;

    save_with_dimm(disks, dimm);

    vm = vm_new_with_slots(disks, "-object memory-backend-ram,id=mem0,size=16M "
                           "-device pc-dimm,id=dimm0,memdev=mem0");
    check_dimm_load(vm, dimm);
    vm_quit(vm);

    vm = vm_new_with_slots(disks, "");
    plug_dimm(vm);
    check_dimm_load(vm, dimm);
    vm_quit(vm);

    load_without_dimm(disks);
    check_disk("disk0", 0);
}

/* --- A guest that counts ------------------------------------------------- */

/*
 * On every tick of the timer, 200 times a second, the guest adds one to a
 * number in a register and to one in memory, writes it into a row of pages, and
 * prints it.  When the two differ it prints an exclamation mark and halts: then
 * CPU and memory are not of the same moment.
 *
 * The pages have the new number up to where the guest has got, and after that
 * the one before.
 */
#define GUEST_COUNTER       0x600
#define GUEST_PAGES_START   0x10000
#define GUEST_PAGES         128
#define GUEST_DIGITS        8

/* RAM that neither the guest nor the BIOS writes to after booting */
#define GUEST_SPARE_START   (4 * MiB)
#define GUEST_SPARE_SIZE    (8 * MiB)

static const uint8_t boot_sector[] = {
    /* Segments and stack, with the BIOS's interrupt handlers left in place */
    0xfa,                                   /*      cli                       */
    0x31, 0xc0,                             /*      xorw %ax, %ax             */
    0x8e, 0xd8,                             /*      movw %ax, %ds             */
    0x8e, 0xd0,                             /*      movw %ax, %ss             */
    0xbc, 0x00, 0x7c,                       /*      movw $0x7c00, %sp         */
    /* Timer 0: rate generator, 1193182 Hz / 5966 */
    0xb0, 0x34,                             /*      movb $0x34, %al           */
    0xe6, 0x43,                             /*      outb %al, $0x43           */
    0xb0, 0x4e,                             /*      movb $0x4e, %al           */
    0xe6, 0x40,                             /*      outb %al, $0x40           */
    0xb0, 0x17,                             /*      movb $0x17, %al           */
    0xe6, 0x40,                             /*      outb %al, $0x40           */
    0x66, 0x31, 0xdb,                       /*      xorl %ebx, %ebx           */
    0x66, 0x89, 0x1e, 0x00, 0x06,           /*      movl %ebx, 0x600          */
    0xfb,                                   /*      sti                       */
    /* Count */
    0xf4,                                   /* tick: hlt                      */
    0x66, 0x43,                             /*      incl %ebx                 */
    0x66, 0xff, 0x06, 0x00, 0x06,           /*      incl 0x600                */
    0xb8, 0x00, 0x10,                       /*      movw $0x1000, %ax         */
    0x8e, 0xc0,                             /* page: movw %ax, %es            */
    0x26, 0x66, 0x89, 0x1e, 0x00, 0x00,     /*      movl %ebx, %es:0          */
    0x80, 0xc4, 0x01,                       /*      addb $1, %ah              */
    0x80, 0xfc, 0x90,                       /*      cmpb $0x90, %ah           */
    0x75, 0xf0,                             /*      jne page                  */
    0x66, 0x8b, 0x36, 0x00, 0x06,           /*      movl 0x600, %esi          */
    0x66, 0x39, 0xde,                       /*      cmpl %ebx, %esi           */
    0x75, 0x1a,                             /*      jne bad                   */
    /* Print, with letters for digits */
    0xb1, 0x08,                             /*      movb $8, %cl              */
    0x66, 0xc1, 0xc6, 0x04,                 /* digit: roll $4, %esi           */
    0x89, 0xf0,                             /*      movw %si, %ax             */
    0x24, 0x0f,                             /*      andb $15, %al             */
    0x04, 'a',                              /*      addb $'a', %al            */
    0xe8, 0x12, 0x00,                       /*      call putc                 */
    0xfe, 0xc9,                             /*      decb %cl                  */
    0x75, 0xef,                             /*      jne digit                 */
    0xb0, '\n',                             /*      movb $'\n', %al           */
    0xe8, 0x09, 0x00,                       /*      call putc                 */
    0xeb, 0xc1,                             /*      jmp tick                  */
    0xb0, '!',                              /* bad: movb $'!', %al            */
    0xe8, 0x02, 0x00,                       /*      call putc                 */
    0xfa,                                   /*      cli                       */
    0xf4,                                   /*      hlt                       */
    /* One character, as soon as the first serial port takes it */
    0x88, 0xc5,                             /* putc: movb %al, %ch            */
    0xba, 0xfd, 0x03,                       /*      movw $0x3fd, %dx          */
    0xec,                                   /* wait: inb %dx, %al             */
    0xa8, 0x20,                             /*      testb $0x20, %al          */
    0x74, 0xfb,                             /*      je wait                   */
    0x88, 0xe8,                             /*      movb %ch, %al             */
    0xb2, 0xf8,                             /*      movb $0xf8, %dl           */
    0xee,                                   /*      outb %al, %dx             */
    0xc3,                                   /*      ret                       */
};

/* disk0, from which the guest boots; remade for every case */
static void create_boot_disk(void)
{
    g_autofree char *raw = tmpfile_path("boot");
    g_autofree char *path = tmpfile_path("disk0");
    const char *argv[] = { getenv("QTEST_QEMU_IMG"), "convert", "-f", "raw",
                           "-O", "qcow2", raw, path, NULL };
    g_autofree char *data = g_malloc0(DISK_MIB * MiB);

    memcpy(data, boot_sector, sizeof(boot_sector));
    data[510] = 0x55;
    data[511] = 0xaa;
    g_assert_true(g_file_set_contents(raw, data, DISK_MIB * MiB, NULL));
    run_program(argv);
    unlink(raw);
}

static TestVm *guest_new(const char *options)
{
    g_autofree char *disk = disk_args("disk0", "qcow2", "");
    g_autofree char *args = g_strdup_printf(
        "-accel tcg -machine pc -nodefaults -m %d%s "
        "-device ide-hd,drive=disk0 %s", RAM_MIB, disk, options);
    int serial;
    TestVm *vm = vm_from(qtest_init_with_serial(args, &serial));

    vm->serial = serial;
    return vm;
}

static char guest_read_char(TestVm *vm)
{
    GPollFD poll = { .fd = vm->serial, .events = G_IO_IN };
    char c;

    g_assert_cmpint(g_poll(&poll, 1, PATIENCE_MS), ==, 1);
    g_assert_cmpint(read(vm->serial, &c, 1), ==, 1);
    g_assert_cmpint(c, !=, '!');
    return c;
}

/* False if the line is no number, with @number as good as anything */
static bool guest_read_line(TestVm *vm, uint32_t *number)
{
    bool ok = true;
    int digits = 0;
    char c;

    *number = 0;
    while ((c = guest_read_char(vm)) != '\n') {
        ok &= c >= 'a' && c <= 'p';
        *number = *number << 4 | ((c - 'a') & 15);
        digits++;
    }
    return ok && digits == GUEST_DIGITS;
}

/* See the guest count until it is at @number */
static void guest_count_to(TestVm *vm, uint32_t number)
{
    uint32_t next;

    while (vm->count < number) {
        g_assert_true(guest_read_line(vm, &next));
        g_assert_cmpuint(next, ==, vm->count + 1);
        vm->count = next;
    }
}

static void guest_count_on(TestVm *vm, uint32_t numbers)
{
    guest_count_to(vm, vm->count + numbers);
}

/*
 * See it count on from elsewhere.  Just before, there may be the beginning of
 * one line and the end of another: it can look like any number.
 */
static void guest_resync(TestVm *vm)
{
    uint32_t number;

    guest_read_line(vm, &number);
    g_assert_true(guest_read_line(vm, &vm->count));
}

/* See it count up to where it was reverted, and on from there */
static void guest_jump(TestVm *vm)
{
    for (int lines = 0; lines < 5000; lines++) {
        uint32_t number;

        if (!guest_read_line(vm, &number) || number != vm->count + 1) {
            g_assert_true(guest_read_line(vm, &vm->count));
            return;
        }
        vm->count = number;
    }
    g_assert_not_reached();
}

/* What was reverted to had a number from @min to @max */
static void guest_check_count(TestVm *vm, uint32_t min, uint32_t max)
{
    /* Of the number itself nothing may have been printed yet, or all */
    g_assert_cmpuint(vm->count, >=, min);
    g_assert_cmpuint(vm->count, <=, max + 3);
    guest_count_on(vm, 10);
}

/* The number in the guest's memory */
static uint32_t guest_peek(TestVm *vm)
{
    return qtest_readl(vm->qts, GUEST_COUNTER);
}

/* With the guest stopped: is its memory of one moment?  Returns its number. */
static uint32_t guest_check_pages(TestVm *vm)
{
    g_autofree char *data = vm_dump(vm, GUEST_PAGES_START,
                                    GUEST_PAGES * PAGE_SIZE);
    uint32_t count = guest_peek(vm);
    uint32_t newest = count;

    for (int i = 0; i < GUEST_PAGES; i++) {
        uint32_t number = ldl_le_p(data + i * PAGE_SIZE);

        if (number != newest) {
            g_assert_cmpuint(number, ==, count - 1);
            newest = number;
        }
    }
    return count;
}

/* --- Cases: guest -------------------------------------------------------- */

/*
 * Save a guest that counts, with @ram as it is.  It counts on, at least as long
 * as it may have done while it was saved.  Returns between which numbers.
 */
static void guest_save(TestVm *vm, const char *tag, uint32_t *min,
                       uint32_t *max)
{
    guest_count_on(vm, 10);
    *min = guest_peek(vm);
    save(vm, tag);
    check_status(vm, "running");
    *max = guest_peek(vm);
    guest_count_to(vm, *max + 20);
}

static TestVm *guest_new_with_snapshot(TestRam *ram, uint32_t *min,
                                       uint32_t *max)
{
    TestVm *vm;

    create_boot_disk();
    vm = guest_new("");
    guest_count_on(vm, 1);
    ram_put(ram, 0, 1 * MiB, 1);
    ram_write(vm, ram, 0, ram->size);
    guest_save(vm, "one", min, max);
    ram_spoil(vm, ram);
    return vm;
}

static void test_guest_running(void)
{
    g_autoptr(TestRam) ram = ram_new(GUEST_SPARE_START, GUEST_SPARE_SIZE);
    uint32_t min, max, min2, max2;
    TestVm *vm = guest_new_with_snapshot(ram, &min, &max);

    load(vm, "one");
    check_status(vm, "running");
    guest_jump(vm);
    guest_check_count(vm, min, max);
    g_assert_true(ram_is_as_wanted(vm, ram));

    /* Of the state that was just reverted to */
    guest_save(vm, "two", &min2, &max2);
    load(vm, "one");
    guest_jump(vm);
    guest_check_count(vm, min, max);
    load(vm, "two");
    guest_jump(vm);
    guest_check_count(vm, min2, max2);
    g_assert_true(ram_is_as_wanted(vm, ram));
    vm_quit(vm);
}

/* A VM that is paused stays so, also when it was saved running */
static void test_guest_paused(void)
{
    g_autoptr(TestRam) ram = ram_new(GUEST_SPARE_START, GUEST_SPARE_SIZE);
    uint32_t min, max, count;
    TestVm *vm = guest_new_with_snapshot(ram, &min, &max);

    vm_execute(vm, "stop");
    load_idle(vm, "one");
    check_status(vm, "paused");
    count = guest_check_pages(vm);
    g_assert_cmpuint(count, >=, min);
    g_assert_cmpuint(count, <=, max);
    g_assert_true(ram_is_as_wanted(vm, ram));

    save_idle(vm, "paused");
    check_status(vm, "paused");
    g_assert_cmpuint(guest_check_pages(vm), ==, count);
    vm_execute(vm, "cont");
    guest_jump(vm);
    guest_check_count(vm, count, count);

    /* And one that runs goes on, also when it was saved paused */
    load(vm, "paused");
    check_status(vm, "running");
    guest_jump(vm);
    guest_check_count(vm, count, count);

    vm_execute(vm, "stop");
    load_idle(vm, "paused");
    check_status(vm, "paused");
    g_assert_cmpuint(guest_check_pages(vm), ==, count);
    vm_quit(vm);
}

/* -S: neither saving nor reverting starts the VM */
static void test_guest_never_started(void)
{
    TestVm *vm;

    create_boot_disk();
    vm = guest_new("-S");
    check_status(vm, "prelaunch");
    save_idle(vm, "virgin");
    check_status(vm, "prelaunch");
    vm_execute(vm, "cont");
    guest_count_to(vm, 20);

    /* It boots again */
    load(vm, "virgin");
    check_status(vm, "running");
    guest_jump(vm);
    guest_check_count(vm, 0, 0);
    save(vm, "booted");
    vm_quit(vm);

    vm = guest_new("-S");
    load_idle(vm, "booted");
    check_status(vm, "prelaunch");
    guest_check_pages(vm);
    load_idle(vm, "virgin");
    check_status(vm, "prelaunch");
    vm_execute(vm, "cont");
    guest_count_to(vm, 20);
    vm_quit(vm);
}

static void test_guest_loadvm(void)
{
    g_autoptr(TestRam) ram = ram_new(GUEST_SPARE_START, GUEST_SPARE_SIZE);
    uint32_t min, max, count;
    TestVm *vm = guest_new_with_snapshot(ram, &min, &max);

    vm_quit(vm);

    vm = guest_new("-loadvm one");
    check_status(vm, "running");
    guest_resync(vm);
    guest_check_count(vm, min, max);
    g_assert_true(ram_is_as_wanted(vm, ram));
    load(vm, "one");
    guest_jump(vm);
    guest_check_count(vm, min, max);
    vm_quit(vm);

    vm = guest_new("-S -loadvm one");
    check_status(vm, "prelaunch");
    count = guest_check_pages(vm);
    g_assert_cmpuint(count, >=, min);
    g_assert_cmpuint(count, <=, max);
    g_assert_true(ram_is_as_wanted(vm, ram));
    vm_execute(vm, "cont");
    guest_resync(vm);
    guest_check_count(vm, count, count);
    vm_quit(vm);
}

/* --- Cases: start -------------------------------------------------------- */

/* QEMU does not start without the snapshot that it was told to start from */
static void test_start_missing(void)
{
    g_autofree char *disks = create_disks(1);
    /* If it does start, it is to end and not to wait */
    g_autofree char *command = g_strdup_printf(
        "echo quit | %s -accel qtest -display none -monitor stdio -machine pc "
        "-nodefaults%s -loadvm nosuch", getenv("QTEST_QEMU_BINARY"), disks);
    const char *argv[] = { "/bin/sh", "-c", command, NULL };
    g_autofree char *output = NULL;
    g_autofree char *errors = NULL;
    g_autoptr(GError) err = NULL;
    int status;

    g_spawn_sync(NULL, (char **)argv, NULL, 0, NULL, NULL, &output, &errors,
                 &status, &err);
    g_assert_no_error(err);
    g_spawn_check_exit_status(status, &err);
    g_assert_error(err, G_SPAWN_EXIT_ERROR, 1);
    g_assert_nonnull(strstr(errors, "Snapshot 'nosuch' does not exist in one "
                            "or more devices"));
}

/* ------------------------------------------------------------------------- */

typedef struct SnapshotTest {
    const char *path;
    void (*run)(void);
    bool runs_guest;        /* the VM executes code */
} SnapshotTest;

static const SnapshotTest tests[] = {
    { "snapshot/job/life", test_job_life },
    { "snapshot/job/ids", test_job_ids },
    { "snapshot/error/save", test_error_save },
    { "snapshot/error/load", test_error_load },
    { "snapshot/error/delete", test_error_delete },
    { "snapshot/disks/three", test_disks_three },
    { "snapshot/disks/some", test_disks_some },
    { "snapshot/disks/delete-missing", test_disks_delete_missing },
    { "snapshot/name/odd", test_name_odd },
    { "snapshot/name/long", test_name_long },
    { "snapshot/name/like-id", test_name_like_id },
    { "snapshot/ram/zero", test_ram_zero },
    { "snapshot/ram/sparse", test_ram_sparse },
    { "snapshot/ram/unchanged", test_ram_unchanged },
    { "snapshot/ram/hotplugged", test_ram_hotplugged },
    { "snapshot/start/missing", test_start_missing },
    { "snapshot/guest/running", test_guest_running, true },
    { "snapshot/guest/paused", test_guest_paused, true },
    { "snapshot/guest/never-started", test_guest_never_started, true },
    { "snapshot/guest/loadvm", test_guest_loadvm, true },
};

/* What @test needs that is not here, or NULL */
static const char *missing_for(const SnapshotTest *test)
{
    if (!have_qemu_img()) {
        return "QTEST_QEMU_IMG is not set or names no program";
    }
    if (!qtest_has_machine("pc")) {
        return "no machine type pc";
    }
    if (test->runs_guest && !qtest_has_accel("tcg")) {
        return "no TCG to run a guest with";
    }
    return NULL;
}

static void run_test(const void *opaque)
{
    const SnapshotTest *test = opaque;
    const char *missing = missing_for(test);

    if (missing) {
        g_test_skip(missing);
        return;
    }
    test->run();
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);

    tmpdir = g_dir_make_tmp("snapshot-test-XXXXXX", NULL);
    g_assert_nonnull(tmpdir);
    for (int i = 0; i < ARRAY_SIZE(tests); i++) {
        qtest_add_data_func(tests[i].path, &tests[i], run_test);
    }
    ret = g_test_run();

    for (int i = 0; i < 3; i++) {
        g_autofree char *name = g_strdup_printf("disk%d", i);

        remove_file(name);
    }
    remove_file("raw");
    remove_file("readonly");
    rmdir(tmpdir);
    g_free(tmpdir);
    return ret;
}
