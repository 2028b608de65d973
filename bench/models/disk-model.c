/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * When a rotating disk has done what it was asked for
 *
 * There is one head, and what it does is a run: positioning, then data that
 * passes under it.  A run is firm up to what somebody waits for.  A read goes
 * on after that, into its segment of the read buffer, until the segment is full
 * or the head is needed elsewhere.  What to do next is decided whenever the
 * head is free:
 *
 *     submit --> waiting --(in a buffer, or room in one)--> done
 *                   |
 *                   +------(head comes by, quickest first)--> done
 *
 *     write-back: what is dirty, quickest first, when no command waits for
 *     the head, or when one waits for room or is a flush
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "disk-model.h"

#define MICROSECOND INT64_C(1000)
#define MILLISECOND (1000 * MICROSECOND)
#define SECOND (1000 * MILLISECOND)
#define MIB (INT64_C(1) << 20)

/* Pieces that a write-back cache can hold, and what is written at a time */
#define MAX_DIRTY 256
#define WRITE_BACK_LENGTH MIB

/* Part of the read buffer that follows a sequential reader: [start, end) */
typedef struct Segment {
    int64_t start;
    int64_t end;
    /* where the last read ended, and when */
    int64_t consumed;
    int64_t used;
} Segment;

typedef struct Extent {
    int64_t start;
    int64_t end;
} Extent;

/* What the head does.  Transfers offsets [from, until), beginning at @begin. */
typedef struct Run {
    bool active;
    /* NULL for a write */
    Segment *segment;
    int64_t begin;
    int64_t from;
    int64_t until;
    /* up to then it is not given up for something else */
    int64_t firm;
    /* of these bytes the write-back cache is rid when it ends */
    int64_t cleaned;
} Run;

struct DiskModel {
    DiskParameters parameters;

    /* What happened before is settled */
    int64_t now;
    int64_t link_free;

    /* In order of arrival */
    TAILQ_HEAD(, DiskRequest) waiting;

    /* Where the head is when no run is active */
    int64_t head;
    Run run;

    Segment *segments;

    /* The oldest first; neither overlap nor touch */
    Extent dirty[MAX_DIRTY];
    int dirty_count;
    int64_t dirty_bytes;
};

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Parameters */

void disk_parameters_set_speed(DiskParameters *parameters, int64_t rpm,
                               int64_t rate)
{
    DiskMechanics *disk = &parameters->mechanics;

    disk->turn = 60 * SECOND / rpm;
    disk->track = (double)rate * disk->turn / SECOND;
}

void disk_parameters_init(DiskParameters *parameters)
{
    *parameters = (DiskParameters) {
        .mechanics = {
            .capacity = INT64_C(1000000000000),
            .seek_settle = 1 * MILLISECOND,
            .seek_average = 8200 * MICROSECOND,
            .seek_full = 17 * MILLISECOND,
            .write_settle = 800 * MICROSECOND,
        },
        .link_rate = 550 * 1000 * 1000,
        .overhead = 10 * MICROSECOND,
        .queue = 32,
        .max_wait = SECOND,
        .read_cache = 16 * MIB,
        .segments = 8,
        .read_ahead_min = MIB / 4,
        .write_cache = 32 * MIB,
    };
    disk_parameters_set_speed(parameters, 7200, 150 * 1000 * 1000);
}

const char *disk_parameters_error(const DiskParameters *parameters)
{
    const DiskMechanics *disk = &parameters->mechanics;

    if (disk->track < 512 || disk->track >= disk->turn) {
        return "no platter turns at such a speed or has such a rate";
    }
    if (disk->capacity < disk->track) {
        return "the capacity is less than a track";
    }
    if (disk->seek_settle > disk->seek_average ||
        disk->seek_average > disk->seek_full) {
        return "a longer seek takes longer: seek-settle, seek-average, "
               "seek-full";
    }
    if (parameters->segments < 1 || parameters->queue < 1 ||
        parameters->link_rate < 1) {
        return "segments, queue and link-rate are at least 1";
    }
    if (parameters->read_cache / parameters->segments <
        parameters->read_ahead_min) {
        return "read-ahead-min is more than a segment holds";
    }
    return NULL;
}

