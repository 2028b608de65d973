/*
 * VM state channel tests: bytes handed to the channel are the bytes stored
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A QEMUFile, cut into pieces as migration cuts its streams, on a VM state
 * channel on a qcow2 image:
 *
 *      QEMUFile            64 iovec elements at a time
 *         |
 *      QIOChannelVmstate, engine
 *         |  a reference, no BdrvChild
 *         v
 *      qcow2 -> file       in the AioContext of the setting
 *
 * The image is then closed and opened again, and its VM state is read through
 * the block layer, without channel and engine; and through them.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "block/block.h"
#include "block/snapshot.h"
#include "block/vmstate.h"
#include "../migration/channel-vmstate.h"
#include "vmstate-test-driver.h"
#include "vmstate-test-fields.h"

#define PAGE_BYTES (4 * KiB)
#define DISK_BYTES (1 * MiB)

/* What comes before a page: address and flags */
#define PAGE_HEADER_BYTES 8

/* Of one image; not a multiple of anything */
#define STREAM_BYTES (11 * MiB + 12345)

/* How often a flush cuts a stream, on average, in pieces */
#define PIECES_PER_FLUSH 700

#define SNAPSHOT_ID "1"

typedef struct ChannelTest {
    VmstateTest *t;
    char *path;
    BlockDriverState *bs;
    VmstateStreamOptions options;
    uint8_t *data;          /* all of the stream */
    int64_t length;

    /* For the party */
    QEMUFile *f;
    int64_t pos;
} ChannelTest;

/* The image */

static void image_open(ChannelTest *ct)
{
    QDict *options = qdict_new();

    qdict_put_str(options, "driver", "qcow2");
    qdict_put_str(options, "cache.no-flush", "on");
    ct->bs = bdrv_open(ct->path, NULL, options, BDRV_O_RDWR, &error_abort);
}

static void image_close(ChannelTest *ct)
{
    bdrv_unref(ct->bs);
    ct->bs = NULL;
}

static void image_enter_context(ChannelTest *ct, AioContext *ctx)
{
    g_assert_cmpint(bdrv_try_change_aio_context(ct->bs, ctx, NULL,
                                                &error_abort), ==, 0);
}

/* BlockBackends, which make an image, do nothing in a drained section */
static void image_create(ChannelTest *ct, unsigned cluster_size)
{
    g_autofree char *options = g_strdup_printf("cluster_size=%u", cluster_size);

    if (ct->t->setting->drained) {
        bdrv_drain_all_end();
    }
    bdrv_img_create(ct->path, "qcow2", NULL, NULL, options, DISK_BYTES, 0, true,
                    &error_abort);
    image_open(ct);
    if (ct->t->setting->drained) {
        bdrv_drain_all_begin();
    }
}

/* As in a real save: later ones need not leave the active layer's in place */
static void image_keep_vmstate(ChannelTest *ct)
{
    QEMUSnapshotInfo sn = {
        .name = "kept",
        .vm_state_size = ct->length,
    };

    GRAPH_RDLOCK_GUARD_MAINLOOP();
    g_assert_cmpint(bdrv_snapshot_create(ct->bs, &sn), ==, 0);
    g_assert_cmpstr(sn.id_str, ==, SNAPSHOT_ID);
}

static void image_reopen(ChannelTest *ct)
{
    image_close(ct);
    image_open(ct);
    g_assert_cmpint(bdrv_snapshot_goto(ct->bs, SNAPSHOT_ID, &error_abort),
                    ==, 0);
}

/* Nothing but the block layer in between */
static void image_check(ChannelTest *ct)
{
    g_autofree uint8_t *found = g_malloc(ct->length);
    int64_t pos;

    for (pos = 0; pos < ct->length; pos += MiB) {
        int bytes = MIN(ct->length - pos, MiB);

        g_assert_cmpint(bdrv_load_vmstate(ct->bs, found + pos, pos, bytes),
                        >=, 0);
    }
    g_assert_cmpmem(found, ct->length, ct->data, ct->length);
}

/* What follows the stream in its last cluster was never there */
static void image_check_rest(ChannelTest *ct, unsigned cluster_size)
{
    size_t bytes = QEMU_ALIGN_UP(ct->length, cluster_size) - ct->length;
    g_autofree uint8_t *found = g_malloc(bytes);

    if (bytes) {
        g_assert_cmpint(bdrv_load_vmstate(ct->bs, found, ct->length, bytes),
                        >=, 0);
        g_assert(buffer_is_zero(found, bytes));
    }
}

/* Pieces of a stream */

static void coroutine_mixed_fn check_field(QEMUFile *f, const uint8_t *p,
                                           size_t bytes)
{
    uint8_t found[PAGE_BYTES];

    g_assert_cmpuint(vmstate_test_get_field(f, found, bytes), ==, bytes);
    g_assert_cmpmem(found, bytes, p, bytes);
}

/* Many pages in a row, then some fields of a device, most of them small */
static bool is_page(ChannelTest *ct)
{
    return ct->pos % MiB < 900 * KiB &&
           ct->length - ct->pos >= PAGE_HEADER_BYTES + PAGE_BYTES;
}

