/*
 * QIOChannel over the VM state of a block node
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_CHANNEL_VMSTATE_H
#define MIGRATION_CHANNEL_VMSTATE_H

#include "io/channel.h"
#include "block/vmstate-reader.h"
#include "block/vmstate-writer.h"
#include "qom/object.h"

#define TYPE_QIO_CHANNEL_VMSTATE "qio-channel-vmstate"
OBJECT_DECLARE_SIMPLE_TYPE(QIOChannelVmstate, QIO_CHANNEL_VMSTATE)

/**
 * QIOChannelVmstate:
 *
 * Either writes or reads, sequentially, through the VM state stream engines.
 * It replaces QIOChannelBlock for snapshots; the bytes stored are the same.
 *
 * Blocking only.  Who may use it, and how waiting is done, is that of the
 * engine: see block/vmstate-writer.h and block/vmstate-reader.h.  Creation,
 * closing and the last unref belong to the main loop thread, outside
 * coroutines.
 *
 * A coroutine that reads gives way to others every half millisecond, so
 * that the monitor answers although data is always there.
 */
struct QIOChannelVmstate {
    QIOChannel parent;

    /* Exactly one of the two is set until the channel is closed */
    VmstateWriter *writer;
    VmstateReader *reader;

    bool stopped;           /* atomic: reading fails from now on */
    int64_t yielded_ns;     /* reader only: when others last could run */
    int64_t size;           /* reader only: of the VM state, or -1 */
    Object *ctx_owner;      /* reader only: keeps its AioContext; may be NULL */
};

/**
 * qio_channel_vmstate_new_output: Write VM state to @bs from offset 0 on
 *
 * @options: copied; NULL for the defaults
 *
 * qio_channel_close() makes the stream durable and reports the first error.
 * Dropping the last reference to an open channel aborts the stream.
 */
QIOChannelVmstate *
qio_channel_vmstate_new_output(BlockDriverState *bs,
                               const VmstateStreamOptions *options);

/**
 * qio_channel_vmstate_new_input: Read VM state of @bs from offset 0 on
 *
 * @size: length of the VM state in bytes, behind which reading fails; -1 if
 *        unknown
 * @ctx: runs the requests; NULL for the AioContext that @bs has now
 * @ctx_owner: @ctx lives as long as this, and this as long as the stream: the
 *             channel takes a reference.  NULL if @ctx stays anyway.
 * @options: copied; NULL for the defaults
 */
QIOChannelVmstate *
qio_channel_vmstate_new_input(BlockDriverState *bs, int64_t size,
                              AioContext *ctx, Object *ctx_owner,
                              const VmstateStreamOptions *options);

/**
 * qio_channel_vmstate_settle: Wait until no request of a writer is in flight
 */
void coroutine_mixed_fn qio_channel_vmstate_settle(QIOChannelVmstate *vioc);

/**
 * qio_channel_vmstate_finish: Make durable what was written
 *
 * What closing the channel does first; for a caller in a coroutine, which must
 * not close it.  Returns 0, or -errno with @errp set.
 */
int coroutine_mixed_fn qio_channel_vmstate_finish(QIOChannelVmstate *vioc,
                                                  Error **errp);

/**
 * qio_channel_vmstate_tell: Bytes of the stream written or read so far
 *
 * The thread that uses the channel.  0 if it is closed.
 */
uint64_t qio_channel_vmstate_tell(QIOChannelVmstate *vioc);

/**
 * qio_channel_vmstate_get_stats: Copy the figures of the stream to @stats
 *
 * Main loop thread.  Returns false if the channel is closed.
 */
bool qio_channel_vmstate_get_stats(QIOChannelVmstate *vioc,
                                   VmstateStreamStats *stats);

/**
 * qio_channel_vmstate_stop: End the stream for somebody else
 *
 * Reading and finishing fail from now on.  What is written is dropped, and a
 * writer that waits for storage goes on: he is expected to look whether he
 * should stop.  Returns at once.
 *
 * This is not qio_channel_shutdown(): the migration core takes a channel that
 * has that for one that it registered with yank.
 *
 * Main loop thread, while the channel is open.
 */
void qio_channel_vmstate_stop(QIOChannelVmstate *vioc);

/**
 * qio_channel_vmstate_drop: Wait until no request is in flight, write no more
 *
 * What qio_channel_vmstate_abort() does first; for a caller in a coroutine,
 * which must not close the channel.
 */
void coroutine_mixed_fn qio_channel_vmstate_drop(QIOChannelVmstate *vioc);

/**
 * qio_channel_vmstate_abort: Give up the stream and close the channel
 *
 * Waits for requests in flight.  Reading and writing fail from then on; closing
 * does nothing and succeeds.
 */
void qio_channel_vmstate_abort(QIOChannelVmstate *vioc);

#endif /* MIGRATION_CHANNEL_VMSTATE_H */
