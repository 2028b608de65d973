/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * When a rotating disk has done what it was asked for
 *
 * Knows times only, no data, and no clock but the one that its caller tells:
 * what happens is worked out from the time of each request alone, to the
 * nanosecond, however late somebody asks.  So it can be run in virtual time,
 * and a caller that sleeps too long does not slow down the disk.
 *
 * Nothing here is thread-safe: the caller has a lock.
 */
#ifndef BENCH_DISK_MODEL_H
#define BENCH_DISK_MODEL_H

#include <sys/queue.h>

#include "disk-mechanics.h"

typedef struct DiskParameters {
    DiskMechanics mechanics;
    /* of the cable, bytes a second, and what each command costs on it */
    int64_t link_rate;
    int64_t overhead;
    /* how many commands the drive chooses from; 1: first come, first served */
    int64_t queue;
    /* a command that has waited so long is the next one */
    int64_t max_wait;
    /* bytes of the read buffer, which is divided into so many segments */
    int64_t read_cache;
    int64_t segments;
    /* what is read on after a sequential read, also when others wait */
    int64_t read_ahead_min;
    /* bytes that may wait to be written; 0: no write-back cache */
    int64_t write_cache;
} DiskParameters;

typedef enum DiskRequestKind {
    DISK_READ,
    DISK_WRITE,
    DISK_FLUSH,
} DiskRequestKind;

/* What DiskRequest.done is before it is known; what never happens */
#define DISK_UNKNOWN INT64_MAX

typedef struct DiskRequest {
    /* Set by the caller, who keeps it until @done has passed */
    DiskRequestKind kind;
    int64_t offset;
    int64_t length;
    /* of writes: on the medium before it is done */
    bool fua;

    /*
     * When it is done.  DISK_UNKNOWN until the model has got that far; once
     * known, it is in the past or the future and does not change any more.
     */
    int64_t done;

    /* The model's: when it came, and when the drive has all of it */
    int64_t arrival;
    int64_t ready;
    TAILQ_ENTRY(DiskRequest) next;
} DiskRequest;

typedef struct DiskModel DiskModel;

/*
 * Fills in what the README says of a typical disk.
 */
void disk_parameters_init(DiskParameters *parameters);

/* Sets the size of a track from speed (turns a minute) and rate (bytes/s). */
void disk_parameters_set_speed(DiskParameters *parameters, int64_t rpm,
                               int64_t rate);

/* What is wrong with @parameters, or NULL. */
const char *disk_parameters_error(const DiskParameters *parameters);

/*
 * A disk whose head is at offset 0 and whose caches are empty, or NULL without
 * memory.  disk_model_free() frees it.
 */
DiskModel *disk_model_new(const DiskParameters *parameters);
void disk_model_free(DiskModel *model);

/*
 * The request is there at time @now, which never goes back.
 */
void disk_model_submit(DiskModel *model, DiskRequest *request, int64_t now);

/* Works out all that happens up to @now. */
void disk_model_advance(DiskModel *model, int64_t now);

/*
 * When something happens that may settle what is unknown, if no request comes
 * before; DISK_UNKNOWN when nothing will.
 */
int64_t disk_model_next(const DiskModel *model);

/* Bytes that were accepted and are not on the medium yet. */
int64_t disk_model_dirty(const DiskModel *model);

#endif
