/*
 * What snapshots can be tuned by
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Main loop thread with the BQL.
 */

#ifndef MIGRATION_SNAPSHOT_PARAMS_H
#define MIGRATION_SNAPSHOT_PARAMS_H

#include "block/vmstate-stream.h"

/**
 * snapshot_use_engines: Shall VM state go through the stream engines?
 *
 * Not if the user does not want it, and not with record/replay, which depends
 * on the order of events in the main loop.
 */
bool snapshot_use_engines(void);

/**
 * snapshot_want_engines: Does the user want the engines?
 */
bool snapshot_want_engines(void);

/**
 * snapshot_set_params: Set what the user wants, from the next operation on
 */
void snapshot_set_params(bool engines, const VmstateStreamOptions *options);

/**
 * snapshot_stream_options: Options for the streams that are opened now
 */
const VmstateStreamOptions *snapshot_stream_options(void);

#endif /* MIGRATION_SNAPSHOT_PARAMS_H */
