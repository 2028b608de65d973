/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Real time for models of storage, in nanoseconds of CLOCK_MONOTONIC
 *
 * Any thread may call these.
 */
#ifndef BENCH_DEVICE_CLOCK_H
#define BENCH_DEVICE_CLOCK_H

#include <stdint.h>

int64_t device_clock_now(void);

/* Returns at once when @time has passed. */
void device_clock_sleep_until(int64_t time);

/*
 * Turns 8.2ms, 20us or 1s into nanoseconds.  Returns -1, and leaves *time
 * alone, when @text is nothing of the kind.
 */
int device_clock_parse(const char *text, int64_t *time);

#endif
