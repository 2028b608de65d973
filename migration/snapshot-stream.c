/*
 * The VM state of a snapshot as a QEMUFile
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "block/vmstate.h"
#include "system/replay.h"
#include "channel-block.h"
#include "channel-vmstate.h"
#include "snapshot-stream.h"

/*
 * Record/replay depends on the order of events in the main loop, so it keeps
 * the channel that does one request after the other.
 */
static bool snapshot_stream_use_engines(void)
{
    return replay_mode == REPLAY_MODE_NONE;
}

QEMUFile *snapshot_stream_open_output(BlockDriverState *bs)
{
    g_autoptr(QIOChannel) ioc = NULL;

    if (snapshot_stream_use_engines()) {
        ioc = QIO_CHANNEL(qio_channel_vmstate_new_output(bs));
    } else {
        ioc = QIO_CHANNEL(qio_channel_block_new(bs));
    }
    qio_channel_set_name(ioc, "snapshot-save");
    return qemu_file_new_output(ioc);
}

QEMUFile *snapshot_stream_open_input(BlockDriverState *bs, int64_t size)
{
    g_autoptr(QIOChannel) ioc = NULL;

    if (snapshot_stream_use_engines()) {
        ioc = QIO_CHANNEL(qio_channel_vmstate_new_input(bs, size));
    } else {
        ioc = QIO_CHANNEL(qio_channel_block_new(bs));
    }
    qio_channel_set_name(ioc, "snapshot-load");
    return qemu_file_new_input(ioc);
}

void snapshot_stream_set_error(QEMUFile *f, int ret, const char *what,
                               Error **errp)
{
    Error *err = NULL;

    if (qemu_file_get_error_obj(f, &err) < 0) {
        error_propagate_prepend(errp, err, "%s: ", what);
    } else {
        error_setg_errno(errp, -ret, "%s", what);
    }
}

/* Nothing more is worth writing.  Closing then finds the stream ended. */
static int snapshot_stream_abort(QEMUFile *f, int ret)
{
    QIOChannel *ioc = qemu_file_get_ioc(f);

    qemu_file_set_error(f, ret);
    if (object_dynamic_cast(OBJECT(ioc), TYPE_QIO_CHANNEL_VMSTATE)) {
        qio_channel_vmstate_abort(QIO_CHANNEL_VMSTATE(ioc));
    }
    qemu_fclose(f);
    return ret;
}

int snapshot_stream_close_output(QEMUFile *f, int ret, uint64_t *size,
                                 Error **errp)
{
    ERRP_GUARD();
    QIOChannel *ioc = qemu_file_get_ioc(f);

    if (ret < 0) {
        return snapshot_stream_abort(f, ret);
    }

    ret = qemu_fflush(f);
    if (ret < 0) {
        snapshot_stream_set_error(f, ret, "Error while writing VM state", errp);
        return snapshot_stream_abort(f, ret);
    }
    *size = qio_channel_io_seek(ioc, 0, SEEK_CUR, &error_abort);

    /* qemu_fclose() drops the reason of a failure, so close before it does */
    if (object_dynamic_cast(OBJECT(ioc), TYPE_QIO_CHANNEL_VMSTATE) &&
        qio_channel_close(ioc, errp) < 0) {
        error_prepend(errp, "Error while writing VM state: ");
        qemu_fclose(f);
        return -EIO;
    }

    ret = qemu_fclose(f);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Error while closing VM state");
    }
    return MIN(ret, 0);
}

void snapshot_stream_release(BlockDriverState *bs)
{
    Error *err = NULL;

    if (bdrv_vmstate_release(bs, &err) < 0) {
        warn_report_err(err);
    }
}
