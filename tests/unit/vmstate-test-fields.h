/*
 * Fields of a migration stream as bytes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_VMSTATE_TEST_FIELDS_H
#define TESTS_VMSTATE_TEST_FIELDS_H

#include "../migration/qemu-file.h"

/*
 * Put the @bytes at @p into @f, by the function that is for so many: a number
 * of 1, 2, 4 or 8 bytes, or a buffer
 *
 * Whoever uses the stream, as the next one.
 */
void vmstate_test_put_field(QEMUFile *f, const uint8_t *p, size_t bytes);

/*
 * Get such a field.  Returns how many bytes there were, of a number always all:
 * zeroes stand for what is missing.
 */
size_t coroutine_mixed_fn vmstate_test_get_field(QEMUFile *f, uint8_t *p,
                                                 size_t bytes);

#endif /* TESTS_VMSTATE_TEST_FIELDS_H */