static size_t random_field(ChannelTest *ct)
{
    static const size_t sizes[] = { 1, 1, 2, 4, 4, 8 };
    GRand *rand = ct->t->rand;
    size_t bytes;

    if (g_rand_int_range(rand, 0, 10)) {
        bytes = sizes[g_rand_int_range(rand, 0, ARRAY_SIZE(sizes))];
    } else {
        bytes = g_rand_int_range(rand, 1, 3000);
    }
    return MIN(bytes, ct->length - ct->pos);
}

static void coroutine_mixed_fn write_stream(void *opaque)
{
    ChannelTest *ct = opaque;

    while (ct->pos < ct->length) {
        const uint8_t *p = ct->data + ct->pos;

        if (is_page(ct)) {
            qemu_put_be64(ct->f, ldq_be_p(p));
            qemu_put_buffer_async(ct->f, p + PAGE_HEADER_BYTES, PAGE_BYTES,
                                  false);
            ct->pos += PAGE_HEADER_BYTES + PAGE_BYTES;
        } else {
            size_t bytes = random_field(ct);

            vmstate_test_put_field(ct->f, p, bytes);
            ct->pos += bytes;
        }
        /* RAM is cut by time */
        if (!g_rand_int_range(ct->t->rand, 0, PIECES_PER_FLUSH)) {
            g_assert_cmpint(qemu_fflush(ct->f), ==, 0);
        }
    }
    g_assert_cmpint(qemu_fflush(ct->f), ==, 0);
}

static void coroutine_mixed_fn read_stream(void *opaque)
{
    ChannelTest *ct = opaque;

    while (ct->pos < ct->length) {
        const uint8_t *p = ct->data + ct->pos;
        size_t bytes = is_page(ct) ? PAGE_BYTES : random_field(ct);

        check_field(ct->f, p, bytes);
        ct->pos += bytes;
    }
    g_assert_cmpint(qemu_file_get_error(ct->f), ==, 0);
    /* There is not one byte more */
    qemu_get_byte(ct->f);
    g_assert_cmpint(qemu_file_get_error(ct->f), <, 0);
}

/* It is written sequentially: one can seek to where it is, and that is all */
static void check_seek(ChannelTest *ct, QIOChannelVmstate *vioc)
{
    static const int64_t elsewhere[] = { 0, 1, INT64_MAX };
    QIOChannel *ioc = QIO_CHANNEL(vioc);
    int i;

    g_assert_cmpint(qio_channel_io_seek(ioc, ct->length, SEEK_SET,
                                        &error_abort), ==, ct->length);
    g_assert_cmpint(qio_channel_io_seek(ioc, 0, SEEK_CUR, &error_abort), ==,
                    ct->length);
    for (i = 0; i < ARRAY_SIZE(elsewhere); i++) {
        Error *err = NULL;

        if (elsewhere[i] != ct->length) {
            g_assert_cmpint(qio_channel_io_seek(ioc, elsewhere[i], SEEK_SET,
                                                &err), ==, -1);
            error_free_or_abort(&err);
        }
    }
    g_assert_cmpuint(qio_channel_vmstate_tell(vioc), ==, ct->length);
}

/* A save and a load */

static void save(ChannelTest *ct)
{
    QIOChannelVmstate *vioc;

    bdrv_drained_begin(ct->bs);
    bdrv_vmstate_begin_save(ct->bs, ct->options.growth_step, &error_abort);
    bdrv_drained_end(ct->bs);

    vioc = qio_channel_vmstate_new_output(ct->bs, &ct->options);
    ct->f = qemu_file_new_output(QIO_CHANNEL(vioc));
    ct->pos = 0;
    vmstate_test_run(ct->t, write_stream, ct);
    check_seek(ct, vioc);
    object_unref(OBJECT(vioc));
    g_assert_cmpint(qemu_fclose(ct->f), ==, 0);

    bdrv_drained_begin(ct->bs);
    bdrv_vmstate_end_save(ct->bs);
    bdrv_drained_end(ct->bs);
}

/* What the AioContext of a reader may live as long as */

#define TYPE_CONTEXT_OWNER "test-context-owner"
OBJECT_DECLARE_SIMPLE_TYPE(ContextOwner, CONTEXT_OWNER)

struct ContextOwner {
    Object parent;
    QIOChannelVmstate *vioc;
    bool *gone;
};

static void context_owner_finalize(Object *obj)
{
    ContextOwner *owner = CONTEXT_OWNER(obj);

    /* By now nobody needs it */
    g_assert_null(owner->vioc->reader);
    *owner->gone = true;
}

static const TypeInfo context_owner_info = {
    .name = TYPE_CONTEXT_OWNER,
    .parent = TYPE_OBJECT,
    .instance_size = sizeof(ContextOwner),
    .instance_finalize = context_owner_finalize,
};

