/*
 * Fields of a migration stream as bytes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "vmstate-test-fields.h"

void vmstate_test_put_field(QEMUFile *f, const uint8_t *p, size_t bytes)
{
    switch (bytes) {
    case 1:
        qemu_put_byte(f, *p);
        break;
    case 2:
        qemu_put_be16(f, lduw_be_p(p));
        break;
    case 4:
        qemu_put_be32(f, ldl_be_p(p));
        break;
    case 8:
        qemu_put_be64(f, ldq_be_p(p));
        break;
    default:
        qemu_put_buffer(f, p, bytes);
        break;
    }
}

size_t coroutine_mixed_fn vmstate_test_get_field(QEMUFile *f, uint8_t *p,
                                                 size_t bytes)
{
    switch (bytes) {
    case 1:
        *p = qemu_get_byte(f);
        break;
    case 2:
        stw_be_p(p, qemu_get_be16(f));
        break;
    case 4:
        stl_be_p(p, qemu_get_be32(f));
        break;
    case 8:
        stq_be_p(p, qemu_get_be64(f));
        break;
    default:
        return qemu_get_buffer(f, p, bytes);
    }
    return bytes;
}
