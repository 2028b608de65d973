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
 * @storage_ns: sum of the requests' durations, in nanoseconds; larger than the
 *              elapsed time when requests overlap
 */
typedef struct VmstateStreamStats {
    uint64_t bytes;
    uint64_t requests;
    uint64_t max_request;
    unsigned max_in_flight;
    uint64_t buffer_bytes;
    uint64_t stalls;
    int64_t stall_ns;
    int64_t storage_ns;
} VmstateStreamStats;

#endif /* BLOCK_VMSTATE_STREAM_H */
