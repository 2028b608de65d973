/*
 * What snapshots can be tuned by
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "system/replay.h"
#include "snapshot-params.h"

static bool want_engines = true;
static VmstateStreamOptions options;    /* zero until they are set */

bool snapshot_use_engines(void)
{
    return want_engines && replay_mode == REPLAY_MODE_NONE;
}

const VmstateStreamOptions *snapshot_stream_options(void)
{
    return options.depth ? &options : &vmstate_stream_defaults;
}

bool snapshot_want_engines(void)
{
    return want_engines;
}

void snapshot_set_params(bool engines, const VmstateStreamOptions *wanted)
{
    want_engines = engines;
    options = *wanted;
}
