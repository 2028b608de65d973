/*
 * What the models of VM state streams have in common
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Main loop thread, outside coroutines, unless it says otherwise.
 */

#ifndef TESTS_VMSTATE_MODEL_INT_H
#define TESTS_VMSTATE_MODEL_INT_H

#include "vmstate-model.h"

/* Longer streams than these only take longer */
#define MAX_WRITTEN (24 * MiB)
#define MAX_STATE (9 * MiB)

typedef struct Sequence {
    const uint8_t *next;
    size_t left;
} Sequence;

typedef struct Model {
    VmstateTest *t;
    Sequence *seq;
    unsigned checked;       /* requests in the log that the model knows */
    bool moved;             /* the node is in another AioContext than t->ctx */
} Model;

/* A number below @limit; 0 behind the end of the sequence */
uint32_t take(Sequence *seq, uint32_t limit);

void model_init(Model *m, VmstateTest *t, Sequence *seq);
/* With nothing in flight */
void model_close(Model *m);

/* How fast storage answers from now on */
void model_set_pace(Model *m);

/* One of the next @within requests fails, or some from it on, or none */
void model_inject_error(Model *m, VmstateTestOp op, unsigned within);

/* Some bytes that cannot be read, behind @from, from now on */
void model_set_bad_range(Model *m, int64_t from);

void model_move_node(Model *m);
void model_drain(Model *m);

/* Some turns of the main loop, in which requests may end or may not */
void model_turns(Model *m);

/* What a write has stored.  Called with the lock held. */
void model_check_written(VmstateTestNode *node, const VmstateTestRequest *req);

/* @text is what is to be told of the first request that has failed */
void model_check_write_error(VmstateTestNode *node, const char *text);

/* One stream, which takes of the sequence what it needs */
typedef void ModelRunFunc(VmstateTest *t, Sequence *seq);

/* Streams one after the other, until the sequence is used up */
void model_repeat(VmstateTest *t, const uint8_t *data, size_t size,
                  ModelRunFunc *run);

#endif /* TESTS_VMSTATE_MODEL_INT_H */
