/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * nbdkit plugin: a file, or memory, that is as slow as a rotating disk
 *
 * Data is kept in a file, by way of the page cache, or in a memory file, and
 * each request sleeps until the model says that a disk is done with it.  Each
 * thread that waits keeps the model's time going, so that there is no thread of
 * the disk's own, and what is slept too long is in nobody's way: the model
 * reckons with when things happen, not with when they are noticed.
 */
#define _GNU_SOURCE
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device-clock.h"
#include "disk-model.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

static DiskParameters parameters;
static int64_t rpm = 7200;
static int64_t rate = 150000000;
static const char *file_name;
static int64_t size = -1;

static int file = -1;
static DiskModel *model;

/* Protects what *model holds, and *model only */
static pthread_mutex_t model_lock = PTHREAD_MUTEX_INITIALIZER;

/* Parameters */

typedef struct Option {
    const char *name;
    int64_t *value;
    enum { BYTES, COUNT, TIME } type;
} Option;

static const Option options[] = {
    { "size", &size, BYTES },
    { "capacity", &parameters.mechanics.capacity, BYTES },
    { "rpm", &rpm, COUNT },
    { "rate", &rate, BYTES },
    { "seek-settle", &parameters.mechanics.seek_settle, TIME },
    { "seek-average", &parameters.mechanics.seek_average, TIME },
    { "seek-full", &parameters.mechanics.seek_full, TIME },
    { "write-settle", &parameters.mechanics.write_settle, TIME },
    { "overhead", &parameters.overhead, TIME },
    { "link-rate", &parameters.link_rate, BYTES },
    { "queue", &parameters.queue, COUNT },
    { "max-wait", &parameters.max_wait, TIME },
    { "read-cache", &parameters.read_cache, BYTES },
    { "segments", &parameters.segments, COUNT },
    { "read-ahead-min", &parameters.read_ahead_min, BYTES },
    { "write-cache", &parameters.write_cache, BYTES },
};

static int parse_time(const char *name, const char *text, int64_t *time)
{
    if (device_clock_parse(text, time) < 0) {
        nbdkit_error("%s=%s is not a time such as 8.2ms, 20us or 1s", name,
                     text);
        return -1;
    }
    return 0;
}

static int parse_bytes(const char *text, int64_t *bytes)
{
    *bytes = nbdkit_parse_size(text);
    return *bytes < 0 ? -1 : 0;
}

static int parse_count(const char *name, const char *text, int64_t *count)
{
    unsigned number;

    if (nbdkit_parse_unsigned(name, text, &number) < 0) {
        return -1;
    }
    *count = number;
    return 0;
}

static int parse_option(const Option *option, const char *text)
{
    switch (option->type) {
    case BYTES:
        return parse_bytes(text, option->value);
    case COUNT:
        return parse_count(option->name, text, option->value);
    case TIME:
        return parse_time(option->name, text, option->value);
    }
    abort();
}

static void disk_load(void)
{
    disk_parameters_init(&parameters);
}

static int disk_config(const char *key, const char *value)
{
    if (!strcmp(key, "file")) {
        file_name = nbdkit_strdup_intern(value);
        return file_name ? 0 : -1;
    }
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
        if (!strcmp(key, options[i].name)) {
            return parse_option(&options[i], value);
        }
    }
    nbdkit_error("there is no parameter %s: nbdkit --help PLUGIN lists them",
                 key);
    return -1;
}

/* Storage */

static int open_file(void)
{
    struct stat status;

    file = file_name ? open(file_name, O_RDWR | O_CREAT | O_CLOEXEC, 0666) :
                       memfd_create("rotating-disk", MFD_CLOEXEC);
    if (file < 0 || fstat(file, &status) < 0) {
        nbdkit_error("cannot open %s: %m", file_name ?: "memory");
        return -1;
    }
    if (size < 0) {
        size = status.st_size;
    } else if (size != status.st_size && ftruncate(file, size) < 0) {
        nbdkit_error("cannot make %s as large as %lld bytes: %m",
                     file_name ?: "memory", (long long)size);
        return -1;
    }
    return 0;
}

static int disk_config_complete(void)
{
    const char *error;

    if (size < 0 && !file_name) {
        nbdkit_error("size=SIZE or file=PATH is missing");
        return -1;
    }
    if (rpm < 1) {
        nbdkit_error("rpm is at least 1");
        return -1;
    }
    disk_parameters_set_speed(&parameters, rpm, rate);
    error = disk_parameters_error(&parameters);
    if (error) {
        nbdkit_error("%s", error);
        return -1;
    }
    return 0;
}

static int disk_get_ready(void)
{
    if (open_file() < 0) {
        return -1;
    }
    if (size > parameters.mechanics.capacity) {
        nbdkit_error("size is more than the capacity of the disk");
        return -1;
    }
    model = disk_model_new(&parameters);
    if (!model) {
        nbdkit_error("no memory for the model");
        return -1;
    }
    return 0;
}

