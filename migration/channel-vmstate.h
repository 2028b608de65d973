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
 * closing and the last unref belong to the main loop thread.
 */
struct QIOChannelVmstate {
    QIOChannel parent;

    /* Exactly one of the two is set until the channel is closed */
    VmstateWriter *writer;
    VmstateReader *reader;
};

/**
 * qio_channel_vmstate_new_output: Write VM state to @bs from offset 0 on
 *
 * qio_channel_close() makes the stream durable and reports the first error.
 * Dropping the last reference to an open channel aborts the stream.
 */
QIOChannelVmstate *qio_channel_vmstate_new_output(BlockDriverState *bs);

/**
 * qio_channel_vmstate_new_input: Read VM state of @bs from offset 0 on
 *
 * @size: length of the VM state in bytes, where end of file is; -1 if unknown
 */
QIOChannelVmstate *qio_channel_vmstate_new_input(BlockDriverState *bs,
                                                 int64_t size);

/**
 * qio_channel_vmstate_abort: Give up the stream and close the channel
 *
 * Waits for requests in flight.  Reading and writing fail from then on; closing
 * does nothing and succeeds.
 */
void qio_channel_vmstate_abort(QIOChannelVmstate *vioc);

#endif /* MIGRATION_CHANNEL_VMSTATE_H */
