/*
 * QIOChannel over the VM state of a block node
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/atomic.h"
#include "qemu/iov.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/timer.h"
#include "io/channel-watch.h"
#include "channel-vmstate.h"

/*
 * For how long a coroutine reads without giving way.  An answer of the monitor
 * takes a few rounds of the main loop, and so does a request that has ended
 * until the next one is issued.
 */
#define VMSTATE_READ_SLICE_NS (500 * SCALE_US)

QIOChannelVmstate *
qio_channel_vmstate_new_output(BlockDriverState *bs,
                               const VmstateStreamOptions *options)
{
    QIOChannelVmstate *vioc;

    vioc = QIO_CHANNEL_VMSTATE(object_new(TYPE_QIO_CHANNEL_VMSTATE));
    vioc->writer = vmstate_writer_new(bs, options);
    return vioc;
}

QIOChannelVmstate *
qio_channel_vmstate_new_input(BlockDriverState *bs, int64_t size,
                              AioContext *ctx, Object *ctx_owner,
                              const VmstateStreamOptions *options)
{
    QIOChannelVmstate *vioc;

    vioc = QIO_CHANNEL_VMSTATE(object_new(TYPE_QIO_CHANNEL_VMSTATE));
    vioc->reader = vmstate_reader_new(bs, size, ctx, options);
    vioc->size = size;
    vioc->ctx_owner = object_ref(ctx_owner);
    return vioc;
}

void coroutine_mixed_fn qio_channel_vmstate_settle(QIOChannelVmstate *vioc)
{
    if (vioc->writer) {
        vmstate_writer_settle(vioc->writer);
    }
}

int coroutine_mixed_fn qio_channel_vmstate_finish(QIOChannelVmstate *vioc,
                                                  Error **errp)
{
    return vioc->writer ? vmstate_writer_finish(vioc->writer, errp) : 0;
}

uint64_t qio_channel_vmstate_tell(QIOChannelVmstate *vioc)
{
    if (vioc->writer) {
        return vmstate_writer_bytes(vioc->writer);
    }
    return vioc->reader ? vmstate_reader_tell(vioc->reader) : 0;
}

bool qio_channel_vmstate_get_stats(QIOChannelVmstate *vioc,
                                   VmstateStreamStats *stats)
{
    if (vioc->writer) {
        vmstate_writer_get_stats(vioc->writer, stats);
    } else if (vioc->reader) {
        vmstate_reader_get_stats(vioc->reader, stats);
    } else {
        return false;
    }
    return true;
}

void qio_channel_vmstate_stop(QIOChannelVmstate *vioc)
{
    qatomic_set(&vioc->stopped, true);
    if (vioc->writer) {
        vmstate_writer_cancel(vioc->writer);
    }
}

void coroutine_mixed_fn qio_channel_vmstate_drop(QIOChannelVmstate *vioc)
{
    if (vioc->writer) {
        vmstate_writer_abort(vioc->writer);
    }
}

void qio_channel_vmstate_abort(QIOChannelVmstate *vioc)
{
    g_clear_pointer(&vioc->writer, vmstate_writer_free);
    g_clear_pointer(&vioc->reader, vmstate_reader_free);
    g_clear_pointer(&vioc->ctx_owner, object_unref);
}

static void qio_channel_vmstate_finalize(Object *obj)
{
    qio_channel_vmstate_abort(QIO_CHANNEL_VMSTATE(obj));
}

static void coroutine_fn qio_channel_vmstate_give_way(QIOChannelVmstate *vioc)
{
    int64_t now = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);

    if (now - vioc->yielded_ns < VMSTATE_READ_SLICE_NS) {
        return;
    }
    aio_co_schedule(qemu_get_current_aio_context(), qemu_coroutine_self());
    qemu_coroutine_yield();
    vioc->yielded_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
}

static ssize_t coroutine_mixed_fn
qio_channel_vmstate_readv(QIOChannel *ioc, const struct iovec *iov, size_t niov,
                          int **fds, size_t *nfds, int flags, Error **errp)
{
    QIOChannelVmstate *vioc = QIO_CHANNEL_VMSTATE(ioc);
    ssize_t ret;

    if (!vioc->reader) {
        error_setg(errp, "VM state channel is not open for reading");
        return -1;
    }
    if (qemu_in_coroutine()) {
        qio_channel_vmstate_give_way(vioc);
    }
    if (qatomic_read(&vioc->stopped)) {
        error_setg(errp, "Reading VM state was stopped");
        return -1;
    }
    ret = vmstate_reader_read(vioc->reader, iov, niov, errp);
    if (ret == 0 && iov_size(iov, niov)) {
        /* Whoever reads knows from the contents where to stop */
        error_setg(errp, "VM state ends after %" PRId64 " bytes", vioc->size);
        return -1;
    }
    return ret < 0 ? -1 : ret;
}

static ssize_t coroutine_mixed_fn
qio_channel_vmstate_writev(QIOChannel *ioc, const struct iovec *iov,
                           size_t niov, int *fds, size_t nfds, int flags,
                           Error **errp)
{
    QIOChannelVmstate *vioc = QIO_CHANNEL_VMSTATE(ioc);
    Error *err = NULL;

    if (!vioc->writer) {
        error_setg(errp, "VM state channel is not open for writing");
        return -1;
    }
    if (vmstate_writer_write(vioc->writer, iov, niov, &err) < 0 &&
        !qatomic_read(&vioc->stopped)) {
        error_propagate(errp, err);
        return -1;
    }
    /* Whoever stopped the stream knows why, so there is no need to complain */
    error_free(err);
    return iov_size(iov, niov);
}