DiskModel *disk_model_new(const DiskParameters *parameters)
{
    DiskModel *model = calloc(1, sizeof(*model));

    if (!model) {
        return NULL;
    }
    model->parameters = *parameters;
    model->segments = calloc(parameters->segments, sizeof(*model->segments));
    if (!model->segments) {
        free(model);
        return NULL;
    }
    TAILQ_INIT(&model->waiting);
    return model;
}

void disk_model_free(DiskModel *model)
{
    if (model) {
        free(model->segments);
        free(model);
    }
}

/* The cable */

static int64_t transfer_on_link(DiskModel *model, int64_t from,
                                int64_t duration)
{
    model->link_free = max64(model->link_free, from) + duration;
    return model->link_free;
}

static int64_t link_time(const DiskModel *model, int64_t bytes)
{
    return bytes * SECOND / model->parameters.link_rate;
}

/* The run */

static int64_t run_end(const DiskModel *model)
{
    const Run *run = &model->run;

    return run->begin + disk_transfer_time(&model->parameters.mechanics,
                                           run->until - run->from);
}

/* How far the run has come at @time. */
static int64_t run_position(const DiskModel *model, int64_t time)
{
    const Run *run = &model->run;
    int64_t passed = max64(time - run->begin, 0);

    return min64(run->until,
                 run->from + disk_bytes_within(&model->parameters.mechanics,
                                               passed));
}

static int64_t head_position(const DiskModel *model, int64_t time)
{
    return model->run.active ? run_position(model, time) : model->head;
}

/* Ends the run, whether or not it has got to its end. */
static void stop_run(DiskModel *model, int64_t time)
{
    Run *run = &model->run;

    if (!run->active) {
        return;
    }
    model->head = run_position(model, time);
    if (run->segment) {
        run->segment->end = model->head;
    }
    model->dirty_bytes -= run->cleaned;
    run->active = false;
}

/* When the head has the first byte of @target, if it leaves at @time. */
static int64_t arrival_time(const DiskModel *model, int64_t time,
                            int64_t target, bool write)
{
    return disk_arrival_time(&model->parameters.mechanics, time,
                             head_position(model, time), target, write);
}

/* The read buffer */

static int64_t segment_size(const DiskModel *model)
{
    return model->parameters.read_cache / model->parameters.segments;
}

/* Where the segment ends at @time, if its run is not given up before. */
static int64_t segment_end(const DiskModel *model, const Segment *segment,
                           int64_t time)
{
    return model->run.active && model->run.segment == segment ?
           run_position(model, time) : segment->end;
}

/* Older data than the size of a segment makes room for newer. */
static int64_t segment_start(const DiskModel *model, const Segment *segment,
                             int64_t end)
{
    return max64(segment->start, end - segment_size(model));
}

/* Reading ahead does not overwrite what nobody has read yet. */
static int64_t segment_limit(const DiskModel *model, const Segment *segment)
{
    return min64(segment->consumed + segment_size(model),
                 model->parameters.mechanics.capacity);
}

/* What is sure to be in a buffer, or to come by, without a decision. */
static int64_t promised_time(const DiskModel *model, int64_t time)
{
    return model->run.active ? max64(time, model->run.firm) : time;
}

/* The segment that @request begins in, or goes on from, or NULL. */
static Segment *find_segment(const DiskModel *model,
                             const DiskRequest *request, int64_t time)
{
    for (int64_t i = 0; i < model->parameters.segments; i++) {
        Segment *segment = &model->segments[i];
        int64_t end = segment_end(model, segment, time);

        if (segment->consumed && request->offset <= end &&
            request->offset >= segment_start(model, segment, end)) {
            return segment;
        }
    }
    return NULL;
}

static Segment *oldest_segment(const DiskModel *model)
{
    Segment *oldest = model->segments;

    for (int64_t i = 1; i < model->parameters.segments; i++) {
        if (model->segments[i].used < oldest->used) {
            oldest = &model->segments[i];
        }
    }
    return oldest;
}

