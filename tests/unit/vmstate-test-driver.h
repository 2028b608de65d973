/*
 * A block driver that keeps VM state in memory and counts, and the settings in
 * which a VM state stream can be used
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_VMSTATE_TEST_DRIVER_H
#define TESTS_VMSTATE_TEST_DRIVER_H

#include "qemu/timer.h"
#include "qemu/units.h"
#include "block/block.h"
#include "block/block_int.h"
#include "iothread.h"

#define VMSTATE_TEST_NODE_NAME "vmstate-node"

/* Larger than a page, so that page alignment does not pass for it */
#define VMSTATE_TEST_MEM_ALIGN (32 * KiB)

/*
 * How late is "later": long enough for a wait to be one, and for one that is
 * missing to show
 */
#define VMSTATE_TEST_LATER_NS (5 * SCALE_MS)

typedef enum VmstateTestOp {
    VMSTATE_TEST_READ,
    VMSTATE_TEST_WRITE,
    VMSTATE_TEST_FLUSH,
    VMSTATE_TEST_OP__MAX,
} VmstateTestOp;

typedef enum VmstateTestPace {
    VMSTATE_TEST_AT_ONCE,   /* no request yields */
    VMSTATE_TEST_SHUFFLE,   /* yield seeded random times: end out of order */
    VMSTATE_TEST_HELD,      /* until released */
} VmstateTestPace;

typedef struct VmstateTestRequest {
    VmstateTestOp op;
    int64_t offset;
    int64_t bytes;
    AioContext *ctx;        /* it began in */
    unsigned others;        /* in flight when it began */
    int64_t open_at_ns;     /* when it may end although held; or 0 */
    bool ended;
    int ret;
} VmstateTestRequest;

/* Requests @first to @first + @count - 1 of a kind, counted from 1, fail */
typedef struct VmstateTestFailure {
    unsigned first;
    unsigned count;
    int err;                /* positive errno */
} VmstateTestFailure;

typedef struct VmstateTestNode {
    QemuMutex lock;

    /* Set by the test; protected by @lock while there may be requests */
    VmstateTestPace pace;
    int max_turns;          /* that a shuffled request yields for; > 0 */
    unsigned hold_from;     /* index in the log of the first to hold */
    unsigned open_at;       /* release all when so many are in flight; or 0 */
    int64_t open_at_ns;     /* release all at this realtime; or 0 */
    int64_t cluster_size;   /* 0 if the driver cannot tell */
    VmstateTestFailure fail[VMSTATE_TEST_OP__MAX];
    int64_t model_bytes;    /* of the model stream, to be read */
    int64_t bad_offset;     /* reads that touch the bad range fail with EIO */
    int64_t bad_bytes;
    int64_t read_limit;     /* no read may go beyond; asserted */
    int64_t max_read;       /* no read may be larger; asserted */

    /* Protected by @lock */
    GRand *rand;
    GByteArray *data;       /* what was written */
    GArray *log;            /* of VmstateTestRequest, as they began */
    unsigned started[VMSTATE_TEST_OP__MAX];
    unsigned in_flight[VMSTATE_TEST_OP__MAX];
    unsigned max_in_flight[VMSTATE_TEST_OP__MAX];
    int first_errno;        /* of the first request that ended with an error */
    int64_t failed_offset;  /* of that request */
    unsigned started_after_failure;
} VmstateTestNode;

/* Who uses the stream */
typedef enum VmstateTestParty {
    VMSTATE_TEST_MAIN_LOOP,             /* outside coroutines */
    VMSTATE_TEST_COROUTINE,             /* in the main loop */
    VMSTATE_TEST_THREAD,                /* one without a BQL and event loop */
    VMSTATE_TEST_IOTHREAD,              /* outside coroutines */
    VMSTATE_TEST_IOTHREAD_COROUTINE,
} VmstateTestParty;

typedef struct VmstateTestSetting {
    const char *name;
    VmstateTestParty party;
    bool node_in_iothread;
    bool drained;           /* for as long as the test runs */
    bool reads_elsewhere;   /* in the IOThread, and the node is not */
} VmstateTestSetting;

/* Fewer under ThreadSanitizer.  Ends with an element whose name is NULL. */
extern const VmstateTestSetting vmstate_test_settings[];

/**
 * VmstateTest: one node in one setting
 *
 *      (the engine under test)
 *               |  a reference, no BdrvChild
 *               v
 *        "vmstate-node"     in the main loop's AioContext or in that of
 *                           the IOThread
 */
typedef struct VmstateTest {
    const VmstateTestSetting *setting;
    IOThread *iothread;
    AioContext *ctx;        /* of @bs */
    AioContext *read_ctx;   /* for the reader to be told; NULL: that of @bs */
    BlockDriverState *bs;
    VmstateTestNode *node;
    GRand *rand;            /* for the party; the node has its own */
} VmstateTest;