static int qio_channel_vmstate_set_blocking(QIOChannel *ioc, bool enabled,
                                            Error **errp)
{
    if (!enabled) {
        error_setg(errp, "VM state channel cannot be non-blocking");
        return -1;
    }
    return 0;
}

static off_t coroutine_mixed_fn
qio_channel_vmstate_seek(QIOChannel *ioc, off_t offset, int whence,
                         Error **errp)
{
    QIOChannelVmstate *vioc = QIO_CHANNEL_VMSTATE(ioc);
    int64_t pos = qio_channel_vmstate_tell(vioc);

    if (!vioc->reader && !vioc->writer) {
        error_setg(errp, "VM state channel is closed");
        return -1;
    }
    if (whence == SEEK_END) {
        error_setg(errp, "VM state channel cannot seek from the end");
        return -1;
    }
    if (whence == SEEK_CUR && offset <= INT64_MAX - pos) {
        offset += pos;
    } else if (whence == SEEK_CUR) {
        offset = -1;
    }
    if (offset < 0) {
        error_setg(errp, "VM state channel cannot seek there from %" PRId64,
                   pos);
        return -1;
    }
    if (vioc->reader) {
        vmstate_reader_seek(vioc->reader, offset);
    } else if (offset != pos) {
        error_setg(errp, "VM state is written sequentially: cannot seek from "
                   "%" PRId64 " to %" PRId64, pos, (int64_t)offset);
        return -1;
    }
    return offset;
}

static int coroutine_mixed_fn qio_channel_vmstate_close(QIOChannel *ioc,
                                                        Error **errp)
{
    QIOChannelVmstate *vioc = QIO_CHANNEL_VMSTATE(ioc);
    int ret = qio_channel_vmstate_finish(vioc, errp);

    qio_channel_vmstate_abort(vioc);
    return ret < 0 ? -1 : 0;
}

static void qio_channel_vmstate_set_aio_fd_handler(QIOChannel *ioc,
                                                   AioContext *read_ctx,
                                                   IOHandler *io_read,
                                                   AioContext *write_ctx,
                                                   IOHandler *io_write,
                                                   void *opaque)
{
    /*
     * Handlers wait for a non-blocking channel to become ready.  This channel
     * never reports that it would block, so there is nothing to wait for.
     */
}

static gboolean qio_channel_vmstate_source_prepare(GSource *source,
                                                   gint *timeout)
{
    *timeout = -1;
    return true;
}

static gboolean qio_channel_vmstate_source_check(GSource *source)
{
    return true;
}

typedef struct QIOChannelVmstateSource {
    GSource parent;
    QIOChannel *ioc;
    GIOCondition condition;
} QIOChannelVmstateSource;

static gboolean qio_channel_vmstate_source_dispatch(GSource *source,
                                                    GSourceFunc callback,
                                                    gpointer user_data)
{
    QIOChannelVmstateSource *s = (QIOChannelVmstateSource *)source;

    return ((QIOChannelFunc)callback)(s->ioc, s->condition, user_data);
}

static void qio_channel_vmstate_source_finalize(GSource *source)
{
    QIOChannelVmstateSource *s = (QIOChannelVmstateSource *)source;

    object_unref(OBJECT(s->ioc));
}

static GSourceFuncs qio_channel_vmstate_source_funcs = {
    .prepare = qio_channel_vmstate_source_prepare,
    .check = qio_channel_vmstate_source_check,
    .dispatch = qio_channel_vmstate_source_dispatch,
    .finalize = qio_channel_vmstate_source_finalize,
};

/* A blocking channel is always ready */
static GSource *qio_channel_vmstate_create_watch(QIOChannel *ioc,
                                                 GIOCondition condition)
{
    GSource *source = g_source_new(&qio_channel_vmstate_source_funcs,
                                   sizeof(QIOChannelVmstateSource));
    QIOChannelVmstateSource *s = (QIOChannelVmstateSource *)source;

    s->ioc = ioc;
    object_ref(OBJECT(ioc));
    s->condition = condition;
    return source;
}

static void qio_channel_vmstate_class_init(ObjectClass *klass, void *class_data)
{
    QIOChannelClass *ioc_klass = QIO_CHANNEL_CLASS(klass);

    ioc_klass->io_writev = qio_channel_vmstate_writev;
    ioc_klass->io_readv = qio_channel_vmstate_readv;
    ioc_klass->io_set_blocking = qio_channel_vmstate_set_blocking;
    ioc_klass->io_seek = qio_channel_vmstate_seek;
    ioc_klass->io_close = qio_channel_vmstate_close;
    ioc_klass->io_set_aio_fd_handler = qio_channel_vmstate_set_aio_fd_handler;
    ioc_klass->io_create_watch = qio_channel_vmstate_create_watch;
}

static const TypeInfo qio_channel_vmstate_info = {
    .parent = TYPE_QIO_CHANNEL,
    .name = TYPE_QIO_CHANNEL_VMSTATE,
    .instance_size = sizeof(QIOChannelVmstate),
    .instance_finalize = qio_channel_vmstate_finalize,
    .class_init = qio_channel_vmstate_class_init,
};

static void qio_channel_vmstate_register_types(void)
{
    type_register_static(&qio_channel_vmstate_info);
}

type_init(qio_channel_vmstate_register_types);