static Segment *newest_segment(const DiskModel *model)
{
    Segment *newest = model->segments;

    for (int64_t i = 1; i < model->parameters.segments; i++) {
        if (model->segments[i].used > newest->used) {
            newest = &model->segments[i];
        }
    }
    return newest;
}

static void consume(DiskModel *model, Segment *segment,
                    const DiskRequest *request, int64_t time)
{
    segment->consumed = max64(segment->consumed,
                              request->offset + request->length);
    segment->used = time;
    if (model->run.active && model->run.segment == segment) {
        model->run.until = max64(model->run.until,
                                 segment_limit(model, segment));
    }
}

/* The write-back cache */

static bool touches(const Extent *a, const Extent *b)
{
    return a->start <= b->end && b->start <= a->end;
}

static Extent request_extent(const DiskRequest *request)
{
    return (Extent) { request->offset, request->offset + request->length };
}

static void remove_dirty(DiskModel *model, int index)
{
    model->dirty_count--;
    memmove(&model->dirty[index], &model->dirty[index + 1],
            (model->dirty_count - index) * sizeof(model->dirty[0]));
}

/*
 * Those that the new one touches become part of it, and it takes the place of
 * the oldest of them.
 */
static void add_dirty(DiskModel *model, Extent extent)
{
    int place = -1;

    for (int i = 0; i < model->dirty_count;) {
        Extent *other = &model->dirty[i];

        if (!touches(other, &extent)) {
            i++;
            continue;
        }
        model->dirty_bytes -= other->end - other->start;
        extent.start = min64(extent.start, other->start);
        extent.end = max64(extent.end, other->end);
        if (place < 0) {
            place = i++;
        } else {
            remove_dirty(model, i);
        }
    }
    if (place < 0) {
        assert(model->dirty_count < MAX_DIRTY);
        place = model->dirty_count++;
    }
    model->dirty[place] = extent;
    model->dirty_bytes += extent.end - extent.start;
}

static bool has_room(const DiskModel *model, const DiskRequest *request)
{
    return model->dirty_count < MAX_DIRTY &&
           model->dirty_bytes + request->length <=
           model->parameters.write_cache;
}

/* Waits for the head, not for room. */
static bool is_direct(const DiskModel *model, const DiskRequest *request)
{
    return request->kind == DISK_READ ||
           (request->kind == DISK_WRITE &&
            (request->fua ||
             request->length > model->parameters.write_cache / 2));
}

static bool contains(const Extent *extent, const DiskRequest *request)
{
    return extent->start <= request->offset &&
           extent->end >= request->offset + request->length;
}

/* In the write-back cache, and be it on its way to the medium. */
static bool is_cached_write(const DiskModel *model, const DiskRequest *request)
{
    const Run *run = &model->run;
    Extent cleaned = { run->from, run->until };

    if (run->active && run->cleaned && contains(&cleaned, request)) {
        return true;
    }
    for (int i = 0; i < model->dirty_count; i++) {
        if (contains(&model->dirty[i], request)) {
            return true;
        }
    }
    return false;
}

/* Commands that do not need the head */

static bool try_read(DiskModel *model, DiskRequest *request, int64_t time)
{
    int64_t end = request->offset + request->length;
    int64_t promised = promised_time(model, max64(time, request->ready));
    Segment *segment;

    if (is_cached_write(model, request)) {
        request->done = transfer_on_link(model, max64(time, request->ready),
                                         link_time(model, request->length));
        return true;
    }
    segment = find_segment(model, request, promised);
    if (!segment || end > segment_end(model, segment, promised)) {
        return false;
    }
    request->done = transfer_on_link(model, max64(time, request->ready),
                                     link_time(model, request->length));
    if (model->run.active && model->run.segment == segment &&
        end > model->run.from) {
        int64_t passes = model->run.begin +
            disk_transfer_time(&model->parameters.mechanics,
                               end - model->run.from);

        request->done = max64(request->done, passes);
    }
    consume(model, segment, request, time);
    return true;
}

