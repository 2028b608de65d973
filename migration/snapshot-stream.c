/*
 * The VM state of a snapshot as a QEMUFile
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "block/vmstate.h"
#include "channel-block.h"
#include "channel-vmstate.h"
#include "snapshot-params.h"
#include "snapshot-stream.h"

QEMUFile *snapshot_stream_open_output(BlockDriverState *bs)
{
    g_autoptr(QIOChannel) ioc = NULL;

    if (snapshot_use_engines()) {
        ioc = QIO_CHANNEL(qio_channel_vmstate_new_output(
            bs, snapshot_stream_options()));
    } else {
        ioc = QIO_CHANNEL(qio_channel_block_new(bs));
    }
    qio_channel_set_name(ioc, "snapshot-save");
    return qemu_file_new_output(ioc);
}

QEMUFile *snapshot_stream_open_input(BlockDriverState *bs, int64_t size)
{
    g_autoptr(QIOChannel) ioc = NULL;

    if (snapshot_use_engines()) {
        ioc = QIO_CHANNEL(qio_channel_vmstate_new_input(
            bs, size, snapshot_stream_options()));
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

/* NULL if the stream does without the engines */
static QIOChannelVmstate *snapshot_stream_get_channel(QEMUFile *f)
{
    QIOChannel *ioc = qemu_file_get_ioc(f);

    return (QIOChannelVmstate *)object_dynamic_cast(OBJECT(ioc),
                                                    TYPE_QIO_CHANNEL_VMSTATE);
}

void snapshot_stream_stop(QEMUFile *f)
{
    QIOChannelVmstate *vioc = snapshot_stream_get_channel(f);

    if (vioc) {
        qio_channel_vmstate_stop(vioc);
    }
}

uint64_t snapshot_stream_tell(QEMUFile *f)
{
    QIOChannelVmstate *vioc = snapshot_stream_get_channel(f);

    return vioc ? qio_channel_vmstate_tell(vioc) : 0;
}

bool snapshot_stream_get_stats(QEMUFile *f, VmstateStreamStats *stats)
{
    QIOChannelVmstate *vioc = snapshot_stream_get_channel(f);

    return vioc && qio_channel_vmstate_get_stats(vioc, stats);
}

/* Nothing more is worth writing.  Closing then finds the stream ended. */
static int snapshot_stream_abort(QEMUFile *f, int ret)
{
    QIOChannelVmstate *vioc = snapshot_stream_get_channel(f);

    qemu_file_set_error(f, ret);
    if (vioc) {
        qio_channel_vmstate_abort(vioc);
    }
    qemu_fclose(f);
    return ret;
}

void coroutine_fn snapshot_stream_settle_output(QEMUFile *f)
{
    QIOChannelVmstate *vioc = snapshot_stream_get_channel(f);

    if (vioc) {
        qio_channel_vmstate_settle(vioc);
    }
}

int coroutine_fn snapshot_stream_finish_output(QEMUFile *f, Error **errp)
{
    ERRP_GUARD();
    QIOChannelVmstate *vioc = snapshot_stream_get_channel(f);
    int ret = qemu_fflush(f);

    if (ret < 0) {
        snapshot_stream_set_error(f, ret, "Error while writing VM state", errp);
    } else if (vioc) {
        ret = qio_channel_vmstate_finish(vioc, errp);
        if (ret < 0) {
            error_prepend(errp, "Error while writing VM state: ");
        }
    }
    return ret;
}

void coroutine_fn snapshot_stream_drop_output(QEMUFile *f)
{
    QIOChannelVmstate *vioc = snapshot_stream_get_channel(f);

    if (vioc) {
        qio_channel_vmstate_drop(vioc);
    }
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
