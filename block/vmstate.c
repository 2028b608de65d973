/*
 * VM state kept by a node: what surrounds reading and writing it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "block/block_int.h"
#include "block/vmstate.h"

/* The node that stores the VM state of @bs, if it has callbacks, or NULL */
static BlockDriverState *GRAPH_RDLOCK vmstate_find_node(BlockDriverState *bs)
{
    while (bs && bs->drv && !bs->drv->bdrv_co_save_vmstate) {
        bs = bdrv_primary_bs(bs);
    }
    return bs && bs->drv && bs->drv->vmstate_ops ? bs : NULL;
}

bool bdrv_vmstate_wants_thread(BlockDriverState *bs)
{
    BlockDriverState *vm_bs;

    GLOBAL_STATE_CODE();

    vm_bs = vmstate_find_node(bs);
    return vm_bs && vm_bs->file && vm_bs->file->bs->drv &&
           !strcmp(vm_bs->file->bs->drv->format_name, "nbd") &&
           bdrv_get_aio_context(bs) == qemu_get_aio_context();
}

bool bdrv_vmstate_check(BlockDriverState *bs, Error **errp)
{
    BlockDriverState *vm_bs;

    GLOBAL_STATE_CODE();

    vm_bs = vmstate_find_node(bs);
    if (!vm_bs || !vm_bs->drv->vmstate_ops->check) {
        return true;
    }
    return vm_bs->drv->vmstate_ops->check(vm_bs, errp);
}

int coroutine_fn bdrv_co_vmstate_begin_save(BlockDriverState *bs,
                                            int64_t growth_step, Error **errp)
{
    BlockDriverState *vm_bs = vmstate_find_node(bs);
    int ret;

    IO_CODE();

    if (!vm_bs || !vm_bs->drv->vmstate_ops->co_begin_save) {
        return 0;
    }
    bdrv_inc_in_flight(vm_bs);
    ret = vm_bs->drv->vmstate_ops->co_begin_save(vm_bs, growth_step, errp);
    bdrv_dec_in_flight(vm_bs);
    return ret;
}

void coroutine_fn bdrv_co_vmstate_end_save(BlockDriverState *bs)
{
    BlockDriverState *vm_bs = vmstate_find_node(bs);

    IO_CODE();

    if (!vm_bs || !vm_bs->drv->vmstate_ops->co_end_save) {
        return;
    }
    bdrv_inc_in_flight(vm_bs);
    vm_bs->drv->vmstate_ops->co_end_save(vm_bs);
    bdrv_dec_in_flight(vm_bs);
}

int coroutine_fn bdrv_co_vmstate_release(BlockDriverState *bs, Error **errp)
{
    BlockDriverState *vm_bs = vmstate_find_node(bs);
    int ret;

    IO_CODE();

    if (!vm_bs || !vm_bs->drv->vmstate_ops->co_release) {
        return 0;
    }
    bdrv_inc_in_flight(vm_bs);
    ret = vm_bs->drv->vmstate_ops->co_release(vm_bs, errp);
    bdrv_dec_in_flight(vm_bs);
    return ret;
}

int coroutine_fn bdrv_co_vmstate_check_snapshot(BlockDriverState *bs,
                                                const QEMUSnapshotInfo *sn,
                                                uint8_t *head, size_t bytes,
                                                Error **errp)
{
    BlockDriverState *vm_bs = vmstate_find_node(bs);
    int ret;

    IO_CODE();

    if (!vm_bs || !vm_bs->drv->vmstate_ops->co_check_snapshot) {
        return 0;
    }
    bdrv_inc_in_flight(vm_bs);
    ret = vm_bs->drv->vmstate_ops->co_check_snapshot(vm_bs, sn, head, bytes,
                                                     errp);
    bdrv_dec_in_flight(vm_bs);
    return ret;
}
