/*
 * VM state writer: a byte stream in, large aligned requests out
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The stream is cut into chunks that begin at multiples of the chunk size in
 * VM state space.  Full chunks are written by an AioTaskPool, several at a
 * time; only the last chunk of a stream may be shorter than the others, and
 * nothing is ever written beyond the last byte of the stream.
 *
 * Threads.  One party at a time, the producer, calls the functions below.  It
 * may be
 *  - the main loop's thread or the thread of the node's AioContext, outside
 *    coroutines: waiting then runs that thread's event loop;
 *  - a coroutine in any AioContext: waiting then yields;
 *  - any other thread: waiting then sleeps, so the thread must not hold the
 *    BQL, or the loop that completes the requests could never run.
 * The requests themselves run in the AioContext that the node had when the
 * writer was created, whatever becomes of the node's context afterwards.
 *
 * No lock is held on entry.  Waiting happens only inside
 * vmstate_writer_write(), _settle(), _finish(), _abort() and _free().  The
 * caller may have drained the node: the requests bypass BlockBackends and count
 * themselves in flight.  Draining waits until all that is queued is written,
 * and so may last as long as a producer in another thread goes on.
 *
 * Errors.  The first error is kept, and every later call that can fail returns
 * it.  No request starts once there is one.
 */

#ifndef BLOCK_VMSTATE_WRITER_H
#define BLOCK_VMSTATE_WRITER_H

#include "block/block.h"
#include "block/vmstate-stream.h"

/* Requests that may be in flight at one time, by default */
#define VMSTATE_WRITER_DEPTH 8

/*
 * Chunk size in bytes, by default, before it is rounded up to a multiple of the
 * node's cluster size
 */
#define VMSTATE_WRITER_CHUNK (1 * MiB)

typedef struct VmstateWriter VmstateWriter;

/**
 * vmstate_writer_new: Start a stream at VM state offset 0 of @bs
 *
 * @options: copied; NULL for the defaults
 *
 * Takes a reference to @bs, which vmstate_writer_free() drops.  Buffers for
 * chunks are allocated when they are first needed, a few at a time, one more at
 * most than there may be requests in flight.  Nothing is read or written yet.
 *
 * Main loop thread, with the BQL, not in a coroutine.  Never fails; a node
 * that cannot store VM state shows it as an error of the first request.
 */
VmstateWriter *vmstate_writer_new(BlockDriverState *bs,
                                  const VmstateStreamOptions *options);

/**
 * vmstate_writer_write: Append @niov elements of @iov to the stream
 *
 * The bytes are copied, so @iov's memory is free for reuse on return.  Waits
 * for a buffer when all are busy.
 *
 * Returns 0, or the stream's error as -errno with @errp naming the node, the
 * offset and the cause.  On error the stream's length is undefined, and what
 * remains is vmstate_writer_free().
 */
int vmstate_writer_write(VmstateWriter *w, const struct iovec *iov,
                         size_t niov, Error **errp);

/**
 * vmstate_writer_settle: Wait until all full chunks have been written
 *
 * No request of the stream is in flight then.  The stream goes on; an error
 * shows with the next call that can fail.
 */
void vmstate_writer_settle(VmstateWriter *w);

/**
 * vmstate_writer_finish: Write what is buffered, wait for all, flush the node
 *
 * On return no request of the stream is in flight, whatever the result.  Must
 * not be followed by vmstate_writer_write().  Calling it again returns the same
 * result again, unless a cancel has come in between.
 *
 * Returns 0 if the whole stream is on stable storage, or the stream's first
 * error as -errno with @errp set.
 */
int vmstate_writer_finish(VmstateWriter *w, Error **errp);

/**
 * vmstate_writer_cancel: Let the stream fail with -ECANCELED
 *
 * For somebody else than the producer, who may be waiting and is woken up.
 * Returns at once.  Requests that are in flight go on.  Changes nothing if the
 * stream has an error already.
 *
 * Any thread, at any time before vmstate_writer_free().
 */
void vmstate_writer_cancel(VmstateWriter *w);

/**
 * vmstate_writer_abort: Drop what is buffered and wait for requests in flight
 *
 * For a stream that is not wanted any more.  Nothing new is written or flushed;
 * chunks written already stay where they are in the image.  A later finish
 * returns -ECANCELED unless there was an error before.  Harmless after finish.
 */
void vmstate_writer_abort(VmstateWriter *w);

/**
 * vmstate_writer_free: Abort unless finished, free all buffers, drop the node
 *
 * Main loop thread, with the BQL, not in a coroutine.  @w may be NULL.
 */
void vmstate_writer_free(VmstateWriter *w);

/**
 * vmstate_writer_bytes: Length of the stream so far, in bytes
 *
 * Counts what vmstate_writer_write() accepted, written yet or not.
 */
uint64_t vmstate_writer_bytes(const VmstateWriter *w);

/**
 * vmstate_writer_get_stats: Copy the stream's figures to @stats
 *
 * Any thread, at any time before vmstate_writer_free().
 */
void vmstate_writer_get_stats(VmstateWriter *w, VmstateStreamStats *stats);

#endif /* BLOCK_VMSTATE_WRITER_H */