typedef void VmstateTestCaseFunc(VmstateTest *t);
typedef void coroutine_mixed_fn VmstateTestFunc(void *opaque);

/* Seed of all that is random: VMSTATE_TEST_SEED in the environment, or 1 */
uint32_t vmstate_test_seed(void);

VmstateTest *vmstate_test_new(const VmstateTestSetting *setting);
void vmstate_test_free(VmstateTest *t);

typedef struct VmstateTestEntry {
    const char *name;
    VmstateTestCaseFunc *func;
} VmstateTestEntry;

/*
 * Add each of @entries, which end with an empty one, as @prefix/NAME/SETTING,
 * once for each setting
 */
void vmstate_test_add(const char *prefix, const VmstateTestEntry *entries);

/* The same for a reader, which has more settings */
void vmstate_test_add_reader(const char *prefix,
                             const VmstateTestEntry *entries);

/*
 * The node runs only while the party waits.  In the other settings a request
 * may always end before the party gets to the point where it would wait.
 */
bool vmstate_test_is_single_threaded(VmstateTest *t);

/* Run @fn as the setting's party while the main loop runs, until it is done */
void vmstate_test_run(VmstateTest *t, VmstateTestFunc *fn, void *opaque);

/* Contents of the model stream: no two places look alike */
void vmstate_test_fill(void *buf, int64_t offset, size_t bytes);
bool vmstate_test_matches(const void *buf, int64_t offset, size_t bytes);

/* The model stream from @offset on up to @stored, then zeroes */
bool vmstate_test_matches_stored(const uint8_t *buf, int64_t offset,
                                 size_t bytes, int64_t stored);

bool vmstate_test_all_are(const uint8_t *buf, size_t bytes, uint8_t value);

/* Cut @bytes at @buf into @niov random pieces, some of them empty */
void vmstate_test_split(GRand *rand, struct iovec *iov, unsigned niov,
                        uint8_t *buf, size_t bytes);

/* Forget requests, failures and data; the node must be idle */
void vmstate_test_node_reset(VmstateTestNode *node);

/* Allocate memory for @bytes of VM state now and not later */
void vmstate_test_node_reserve(VmstateTestNode *node, size_t bytes);

/* Run the main loop until @count requests of kind @op are in flight */
void vmstate_test_wait_in_flight(VmstateTestNode *node, VmstateTestOp op,
                                 unsigned count);

/* Run the main loop until nothing happens any more; no request may be held */
void vmstate_test_settle(VmstateTest *t);

/*
 * Hold requests from now on; all but the next @count; release them; release
 * only the @index-th.  No hold is for ever, so that a test that gets stuck
 * fails rather than hangs.
 */
void vmstate_test_hold(VmstateTestNode *node);
void vmstate_test_hold_after(VmstateTestNode *node, unsigned count);
void vmstate_test_release(VmstateTestNode *node);
void vmstate_test_release_one(VmstateTestNode *node, unsigned index);
/* Release in a few milliseconds, whatever the caller does until then */
void vmstate_test_release_later(VmstateTestNode *node);
void vmstate_test_release_one_later(VmstateTestNode *node, unsigned index);
/* Hold requests until @count are in flight */
void vmstate_test_hold_until(VmstateTestNode *node, unsigned count);

unsigned vmstate_test_started(VmstateTestNode *node, VmstateTestOp op);
unsigned vmstate_test_in_flight(VmstateTestNode *node);

/* Let requests number @first, counted from 1, to @first + @count - 1 fail */
void vmstate_test_fail(VmstateTestNode *node, VmstateTestOp op, unsigned first,
                       unsigned count, int err);
/* Let the @index-th request, which is in flight, fail */
void vmstate_test_fail_one(VmstateTestNode *node, unsigned index, int err);

/* All requests ran in @ctx and have ended, and there were any */
void vmstate_test_check_context(VmstateTestNode *node, AioContext *ctx);

/*
 * @ret is -@err, and the text of @errp's error names the node, @offset unless
 * it is -1, and the cause
 */
void vmstate_test_check_error(int64_t ret, Error *errp, int err,
                              int64_t offset);
/* The same of the text alone */
void vmstate_test_check_error_text(const char *text, int err, int64_t offset);

/*
 * A drained section that begins while requests are held must wait for them.
 * Releases the requests.  Main loop, outside coroutines.
 */
void vmstate_test_check_drain_waits(VmstateTest *t);

/*
 * For a test that limits or measures memory.  Returns true in a process of its
 * own; else starts one and returns false when it has passed, or if this cannot
 * be done here, which skips the test.
 */
bool vmstate_test_in_subprocess(void);

/* Size of the address space in use, in bytes */
uint64_t vmstate_test_memory_used(void);

/* Limit the address space to @bytes more than there is now */
void vmstate_test_limit_memory(size_t bytes);
void vmstate_test_unlimit_memory(void);

#endif /* TESTS_VMSTATE_TEST_DRIVER_H */
