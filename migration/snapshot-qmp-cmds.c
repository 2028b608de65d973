/*
 * QMP commands to tune snapshots
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/vmstate.h"
#include "block/vmstate-reader.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-snapshot.h"
#include "qemu/host-utils.h"
#include "qemu/units.h"
#include "snapshot-params.h"

#define CHUNK_SIZE_MIN (64 * KiB)
#define CHUNK_SIZE_MAX (64 * MiB)
#define DEPTH_MAX 64
#define READ_DEPTH_MAX 16
#define WINDOW_MIN (2 * VMSTATE_READER_MIN_REQUEST)
#define WINDOW_MAX (1 * GiB)

static bool check_params(const SnapshotParameters *p, Error **errp)
{
    if (p->has_chunk_size &&
        (p->chunk_size < CHUNK_SIZE_MIN || p->chunk_size > CHUNK_SIZE_MAX ||
         !is_power_of_2(p->chunk_size))) {
        error_setg(errp, "'chunk-size' must be a power of two from 64 KiB to "
                   "64 MiB");
        return false;
    }
    if (p->has_depth && (p->depth < 1 || p->depth > DEPTH_MAX)) {
        error_setg(errp, "'depth' must be from 1 to %d", DEPTH_MAX);
        return false;
    }
    if (p->has_read_window &&
        (p->read_window < WINDOW_MIN || p->read_window > WINDOW_MAX ||
         p->read_window % VMSTATE_READER_MIN_REQUEST)) {
        error_setg(errp, "'read-window' must be a multiple of 1 MiB from 2 MiB "
                   "to 1 GiB");
        return false;
    }
    if (p->has_read_depth &&
        (p->read_depth < 1 || p->read_depth > READ_DEPTH_MAX)) {
        error_setg(errp, "'read-depth' must be from 1 to %d", READ_DEPTH_MAX);
        return false;
    }
    if (p->has_growth_step && (p->growth_step > VMSTATE_GROWTH_STEP ||
                               p->growth_step % MiB)) {
        error_setg(errp, "'growth-step' must be a multiple of 1 MiB up to "
                   "128 MiB, or 0");
        return false;
    }
    return true;
}

void qmp_x_snapshot_set_parameters(SnapshotParameters *p, Error **errp)
{
    VmstateStreamOptions options = *snapshot_stream_options();
    bool engines = snapshot_want_engines();

    if (!check_params(p, errp)) {
        return;
    }

    if (p->has_engines) {
        engines = p->engines;
    }
    if (p->has_chunk_size) {
        options.chunk_size = p->chunk_size;
    }
    if (p->has_depth) {
        options.depth = p->depth;
    }
    if (p->has_read_window) {
        options.window = p->read_window;
    }
    if (p->has_read_depth) {
        options.read_depth = p->read_depth;
    }
    if (p->has_growth_step) {
        options.growth_step = p->growth_step;
    }
    snapshot_set_params(engines, &options);
}

SnapshotParameters *qmp_x_query_snapshot_parameters(Error **errp)
{
    const VmstateStreamOptions *now = snapshot_stream_options();
    SnapshotParameters *p = g_new0(SnapshotParameters, 1);

    p->has_engines = true;
    p->engines = snapshot_want_engines();
    p->has_chunk_size = true;
    p->chunk_size = now->chunk_size;
    p->has_depth = true;
    p->depth = now->depth;
    p->has_read_window = true;
    p->read_window = now->window;
    p->has_read_depth = true;
    p->read_depth = now->read_depth;
    p->has_growth_step = true;
    p->growth_step = now->growth_step;
    return p;
}
