/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Real time for models of storage, in nanoseconds of CLOCK_MONOTONIC
 */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "device-clock.h"

#define SECOND INT64_C(1000000000)

/* Eleven days */
#define LONGEST (1e6 * SECOND)

int64_t device_clock_now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * SECOND + time.tv_nsec;
}

/* The kernel's own slack, 50 us, is longer than some requests take. */
static void be_punctual(void)
{
    static __thread bool is_punctual;

    if (!is_punctual) {
        prctl(PR_SET_TIMERSLACK, 1);
        is_punctual = true;
    }
}

void device_clock_sleep_until(int64_t time)
{
    struct timespec until = { time / SECOND, time % SECOND };

    be_punctual();
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) ==
           EINTR) {
        continue;
    }
}

int device_clock_parse(const char *text, int64_t *time)
{
    static const struct {
        const char *suffix;
        double nanoseconds;
    } units[] = { { "us", 1e3 }, { "ms", 1e6 }, { "s", 1e9 } };
    char *end;
    double number = strtod(text, &end);

    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        double value = number * units[i].nanoseconds;

        if (end != text && !strcmp(end, units[i].suffix) &&
            value >= 0 && value < LONGEST) {
            *time = llrint(value);
            return 0;
        }
    }
    return -1;
}
