/*
 * How many reads of VM state at a time?
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A rotating disk is fastest with one sequential reader.  Where each request
 * takes its time on the way instead, several at a time are faster.  Nothing
 * tells beforehand which it is (a node may be an export of a file on either),
 * so both are tried on the stream itself, again and again, as others may use
 * the storage, too.
 */

#ifndef BLOCK_VMSTATE_DEPTH_H
#define BLOCK_VMSTATE_DEPTH_H

typedef enum VmstateDepthPhase {
    VMSTATE_DEPTH_SETTLE_ONE,
    VMSTATE_DEPTH_SAMPLE_ONE,
    VMSTATE_DEPTH_SETTLE_DEEP,
    VMSTATE_DEPTH_SAMPLE_DEEP,
    VMSTATE_DEPTH_RUN,          /* with what was better */
} VmstateDepthPhase;

/**
 * VmstateDepth: the choice for one stream
 *
 * The caller serialises access.
 */
typedef struct VmstateDepth {
    /* Constant */
    unsigned max;           /* reads at a time, in the deep way */
    uint64_t window;        /* in bytes; all lengths are multiples of it */

    VmstateDepthPhase phase;
    bool deep;              /* which way it is now */
    uint64_t run;           /* length of the next run, in bytes */

    /* In this phase so far */
    uint64_t bytes;
    int64_t busy_ns;

    /* Of the last samples, in bytes per second */
    uint64_t rate_one;
    uint64_t rate_deep;
} VmstateDepth;

/**
 * vmstate_depth_init: Begin with one read at a time
 *
 * @max: reads at a time at most; 1 to leave it at that
 * @window: of the reader, in bytes
 */
void vmstate_depth_init(VmstateDepth *d, unsigned max, uint64_t window);

/**
 * vmstate_depth_account: Reads have gone on
 *
 * @bytes: read since the last call
 * @busy_ns: for how long at least one read was under way since then
 *
 * Returns true if vmstate_depth_now() may say something else than before.
 */
bool vmstate_depth_account(VmstateDepth *d, uint64_t bytes, int64_t busy_ns);

/**
 * vmstate_depth_now: How many reads there may be under way now
 */
unsigned vmstate_depth_now(const VmstateDepth *d);

#endif /* BLOCK_VMSTATE_DEPTH_H */
