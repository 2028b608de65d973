/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where the head of a rotating disk is, and when it gets elsewhere
 *
 * Pure arithmetic: no state, no clock.  Times are nanoseconds, offsets and
 * lengths are bytes.  The data is laid out as one spiral: where a track ends
 * the next one goes on at the same angle.  That stands for the skew of a real
 * disk, whose sustained rate has the switch between tracks in it, as the one
 * here has.
 */
#ifndef BENCH_DISK_MECHANICS_H
#define BENCH_DISK_MECHANICS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct DiskMechanics {
    /* bytes from the outermost track to the innermost */
    int64_t capacity;
    /* bytes that pass the head in a turn, and how long a turn takes */
    int64_t track;
    int64_t turn;
    /* to a neighbouring track, over a third of the stroke, over all of it */
    int64_t seek_settle;
    int64_t seek_average;
    int64_t seek_full;
    /* how much longer a head that is going to write has to settle */
    int64_t write_settle;
} DiskMechanics;

/* How long @bytes take to pass the head. */
int64_t disk_transfer_time(const DiskMechanics *disk, int64_t bytes);

/*
 * How many bytes pass the head in @time, the last one in part.  Of the time
 * that @bytes take these are @bytes again, as long as a byte takes longer than
 * a nanosecond.
 */
int64_t disk_bytes_within(const DiskMechanics *disk, int64_t time);

/* How long the arm takes from offset @from to the track of @to. */
int64_t disk_seek_time(const DiskMechanics *disk, int64_t from, int64_t to,
                       bool write);

/*
 * When the byte at @to passes the head for the first time, for a head that is
 * at offset @from at time @now.
 *
 * A head that goes on where disk_transfer_time() or disk_bytes_within() say
 * that it is has less than a byte to wait: it never just misses its place.
 */
int64_t disk_arrival_time(const DiskMechanics *disk, int64_t now, int64_t from,
                          int64_t to, bool write);

#endif
