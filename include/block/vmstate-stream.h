/*
 * What the VM state writer and the VM state reader have in common
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The two stream engines sit between migration code, which produces and
 * consumes bytes, and bdrv_co_{readv,writev}_vmstate(), which wants few, large
 * and aligned requests.  They know nothing of migration.
 */

#ifndef BLOCK_VMSTATE_STREAM_H
#define BLOCK_VMSTATE_STREAM_H

/**
 * VmstateStreamOptions: what a stream can be tuned by
 *
 * @chunk_size: of the writer's requests, in bytes, before it is rounded up to a
 *              multiple of the node's cluster size; > 0
 * @depth: of the writer's requests that may be in flight at one time; > 0
 * @window: of the reader, in bytes; a multiple of VMSTATE_READER_MIN_REQUEST,
 *          and at least two of them
 * @read_depth: of the reader's requests that may be in flight at one time where
 *              that is faster than one; > 0.  A smaller window has room for
 *              less.
 * @growth_step: how far, in bytes, the node may grow its file ahead of the
 *               writes; 0 to let it alone
 */
typedef struct VmstateStreamOptions {
    size_t chunk_size;
    unsigned depth;
    size_t window;
    unsigned read_depth;
    int64_t growth_step;
} VmstateStreamOptions;

/* Good for local disks as well as for storage that is far away */
extern const VmstateStreamOptions vmstate_stream_defaults;

/* The last one but one ends at 2^31 us, some 36 minutes */
#define VMSTATE_LATENCY_CLASSES 64

/**
 * VmstateStreamStats: figures of one stream, kept by its engine
 *
 * @bytes: bytes written or delivered so far
 * @requests: requests to the block layer that have ended
 * @max_request: size of the largest of them, in bytes
 * @max_in_flight: most requests that were in flight at one time
 * @buffer_bytes: bytes of I/O buffers the engine holds; never shrinks while
 *                the stream lives
 * @stalls: how often the producer or consumer had to wait for storage
 * @stall_ns: for how long, summed, in nanoseconds
 * @storage_stalls: how often storage had nothing to do in mid-stream, because
 *                  the producer had not filled a chunk or the consumer had not
 *                  made room
 * @storage_stall_ns: for how long, summed, in nanoseconds
 * @storage_ns: sum of the requests' durations, in nanoseconds; larger than the
 *              elapsed time when requests overlap
 * @max_latency_ns: duration of the slowest request, in nanoseconds
 * @latency: number of requests by duration: element i counts those that took
 *           longer than element i - 1 does and no longer than 2^(i / 2)
 *           microseconds; the last one has no upper bound
 */
typedef struct VmstateStreamStats {
    uint64_t bytes;
    uint64_t requests;
    uint64_t max_request;
    unsigned max_in_flight;
    uint64_t buffer_bytes;
    uint64_t stalls;
    int64_t stall_ns;
    uint64_t storage_stalls;
    int64_t storage_stall_ns;
    int64_t storage_ns;
    int64_t max_latency_ns;
    uint64_t latency[VMSTATE_LATENCY_CLASSES];
} VmstateStreamStats;

/**
 * vmstate_stats_request: Count a request that took @ns nanoseconds
 *
 * The caller serialises access to @stats.
 */
void vmstate_stats_request(VmstateStreamStats *stats, int64_t ns);

/**
 * vmstate_stats_busy: Storage has something to do again
 *
 * @idle_ns: the time since which it has had nothing, on the same clock as @now;
 *           0 if it has had, or if this is the beginning of the stream
 *
 * The caller serialises access to @stats.
 */
void vmstate_stats_busy(VmstateStreamStats *stats, int64_t idle_ns,
                        int64_t now);

/**
 * vmstate_stats_latency: How long @percent of all requests took at most
 *
 * In nanoseconds, accurate to a factor of the square root of two; never more
 * than the slowest one took.  0 if there was no request.
 */
int64_t vmstate_stats_latency(const VmstateStreamStats *stats,
                              unsigned percent);

#endif /* BLOCK_VMSTATE_STREAM_H */