static bool try_write(DiskModel *model, DiskRequest *request, int64_t time)
{
    if (is_direct(model, request) || !has_room(model, request)) {
        return false;
    }
    add_dirty(model, request_extent(request));
    request->done = max64(time, request->ready);
    return true;
}

/* Only the first command can be a flush that is done. */
static bool try_flush(DiskModel *model, DiskRequest *request, int64_t time)
{
    if (request != TAILQ_FIRST(&model->waiting) || model->dirty_bytes) {
        return false;
    }
    request->done = max64(time, request->ready);
    return true;
}

static bool try_without_head(DiskModel *model, DiskRequest *request,
                             int64_t time)
{
    switch (request->kind) {
    case DISK_READ:
        return try_read(model, request, time);
    case DISK_WRITE:
        return try_write(model, request, time);
    case DISK_FLUSH:
        return try_flush(model, request, time);
    }
    abort();
}

/*
 * Nothing overtakes a flush, which in ATA is a command that stands alone, and
 * no write overtakes one that waits for room.
 */
static void serve_from_buffers(DiskModel *model, int64_t time)
{
    DiskRequest *request = TAILQ_FIRST(&model->waiting);
    bool full = false;

    while (request) {
        DiskRequest *next = TAILQ_NEXT(request, next);
        bool needs_room = request->kind == DISK_WRITE &&
                          !is_direct(model, request);

        if (full && needs_room) {
            /* stays where it is */
        } else if (try_without_head(model, request, time)) {
            TAILQ_REMOVE(&model->waiting, request, next);
        } else if (request->kind == DISK_FLUSH) {
            return;
        } else if (needs_room) {
            full = true;
        }
        request = next;
    }
}

/* What the head does next */

typedef struct Choice {
    DiskRequest *request;
    /* when no request, of dirty[] */
    int extent;
    int64_t arrival;
} Choice;

static int64_t request_target(const DiskModel *model,
                              const DiskRequest *request, int64_t time)
{
    Segment *segment = request->kind == DISK_READ ?
                       find_segment(model, request, time) : NULL;

    return segment ? segment_end(model, segment, time) : request->offset;
}

static int64_t request_arrival(const DiskModel *model,
                               const DiskRequest *request, int64_t time)
{
    int64_t leave = max64(time, request->ready);

    return arrival_time(model, leave, request_target(model, request, leave),
                        request->kind == DISK_WRITE);
}

/*
 * The quickest to reach of the commands the drive knows, unless one has waited
 * for too long.  Returns whether one of the others waits for the write-back
 * cache to be emptied.
 */
static bool choose_request(const DiskModel *model, int64_t time,
                           Choice *choice)
{
    int64_t seen = 0;
    DiskRequest *request;

    TAILQ_FOREACH(request, &model->waiting, next) {
        int64_t arrival;

        if (request->kind == DISK_FLUSH) {
            return true;
        }
        if (seen++ == model->parameters.queue) {
            break;
        }
        if (!is_direct(model, request)) {
            return true;
        }
        if (time - request->arrival > model->parameters.max_wait) {
            *choice = (Choice) { .request = request };
            return false;
        }
        arrival = request_arrival(model, request, time);
        if (arrival < choice->arrival) {
            *choice = (Choice) { .request = request, .arrival = arrival };
        }
    }
    return false;
}

static void choose_extent(const DiskModel *model, int64_t time,
                          Choice *choice)
{
    int count = min64(model->dirty_count, model->parameters.queue);

    for (int i = 0; i < count; i++) {
        int64_t arrival = arrival_time(model, time, model->dirty[i].start,
                                       true);

        if (arrival < choice->arrival) {
            *choice = (Choice) { .extent = i, .arrival = arrival };
        }
    }
}

static void start_read(DiskModel *model, DiskRequest *request, int64_t time)
{
    const DiskMechanics *disk = &model->parameters.mechanics;
    int64_t end = request->offset + request->length;
    Segment *segment = find_segment(model, request, time);
    int64_t ahead = end + (segment ? model->parameters.read_ahead_min : 0);
    int64_t target = request_target(model, request, time);
    int64_t begin = arrival_time(model, time, target, false);

    stop_run(model, time);
    if (!segment) {
        segment = oldest_segment(model);
        *segment = (Segment) { .start = target, .end = target };
    }
    request->done = begin + disk_transfer_time(disk, end - target);
    consume(model, segment, request, time);
    model->run = (Run) {
        .active = true,
        .segment = segment,
        .begin = begin,
        .from = target,
        .until = max64(end, segment_limit(model, segment)),
    };
    model->run.firm = begin +
        disk_transfer_time(disk, min64(ahead, model->run.until) - target);
}

