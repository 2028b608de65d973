/*
 * VM state reader: sequential read-ahead over a node's VM state
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A window of a few megabytes is filled by one request at a time, so that a
 * rotating disk sees one sequential reader.  The completion of a request starts
 * the next one as long as the window has room; the consumer need not ask.
 * Requests begin at VMSTATE_READER_MIN_REQUEST bytes and double up to half the
 * window: while one half is consumed the other half is read.
 *
 * Every now and then several smaller requests at a time are tried.  Where they
 * turn out to be faster, because it is their way to the storage that takes the
 * time, reading goes on like that until the next try.
 *
 * Threads.  One party at a time, the consumer, calls the functions below, in
 * the same three settings as the producer of a VmstateWriter: the main loop or
 * the IOThread that requests run in, outside coroutines; a coroutine; or
 * another thread without the BQL.  Requests run in the AioContext that the
 * reader was given, so that data can arrive while the consumer is busy; the
 * drivers below must cope with that if it is not the node's.  No lock is held
 * on entry; the node may be drained.  Draining waits for read-ahead to come to
 * rest.
 *
 * Errors.  A request that fails ahead of the consumer is no error yet.  When
 * the consumer gets to the range of such a request, that range is read again,
 * piece by piece as the consumer asks for it, and only a piece that then fails
 * is reported.  A reported error leaves the reader usable: the same bytes can
 * be asked for again, or skipped by a seek.
 */

#ifndef BLOCK_VMSTATE_READER_H
#define BLOCK_VMSTATE_READER_H

#include "block/block.h"
#include "block/vmstate-stream.h"

/* Bytes of VM state held ahead of the consumer, at most, by default */
#define VMSTATE_READER_WINDOW (10 * MiB)

/* Requests in flight at one time, at most, by default */
#define VMSTATE_READER_DEPTH 8

/* Size of the first read-ahead request of a stream and after a seek */
#define VMSTATE_READER_MIN_REQUEST (1 * MiB)

typedef struct VmstateReader VmstateReader;

/**
 * vmstate_reader_new: Start a stream at VM state offset 0 of @bs
 *
 * @size: length of the VM state in bytes, or -1 if unknown.  At or beyond it
 *        the reader reports end of stream and reads nothing from the node.
 * @ctx: runs the requests; has to stay until vmstate_reader_free().  NULL for
 *       the AioContext that @bs has now.
 * @options: copied; NULL for the defaults
 *
 * Takes a reference to @bs, which vmstate_reader_free() drops.  The first
 * vmstate_reader_read() allocates the window and starts reading, not this
 * function: the caller may still reset the machine, which drains.
 *
 * Main loop thread, with the BQL, not in a coroutine.  Never fails.
 */
VmstateReader *vmstate_reader_new(BlockDriverState *bs, int64_t size,
                                  AioContext *ctx,
                                  const VmstateStreamOptions *options);

/**
 * vmstate_reader_read: Copy the next bytes of the stream to @iov
 *
 * Waits until at least one byte is there, then copies what is in the window,
 * so that the result may be shorter than @iov without being the end.
 *
 * Returns the number of bytes copied, 0 at the end of the stream (or if @iov is
 * empty), or -errno with @errp naming the node, the offset and the cause; the
 * position has not moved then.
 */
ssize_t vmstate_reader_read(VmstateReader *r, const struct iovec *iov,
                            size_t niov, Error **errp);

/**
 * vmstate_reader_seek: Continue at VM state offset @pos, in bytes, >= 0
 *
 * Inside what the window holds (from the current position on) nothing is read
 * again.  Anywhere else the window is dropped, after the requests in flight, if
 * any, have ended; reading starts anew with the next vmstate_reader_read().
 * Beyond the end is allowed and reads as end of stream.
 */
void vmstate_reader_seek(VmstateReader *r, int64_t pos);

/**
 * vmstate_reader_tell: VM state offset of the next byte, in bytes
 */
int64_t vmstate_reader_tell(const VmstateReader *r);

/**
 * vmstate_reader_free: Wait for the requests in flight, free all, drop the node
 *
 * Main loop thread, with the BQL, not in a coroutine.  @r may be NULL.
 */
void vmstate_reader_free(VmstateReader *r);

/**
 * vmstate_reader_get_stats: Copy the stream's figures to @stats
 *
 * Any thread, at any time before vmstate_reader_free().
 */
void vmstate_reader_get_stats(VmstateReader *r, VmstateStreamStats *stats);

#endif /* BLOCK_VMSTATE_READER_H */
