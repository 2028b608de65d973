/*
 * The VM state of a snapshot as a QEMUFile
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * All functions belong to the main loop thread with the BQL, outside
 * coroutines unless marked.
 */

#ifndef MIGRATION_SNAPSHOT_STREAM_H
#define MIGRATION_SNAPSHOT_STREAM_H

#include "block/block-common.h"
#include "block/vmstate-stream.h"
#include "qemu-file.h"

/**
 * snapshot_stream_open_output: A QEMUFile that writes VM state to @bs
 *
 * To be closed with snapshot_stream_close_output().  Never fails.
 */
QEMUFile *snapshot_stream_open_output(BlockDriverState *bs);

/**
 * snapshot_stream_close_output: End a stream of VM state
 *
 * @f: freed in any case
 * @ret: result of producing the stream; if < 0, the stream is given up
 * @size: set to the length of the stream in bytes, on success only
 *
 * On return no request is in flight.  On success the whole stream is on stable
 * storage.  Returns @ret if it is an error already (@errp is left alone then),
 * 0, or a negative value with @errp set.
 */
int snapshot_stream_close_output(QEMUFile *f, int ret, uint64_t *size,
                                 Error **errp);

/**
 * snapshot_stream_settle_output: Wait until no request is in flight
 *
 * The stream goes on.
 */
void coroutine_fn snapshot_stream_settle_output(QEMUFile *f);

/**
 * snapshot_stream_finish_output: Write and flush what is left
 *
 * What snapshot_stream_close_output() does first, in a coroutine: there it
 * yields instead of running the main loop.  Returns 0, or a negative value with
 * @errp set; the stream is still to be closed, with that value.
 */
int coroutine_fn snapshot_stream_finish_output(QEMUFile *f, Error **errp);

/**
 * snapshot_stream_drop_output: Write no more, wait for what is in flight
 *
 * What snapshot_stream_close_output() does first with a stream that is given
 * up, in a coroutine.  The stream is still to be closed, with an error.
 */
void coroutine_fn snapshot_stream_drop_output(QEMUFile *f);

/**
 * snapshot_stream_open_input: A QEMUFile that reads VM state from @bs
 *
 * @size: length of the VM state in bytes
 *
 * To be closed with qemu_fclose().  Reads nothing yet.  Never fails.
 */
QEMUFile *snapshot_stream_open_input(BlockDriverState *bs, int64_t size);

/**
 * snapshot_stream_stop: End the stream for somebody else
 *
 * Reading and finishing fail from now on, what is written is dropped.  Returns
 * at once.  Main loop thread.
 */
void snapshot_stream_stop(QEMUFile *f);

/**
 * snapshot_stream_tell: Bytes that went through the stream's channel so far
 *
 * Main loop thread, which must be the one that uses the stream.
 */
uint64_t snapshot_stream_tell(QEMUFile *f);

/**
 * snapshot_stream_get_stats: Copy the figures of the stream's engine to @stats
 *
 * Main loop thread.  Returns false if the stream does without an engine.
 */
bool snapshot_stream_get_stats(QEMUFile *f, VmstateStreamStats *stats);

/**
 * snapshot_stream_set_error: Say why producing or consuming a stream failed
 *
 * @ret: the error, as -errno
 * @what: beginning of the sentence, such as "Error while writing VM state"
 *
 * Uses what the channel reported if it reported anything, as it knows node and
 * offset; else @ret.
 */
void snapshot_stream_set_error(QEMUFile *f, int ret, const char *what,
                               Error **errp);

/**
 * snapshot_stream_is_snapshot: Is @f a snapshot, and not a migration?
 *
 * Any context.
 */
bool snapshot_stream_is_snapshot(QEMUFile *f);

/**
 * snapshot_stream_enter_section: From now on section @name is loaded from @f
 *
 * For messages.  Does nothing if @f is not a snapshot.
 */
void snapshot_stream_enter_section(QEMUFile *f, const char *name);

/**
 * snapshot_stream_set_load_error: Say where and why loading a stream failed
 *
 * @ret: the error, as -errno
 *
 * Like snapshot_stream_set_error(), with the last section that began and how
 * far its consumer got, in bytes from the start.
 */
void coroutine_mixed_fn snapshot_stream_set_load_error(QEMUFile *f, int ret,
                                                       Error **errp);

/**
 * snapshot_stream_release: Free the VM state in the active layer of @bs
 *
 * For VM state that is loaded already or not worth keeping.  No stream may be
 * open, and @bs must be drained.  A failure costs space, not data, so it is
 * reported as a warning only.
 */
void snapshot_stream_release(BlockDriverState *bs);

#endif /* MIGRATION_SNAPSHOT_STREAM_H */