static void load(ChannelTest *ct)
{
    ContextOwner *owner = CONTEXT_OWNER(object_new(TYPE_CONTEXT_OWNER));
    QIOChannelVmstate *vioc;
    bool gone = false;

    vioc = qio_channel_vmstate_new_input(ct->bs, ct->length, ct->t->read_ctx,
                                         OBJECT(owner), &ct->options);
    owner->vioc = vioc;
    owner->gone = &gone;
    object_unref(OBJECT(owner));
    ct->f = qemu_file_new_input(QIO_CHANNEL(vioc));
    object_unref(OBJECT(vioc));
    ct->pos = 0;
    vmstate_test_run(ct->t, read_stream, ct);
    g_assert_false(gone);
    qemu_fclose(ct->f);
    g_assert_true(gone);
}

static void there_and_back(ChannelTest *ct, unsigned cluster_size)
{
    image_create(ct, cluster_size);
    image_enter_context(ct, ct->t->ctx);
    save(ct);
    image_enter_context(ct, qemu_get_aio_context());
    image_keep_vmstate(ct);

    image_reopen(ct);
    image_check(ct);
    image_check_rest(ct, cluster_size);
    image_enter_context(ct, ct->t->ctx);
    load(ct);
    image_enter_context(ct, qemu_get_aio_context());
    image_close(ct);
}

static void run_lengths(VmstateTest *t, const VmstateStreamOptions *options,
                        unsigned cluster_size, const int64_t *lengths)
{
    g_autofree char *dir = g_dir_make_tmp("vmstate-channel-XXXXXX", NULL);
    ChannelTest ct = {
        .t = t,
        .path = g_build_filename(dir, "image.qcow2", NULL),
        .options = *options,
    };

    for (; *lengths; lengths++) {
        ct.length = *lengths;
        ct.data = g_malloc(ct.length);
        vmstate_test_fill(ct.data, 0, ct.length);
        there_and_back(&ct, cluster_size);
        g_free(ct.data);
    }
    g_assert_cmpint(unlink(ct.path), ==, 0);
    g_assert_cmpint(rmdir(dir), ==, 0);
    g_free(ct.path);
}

static bool is_soak(void)
{
    return g_strcmp0(g_getenv("QFS_SOAK"), "1") == 0;
}

/* Cases */

static void test_lengths(VmstateTest *t)
{
    static const int64_t lengths[] = {
        1, 511, 512, PAGE_BYTES + PAGE_HEADER_BYTES, 64 * KiB - 1, 64 * KiB + 1,
        MiB - 1, MiB, MiB + 1, 2 * MiB + 1, 0
    };

    run_lengths(t, &vmstate_stream_defaults, 64 * KiB, lengths);
}

static void test_cluster_sizes(VmstateTest *t)
{
    static const unsigned cluster_sizes[] = { 4 * KiB, 64 * KiB, 2 * MiB };
    static const int64_t lengths[] = { STREAM_BYTES, 0 };
    int i;

    for (i = 0; i < ARRAY_SIZE(cluster_sizes); i++) {
        run_lengths(t, &vmstate_stream_defaults, cluster_sizes[i], lengths);
    }
}

/* Each buffer is used again and again, by requests that end in any order */
static void test_small_chunks(VmstateTest *t)
{
    static const VmstateStreamOptions options = {
        .chunk_size = 64 * KiB,
        .depth = 3,
        .window = 2 * VMSTATE_READER_MIN_REQUEST,
        .read_depth = 1,
    };
    static const int64_t lengths[] = { STREAM_BYTES, 0 };

    run_lengths(t, &options, 64 * KiB, lengths);
}

static void test_random(VmstateTest *t)
{
    unsigned rounds = is_soak() ? 50 : 2;
    VmstateStreamOptions options = vmstate_stream_defaults;
    int64_t lengths[] = { 0, 0 };

    while (rounds--) {
        options.chunk_size = g_rand_int_range(t->rand, 1, 2 * MiB);
        options.depth = g_rand_int_range(t->rand, 1, 12);
        options.window = VMSTATE_READER_MIN_REQUEST *
                         g_rand_int_range(t->rand, 2, 8);
        lengths[0] = g_rand_int_range(t->rand, 1, 16 * MiB);
        run_lengths(t, &options, 512 << g_rand_int_range(t->rand, 3, 13),
                    lengths);
    }
}

int main(int argc, char **argv)
{
    static const VmstateTestEntry cases[] = {
        { "lengths", test_lengths },
        { "cluster-sizes", test_cluster_sizes },
        { "small-chunks", test_small_chunks },
        { "random", test_random },
        { }
    };

    bdrv_init();
    qemu_init_main_loop(&error_abort);
    module_call_init(MODULE_INIT_QOM);
    type_register_static(&context_owner_info);

    g_test_init(&argc, &argv, NULL);
    g_test_message("VMSTATE_TEST_SEED=%" PRIu32 ", %s", vmstate_test_seed(),
                   is_soak() ? "long" : "short");
    vmstate_test_add_reader("/vmstate-channel", cases);
    return g_test_run();
}
