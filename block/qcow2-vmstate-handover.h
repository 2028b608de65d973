/*
 * qcow2: a new snapshot takes VM state over
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef BLOCK_QCOW2_VMSTATE_HANDOVER_H
#define BLOCK_QCOW2_VMSTATE_HANDOVER_H

#include "block/block-common.h"
#include "block/graph-lock.h"
#include "qcow2-vmstate.h"

/**
 * qcow2_vmstate_hand_over: Make VM state something that a snapshot can have
 *
 * Takes it out of the active L1 table, durably, and clears the COPIED flags in
 * its tables: those of a snapshot's tables are never set, and whoever clears
 * them when he reverts would write to tables of a snapshot, which QEMU takes
 * for corruption if it is asked to look (overlap-check=all).
 *
 * @vmstate: zeroed by the caller; set when this returns, also with an error,
 *           if the VM state has left the active table
 *
 * In the main loop with the node drained, when the L2 cache has nothing to
 * write.  The flags are on disk after the next flush.  Returns 0 or -errno.
 */
int GRAPH_RDLOCK qcow2_vmstate_hand_over(BlockDriverState *bs,
                                         Qcow2DetachedVmstate *vmstate);

#endif /* BLOCK_QCOW2_VMSTATE_HANDOVER_H */
