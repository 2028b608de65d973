/*
 * The VM state of a snapshot as a QEMUFile
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/units.h"
#include "block/vmstate.h"
#include "system/iothread.h"
#include "channel-block.h"
#include "channel-vmstate.h"
#include "snapshot-params.h"
#include "snapshot-stream.h"

/* Size of a QEMUFile's own buffer */
#define SNAPSHOT_FILE_BUFFER (32 * KiB)

/*
 * The section of the stream that is being loaded, NULL before the first one.
 * There is one such stream at a time, and the main loop's thread loads it.
 */
static char *snapshot_stream_section;

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

/* NULL if reading can do without one, or there is none to be had */
static IOThread *snapshot_stream_new_thread(BlockDriverState *bs)
{
    Error *err = NULL;
    IOThread *thread;
    bool wanted;

    bdrv_graph_rdlock_main_loop();
    wanted = bdrv_vmstate_wants_thread(bs);
    bdrv_graph_rdunlock_main_loop();
    if (!wanted) {
        return NULL;
    }
    thread = iothread_create("vmstate", &err);
    if (!thread) {
        warn_reportf_err(err, "Reading VM state without a thread of its own: ");
    }
    return thread;
}

static QIOChannelVmstate *snapshot_stream_new_input(BlockDriverState *bs,
                                                    int64_t size)
{
    IOThread *thread = snapshot_stream_new_thread(bs);
    AioContext *ctx = thread ? iothread_get_aio_context(thread) : NULL;
    QIOChannelVmstate *vioc;

    vioc = qio_channel_vmstate_new_input(bs, size, ctx, OBJECT(thread),
                                         snapshot_stream_options());
    if (thread) {
        /* It ends with the channel, which is its only user */
        iothread_destroy(thread);
    }
    return vioc;
}

QEMUFile *snapshot_stream_open_input(BlockDriverState *bs, int64_t size)
{
    g_autoptr(QIOChannel) ioc = NULL;

    if (snapshot_use_engines()) {
        ioc = QIO_CHANNEL(snapshot_stream_new_input(bs, size));
    } else {
        ioc = QIO_CHANNEL(qio_channel_block_new(bs));
    }
    qio_channel_set_name(ioc, "snapshot-load");
    g_clear_pointer(&snapshot_stream_section, g_free);
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

bool snapshot_stream_is_snapshot(QEMUFile *f)
{
    Object *ioc = OBJECT(qemu_file_get_ioc(f));

    return object_dynamic_cast(ioc, TYPE_QIO_CHANNEL_VMSTATE) ||
           object_dynamic_cast(ioc, TYPE_QIO_CHANNEL_BLOCK);
}

void snapshot_stream_enter_section(QEMUFile *f, const char *name)
{
    if (!snapshot_stream_is_snapshot(f)) {
        return;
    }
    g_free(snapshot_stream_section);
    /* If the stream is damaged, the name may be anything */
    snapshot_stream_section = g_strescape(name, NULL);
}

/* Bytes that were taken out of a stream that has failed */
static uint64_t coroutine_mixed_fn snapshot_stream_consumed(QEMUFile *f)
{
    uint64_t pos = qio_channel_io_seek(qemu_file_get_ioc(f), 0, SEEK_CUR,
                                       &error_abort);
    uint8_t *buf;

    /* As it has failed, this does not read more into the buffer */
    return pos - qemu_peek_buffer(f, &buf, SNAPSHOT_FILE_BUFFER, 0);
}

void coroutine_mixed_fn snapshot_stream_set_load_error(QEMUFile *f, int ret,
                                                       Error **errp)
{
    g_autofree char *what = NULL;
    Error *err = NULL;
    bool known = qemu_file_get_error_obj(f, &err) < 0;

    qemu_file_set_error(f, ret);
    what = g_strdup_printf("Error while loading VM state, section '%s', "
                           "offset %" PRIu64,
                           snapshot_stream_section ?: "header",
                           snapshot_stream_consumed(f));
    if (known) {
        error_propagate_prepend(errp, err, "%s: ", what);
    } else {
        error_setg_errno(errp, -ret, "%s", what);
    }
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

/* Make durable what was written, and tell why that fails */
static int snapshot_stream_flush(QEMUFile *f, Error **errp)
{
    QIOChannel *ioc = qemu_file_get_ioc(f);
    BlockDriverState *bs;
    int ret;

    if (snapshot_stream_get_channel(f)) {
        return qio_channel_close(ioc, errp) < 0 ? -EIO : 0;
    }
    /* QIOChannelBlock must not be closed twice, which qemu_fclose() would do */
    bs = QIO_CHANNEL_BLOCK(ioc)->bs;
    ret = bdrv_flush(bs);
    if (ret < 0) {
        GRAPH_RDLOCK_GUARD_MAINLOOP();
        error_setg_errno(errp, -ret, "Could not flush node '%s'",
                         bdrv_get_device_or_node_name(bs));
    }
    return ret;
}

int snapshot_stream_close_output(QEMUFile *f, int ret, uint64_t *size,
                                 Error **errp)
{
    ERRP_GUARD();

    if (ret < 0) {
        return snapshot_stream_abort(f, ret);
    }

    ret = qemu_fflush(f);
    if (ret < 0) {
        snapshot_stream_set_error(f, ret, "Error while writing VM state", errp);
        return snapshot_stream_abort(f, ret);
    }
    *size = qio_channel_io_seek(qemu_file_get_ioc(f), 0, SEEK_CUR,
                                &error_abort);

    /* Before qemu_fclose() does, which drops the reason of a failure */
    ret = snapshot_stream_flush(f, errp);
    if (ret < 0) {
        error_prepend(errp, "Error while writing VM state: ");
        qemu_fclose(f);
        return ret;
    }
    if (qemu_fclose(f) < 0) {
        error_setg(errp, "Error while closing VM state");
        return -EIO;
    }
    return 0;
}

void snapshot_stream_release(BlockDriverState *bs)
{
    Error *err = NULL;

    if (bdrv_vmstate_release(bs, &err) < 0) {
        warn_report_err(err);
    }
}
