/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * nbdkit filter: each request takes longer, by less than a millisecond as well
 *
 * nbdkit's own filter "delay" counts in whole milliseconds, takes 0.5ms for
 * nothing, and leaves out flushes.  Here every command that goes over a network
 * waits, those in flight at the same time.
 */
#include <nbdkit-filter.h>

#include <string.h>

#include "device-clock.h"

static int64_t latency;

static int latency_config(nbdkit_next_config *next, nbdkit_backend *backend,
                          const char *key, const char *value)
{
    if (strcmp(key, "latency")) {
        return next(backend, key, value);
    }
    if (device_clock_parse(value, &latency) < 0) {
        nbdkit_error("latency=%s is not a time such as 500us or 2ms", value);
        return -1;
    }
    return 0;
}

static void travel(void)
{
    device_clock_sleep_until(device_clock_now() + latency);
}

static int latency_pread(nbdkit_next *next, void *handle, void *buffer,
                         uint32_t count, uint64_t offset, uint32_t flags,
                         int *error)
{
    travel();
    return next->pread(next, buffer, count, offset, flags, error);
}

static int latency_pwrite(nbdkit_next *next, void *handle, const void *buffer,
                          uint32_t count, uint64_t offset, uint32_t flags,
                          int *error)
{
    travel();
    return next->pwrite(next, buffer, count, offset, flags, error);
}

static int latency_flush(nbdkit_next *next, void *handle, uint32_t flags,
                         int *error)
{
    travel();
    return next->flush(next, flags, error);
}

static int latency_trim(nbdkit_next *next, void *handle, uint32_t count,
                        uint64_t offset, uint32_t flags, int *error)
{
    travel();
    return next->trim(next, count, offset, flags, error);
}

static int latency_zero(nbdkit_next *next, void *handle, uint32_t count,
                        uint64_t offset, uint32_t flags, int *error)
{
    travel();
    return next->zero(next, count, offset, flags, error);
}

static int latency_extents(nbdkit_next *next, void *handle, uint32_t count,
                           uint64_t offset, uint32_t flags,
                           struct nbdkit_extents *extents, int *error)
{
    travel();
    return next->extents(next, count, offset, flags, extents, error);
}

static struct nbdkit_filter filter = {
    .name = "latency",
    .longname = "latency of a network",
    .description = "each request takes longer",
    .config_help = "latency=TIME               such as 500us or 2ms",
    .config = latency_config,
    .pread = latency_pread,
    .pwrite = latency_pwrite,
    .flush = latency_flush,
    .trim = latency_trim,
    .zero = latency_zero,
    .extents = latency_extents,
};

NBDKIT_REGISTER_FILTER(filter)
