/*
 * Sequences of operations on VM state streams, and what each must lead to
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A sequence is a string of bytes, random ones or a fuzzer's.  It says how the
 * stream is tuned, whether it is used directly or through its QIOChannel, what
 * its user does, and what storage and others do to it meanwhile.  Any string is
 * a valid sequence.
 *
 * The model knows position, length, error and the requests that must follow
 * from the operations so far.  It is compared with the stream after each of
 * them; a difference aborts.
 */

#ifndef TESTS_VMSTATE_MODEL_H
#define TESTS_VMSTATE_MODEL_H

#include "vmstate-test-driver.h"

/*
 * Interpret the @size bytes at @data with streams on @t's node, one after the
 * other.
 *
 * Main loop thread, outside coroutines; the operations on the stream run in the
 * party of @t's setting.
 */
typedef void VmstateModelFunc(VmstateTest *t, const uint8_t *data, size_t size);
VmstateModelFunc vmstate_model_write;
VmstateModelFunc vmstate_model_read;
/* The same through a QEMUFile */
VmstateModelFunc vmstate_model_put;
VmstateModelFunc vmstate_model_get;

#endif /* TESTS_VMSTATE_MODEL_H */