static void start_write(DiskModel *model, Extent extent, int64_t time,
                        int64_t cleaned)
{
    int64_t begin = arrival_time(model, time, extent.start, true);

    stop_run(model, time);
    model->run = (Run) {
        .active = true,
        .begin = begin,
        .from = extent.start,
        .until = extent.end,
        .cleaned = cleaned,
    };
    model->run.firm = run_end(model);
}

static void start_write_back(DiskModel *model, int index, int64_t time)
{
    Extent *dirty = &model->dirty[index];
    Extent extent = {
        dirty->start, min64(dirty->end, dirty->start + WRITE_BACK_LENGTH)
    };

    dirty->start = extent.end;
    if (dirty->start == dirty->end) {
        remove_dirty(model, index);
    }
    start_write(model, extent, time, extent.end - extent.start);
}

static void start_request(DiskModel *model, DiskRequest *request, int64_t time)
{
    int64_t leave = max64(time, request->ready);

    TAILQ_REMOVE(&model->waiting, request, next);
    if (request->kind == DISK_READ) {
        start_read(model, request, leave);
    } else {
        start_write(model, request_extent(request), leave, 0);
        request->done = model->run.firm;
    }
}

/* Fills the segment that was used last, once half of it has been read. */
static void resume_read_ahead(DiskModel *model, int64_t time)
{
    Segment *segment = newest_segment(model);
    int64_t limit = segment_limit(model, segment);

    if (!segment->consumed || limit - segment->end < segment_size(model) / 2) {
        return;
    }
    model->run = (Run) {
        .active = true,
        .segment = segment,
        .begin = arrival_time(model, time, segment->end, false),
        .from = segment->end,
        .until = limit,
        .firm = time,
    };
}

/* The head is free, or reads ahead without anybody waiting for it. */
static void decide(DiskModel *model, int64_t time)
{
    Choice choice = { .arrival = DISK_UNKNOWN };
    bool pressing = choose_request(model, time, &choice);

    if (pressing || (!choice.request && !model->run.active)) {
        choose_extent(model, time, &choice);
    }
    if (choice.request) {
        start_request(model, choice.request, time);
    } else if (choice.arrival != DISK_UNKNOWN) {
        start_write_back(model, choice.extent, time);
    } else if (!model->run.active) {
        resume_read_ahead(model, time);
    }
}

/* Time */

int64_t disk_model_next(const DiskModel *model)
{
    if (!model->run.active) {
        return DISK_UNKNOWN;
    }
    return !TAILQ_EMPTY(&model->waiting) && model->run.firm > model->now ?
           model->run.firm : run_end(model);
}

void disk_model_advance(DiskModel *model, int64_t now)
{
    int64_t time;

    while ((time = disk_model_next(model)) <= now) {
        model->now = time;
        if (time >= run_end(model)) {
            stop_run(model, time);
        }
        serve_from_buffers(model, time);
        decide(model, time);
    }
    model->now = max64(model->now, now);
}

void disk_model_submit(DiskModel *model, DiskRequest *request, int64_t now)
{
    int64_t duration = model->parameters.overhead;

    disk_model_advance(model, now);
    if (request->kind == DISK_WRITE) {
        duration += link_time(model, request->length);
    }
    request->arrival = now;
    request->ready = transfer_on_link(model, now, duration);
    request->done = DISK_UNKNOWN;
    TAILQ_INSERT_TAIL(&model->waiting, request, next);
    serve_from_buffers(model, now);
    if (!model->run.active || model->run.firm <= now) {
        decide(model, now);
    }
}

int64_t disk_model_dirty(const DiskModel *model)
{
    return model->dirty_bytes;
}
