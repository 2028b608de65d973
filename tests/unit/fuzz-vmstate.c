/*
 * VM state streams against their model, with a fuzzer's sequences of operations
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The first byte of an input chooses the kind of stream and its user; the rest
 * is the sequence.  Only users in the main loop's thread, so that an input
 * leads to the same each time.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "tests/qtest/fuzz/fuzz.h"
#include "vmstate-model.h"

int LLVMFuzzerInitialize(int *argc, char ***argv, char ***envp)
{
    bdrv_init();
    qemu_init_main_loop(&error_abort);
    module_call_init(MODULE_INIT_QOM);
    return 0;
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    static const VmstateTestSetting settings[] = {
        { "main-loop", VMSTATE_TEST_MAIN_LOOP },
        { "coroutine", VMSTATE_TEST_COROUTINE },
    };
    VmstateTest *t;

    if (!size) {
        return 0;
    }
    t = vmstate_test_new(&settings[data[0] / 2 % 2]);
    if (data[0] % 2) {
        vmstate_model_read(t, data + 1, size - 1);
    } else {
        vmstate_model_write(t, data + 1, size - 1);
    }
    vmstate_test_free(t);
    return 0;
}
