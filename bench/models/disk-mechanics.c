/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where the head of a rotating disk is, and when it gets elsewhere
 */
#include <math.h>

#include "disk-mechanics.h"

int64_t disk_transfer_time(const DiskMechanics *disk, int64_t bytes)
{
    int64_t turns = bytes / disk->track;

    return turns * disk->turn + bytes % disk->track * disk->turn / disk->track;
}

int64_t disk_bytes_within(const DiskMechanics *disk, int64_t time)
{
    int64_t turns = time / disk->turn;

    /* Rounded up, which makes it the inverse of what is rounded down above */
    return turns * disk->track +
           (time % disk->turn * disk->track + disk->turn - 1) / disk->turn;
}

/*
 * The arm gains speed for short distances, which makes the time go with the
 * root of the distance; over long ones it coasts.
 */
static int64_t arm_time(const DiskMechanics *disk, double stroke)
{
    const double third = 1.0 / 3;
    double time;

    if (stroke < third) {
        time = disk->seek_settle + (disk->seek_average - disk->seek_settle) *
                                   sqrt(stroke / third);
    } else {
        time = disk->seek_average + (disk->seek_full - disk->seek_average) *
                                    (stroke - third) / (1 - third);
    }
    return llrint(time);
}

int64_t disk_seek_time(const DiskMechanics *disk, int64_t from, int64_t to,
                       bool write)
{
    int64_t distance = from < to ? to - from : from - to;

    if (!distance || from / disk->track == to / disk->track) {
        return 0;
    }
    return arm_time(disk, (double)distance / disk->capacity) +
           (write ? disk->write_settle : 0);
}

int64_t disk_arrival_time(const DiskMechanics *disk, int64_t now, int64_t from,
                          int64_t to, bool write)
{
    int64_t there = now + disk_seek_time(disk, from, to, write);
    int64_t angle = disk_transfer_time(disk, to % disk->track);

    return there + (angle - there % disk->turn + disk->turn) % disk->turn;
}
