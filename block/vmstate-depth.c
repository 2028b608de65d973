/*
 * How many reads of VM state at a time?
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/timer.h"
#include "vmstate-depth.h"

/* Lengths of phases, in windows */
#define SETTLE_WINDOWS 1    /* what is under way was begun in the other way */
#define SAMPLE_WINDOWS 2
#define MIN_RUN_WINDOWS 64
#define MAX_RUN_WINDOWS 1024

/* What share of a run a try of one read at a time may take, if it can be had */
#define TRY_COST 0.03

/* Several at a time have to be faster by this: else it is not worth it */
#define MIN_GAIN 1.125

void vmstate_depth_init(VmstateDepth *d, unsigned max, uint64_t window)
{
    *d = (VmstateDepth) {
        .max = max,
        .window = window,
        .run = MIN_RUN_WINDOWS * window,
    };
}

static uint64_t vmstate_depth_phase_bytes(const VmstateDepth *d)
{
    switch (d->phase) {
    case VMSTATE_DEPTH_SETTLE_ONE:
    case VMSTATE_DEPTH_SETTLE_DEEP:
        return SETTLE_WINDOWS * d->window;
    case VMSTATE_DEPTH_SAMPLE_ONE:
    case VMSTATE_DEPTH_SAMPLE_DEEP:
        return SAMPLE_WINDOWS * d->window;
    case VMSTATE_DEPTH_RUN:
        return d->run;
    }
    g_assert_not_reached();
}

static uint64_t vmstate_depth_rate(const VmstateDepth *d)
{
    return (double)d->bytes * NANOSECONDS_PER_SECOND / MAX(d->busy_ns, 1);
}

/*
 * How long to go on reading several at a time, which is faster: the more it is,
 * the longer the next try will keep us.
 */
static uint64_t vmstate_depth_deep_run(const VmstateDepth *d)
{
    uint64_t tried = (SETTLE_WINDOWS + SAMPLE_WINDOWS) * d->window;
    double longer = (double)d->rate_deep / MAX(d->rate_one, 1) - 1;

    /* A sample may have been disturbed, so do not believe in all of it */
    return MIN(tried * longer / TRY_COST, 2 * MIN_RUN_WINDOWS * d->window);
}

/* The phase is over: what comes next? */
static void vmstate_depth_next_phase(VmstateDepth *d)
{
    switch (d->phase) {
    case VMSTATE_DEPTH_SETTLE_ONE:
        d->phase = VMSTATE_DEPTH_SAMPLE_ONE;
        break;
    case VMSTATE_DEPTH_SAMPLE_ONE:
        d->rate_one = vmstate_depth_rate(d);
        d->phase = VMSTATE_DEPTH_SETTLE_DEEP;
        d->deep = true;
        break;
    case VMSTATE_DEPTH_SETTLE_DEEP:
        d->phase = VMSTATE_DEPTH_SAMPLE_DEEP;
        break;
    case VMSTATE_DEPTH_SAMPLE_DEEP:
        d->rate_deep = vmstate_depth_rate(d);
        d->phase = VMSTATE_DEPTH_RUN;
        d->deep = d->rate_deep > MIN_GAIN * d->rate_one;
        if (d->deep) {
            d->run = MAX(d->run, vmstate_depth_deep_run(d));
        }
        break;
    case VMSTATE_DEPTH_RUN:
        d->phase = VMSTATE_DEPTH_SETTLE_ONE;
        d->deep = false;
        d->run = MIN(2 * d->run, MAX_RUN_WINDOWS * d->window);
        break;
    }
    d->bytes = 0;
    d->busy_ns = 0;
}

bool vmstate_depth_account(VmstateDepth *d, uint64_t bytes, int64_t busy_ns)
{
    bool was_deep = d->deep;

    if (d->max == 1) {
        return false;
    }
    d->bytes += bytes;
    d->busy_ns += busy_ns;
    if (d->bytes >= vmstate_depth_phase_bytes(d)) {
        vmstate_depth_next_phase(d);
    }
    return d->deep != was_deep;
}

unsigned vmstate_depth_now(const VmstateDepth *d)
{
    return d->deep ? d->max : 1;
}
