/*
 * Options and figures of VM state streams
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/host-utils.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "block/vmstate.h"
#include "block/vmstate-reader.h"
#include "block/vmstate-writer.h"

const VmstateStreamOptions vmstate_stream_defaults = {
    .chunk_size = VMSTATE_WRITER_CHUNK,
    .depth = VMSTATE_WRITER_DEPTH,
    .window = VMSTATE_READER_WINDOW,
    .read_depth = VMSTATE_READER_DEPTH,
    .growth_step = VMSTATE_GROWTH_STEP,
};

/* Upper bound of class @i in nanoseconds: 2^(i / 2) us */
static int64_t vmstate_latency_bound(unsigned i)
{
    int64_t bound = SCALE_US * (INT64_C(1) << (i / 2));

    /* 99 / 70 is the square root of 2, but for less than 0.01 % */
    return i % 2 ? bound * 99 / 70 : bound;
}

static unsigned vmstate_latency_class(int64_t ns)
{
    uint64_t us = MAX(ns / SCALE_US, 1);
    unsigned i = MIN(2 * (63 - clz64(us)), VMSTATE_LATENCY_CLASSES - 1);

    while (i < VMSTATE_LATENCY_CLASSES - 1 && ns > vmstate_latency_bound(i)) {
        i++;
    }
    return i;
}

void vmstate_stats_request(VmstateStreamStats *stats, int64_t ns)
{
    stats->requests++;
    stats->storage_ns += ns;
    stats->max_latency_ns = MAX(stats->max_latency_ns, ns);
    stats->latency[vmstate_latency_class(ns)]++;
}

void vmstate_stats_busy(VmstateStreamStats *stats, int64_t idle_ns,
                        int64_t now)
{
    if (idle_ns) {
        stats->storage_stalls++;
        stats->storage_stall_ns += now - idle_ns;
    }
}

int64_t vmstate_stats_latency(const VmstateStreamStats *stats,
                              unsigned percent)
{
    uint64_t wanted = DIV_ROUND_UP(stats->requests * percent, 100);
    uint64_t count = 0;

    for (unsigned i = 0; i < VMSTATE_LATENCY_CLASSES - 1; i++) {
        count += stats->latency[i];
        if (count >= wanted) {
            return MIN(vmstate_latency_bound(i), stats->max_latency_ns);
        }
    }
    return stats->max_latency_ns;
}