static void disk_unload(void)
{
    disk_model_free(model);
    if (file >= 0) {
        close(file);
    }
}

static int read_all(void *buffer, uint32_t count, uint64_t offset)
{
    while (count) {
        ssize_t got = pread(file, buffer, count, offset);

        if (got <= 0) {
            nbdkit_error("reading: %s", got ? strerror(errno) : "end of file");
            return -1;
        }
        buffer = (char *)buffer + got;
        count -= got;
        offset += got;
    }
    return 0;
}

static int write_all(const void *buffer, uint32_t count, uint64_t offset)
{
    while (count) {
        ssize_t got = pwrite(file, buffer, count, offset);

        if (got < 0) {
            nbdkit_error("writing: %m");
            return -1;
        }
        buffer = (const char *)buffer + got;
        count -= got;
        offset += got;
    }
    return 0;
}

/*
 * Sleeps until @request is done, and meanwhile is there whenever the model has
 * to decide.  A request that comes later cannot bring that forward: as long as
 * one waits, the head is busy.
 */
static void wait_for_disk(DiskRequest *request)
{
    int64_t until;

    pthread_mutex_lock(&model_lock);
    disk_model_submit(model, request, device_clock_now());
    while (request->done == DISK_UNKNOWN) {
        until = disk_model_next(model);
        pthread_mutex_unlock(&model_lock);
        device_clock_sleep_until(until);
        pthread_mutex_lock(&model_lock);
        disk_model_advance(model, device_clock_now());
    }
    until = request->done;
    pthread_mutex_unlock(&model_lock);
    device_clock_sleep_until(until);
}

/* Requests */

static void *disk_open(int readonly)
{
    return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t disk_get_size(void *handle)
{
    return size;
}

static int disk_yes(void *handle)
{
    return 1;
}

static int disk_can_fua(void *handle)
{
    return NBDKIT_FUA_NATIVE;
}

static int disk_pread(void *handle, void *buffer, uint32_t count,
                      uint64_t offset, uint32_t flags)
{
    DiskRequest request = {
        .kind = DISK_READ, .offset = offset, .length = count,
    };

    wait_for_disk(&request);
    return read_all(buffer, count, offset);
}

static int disk_pwrite(void *handle, const void *buffer, uint32_t count,
                       uint64_t offset, uint32_t flags)
{
    DiskRequest request = {
        .kind = DISK_WRITE, .offset = offset, .length = count,
        .fua = flags & NBDKIT_FLAG_FUA,
    };

    if (write_all(buffer, count, offset) < 0) {
        return -1;
    }
    wait_for_disk(&request);
    return 0;
}

static int disk_flush(void *handle, uint32_t flags)
{
    DiskRequest request = { .kind = DISK_FLUSH };

    wait_for_disk(&request);
    return 0;
}

/*
 * No trim, as a disk has none.  nbdkit makes writes of requests for zeroes,
 * which take their time.
 */
static struct nbdkit_plugin plugin = {
    .name = "rotating-disk",
    .longname = "rotating disk",
    .description = "a file or memory that is as slow as a rotating disk",
    .config_help =
        "size=SIZE                  of the export; all of it is at the outer "
        "edge\n"
        "file=PATH                  keeps the data; without it, memory does\n"
        "capacity=1000000000000     bytes over the whole stroke of the arm\n"
        "rpm=7200                   turns a minute\n"
        "rate=150000000             bytes a second that pass the head\n"
        "seek-settle=1ms            to a neighbouring track\n"
        "seek-average=8.2ms         over a third of the stroke\n"
        "seek-full=17ms             over the whole stroke\n"
        "write-settle=0.8ms         more, for a head that is going to write\n"
        "overhead=10us              for each command\n"
        "link-rate=550000000        bytes a second on the cable\n"
        "queue=32                   commands that the drive chooses from; 1: "
        "in turn\n"
        "max-wait=1s                a command that old comes first\n"
        "read-cache=16M             buffer for reading ahead\n"
        "segments=8                 parts of it, one for each reader\n"
        "read-ahead-min=256K        read ahead for a sequential reader, at "
        "least\n"
        "write-cache=32M            write-back cache; 0: none",
    .load = disk_load,
    .unload = disk_unload,
    .config = disk_config,
    .config_complete = disk_config_complete,
    .get_ready = disk_get_ready,
    .open = disk_open,
    .get_size = disk_get_size,
    .can_multi_conn = disk_yes,
    .is_rotational = disk_yes,
    .can_flush = disk_yes,
    .can_fua = disk_can_fua,
    .pread = disk_pread,
    .pwrite = disk_pwrite,
    .flush = disk_flush,
    .errno_is_preserved = 1,
};

NBDKIT_REGISTER_PLUGIN(plugin)
