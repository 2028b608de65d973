# VM state as it is stored in a qcow2 file, for tests that damage it
#
# SPDX-License-Identifier: GPL-2.0-or-later

import re
import struct
from typing import Any, Tuple


L2E_OFFSET = 0x00fffffffffffe00

# In entries of L1 and L2 tables: nobody else refers to the cluster
COPIED = 1 << 63

# In the stream, before the number of a section
FULL_SECTION = b'\x04'
FOOTER = b'\x7e'


class StoredState:
    """The VM state of the first snapshot, and where it is in the file"""

    def __init__(self, path: str):
        self.path = path
        cluster_bits, = self.numbers(20, '>I')
        self.cluster_size = 1 << cluster_bits
        # What an L2 table, which is a cluster, tells of
        self.table_bytes = self.cluster_size // 8 * self.cluster_size
        self.entry, = self.numbers(64, '>Q')
        self.l1_table, = self.numbers(self.entry, '>Q')
        self.size, disk_size = self.numbers(self.entry + 40, '>QQ')
        self.l1_first = -(-disk_size // self.table_bytes)

    def numbers(self, offset: int, form: str) -> Tuple[Any, ...]:
        return struct.unpack(form, self.read(offset, struct.calcsize(form)))

    def read(self, offset: int, size: int) -> bytes:
        with open(self.path, 'rb') as file:
            file.seek(offset)
            return file.read(size)

    def write(self, offset: int, data: bytes) -> None:
        with open(self.path, 'r+b') as file:
            file.seek(offset)
            file.write(data)

    def set_size(self, size: int) -> None:
        """
        For a QEMU that opens the image later

        It is there twice: 32 bits, and in the extra data.
        """
        self.write(self.entry + 32, struct.pack('>I', size & 0xffffffff))
        self.write(self.entry + 40, struct.pack('>Q', size))

    def l1_entry(self, table: int) -> int:
        """Where in the file it is"""
        return self.l1_table + (self.l1_first + table) * 8

    def l2_table(self, table: int) -> int:
        offset: int = self.numbers(self.l1_entry(table), '>Q')[0] & L2E_OFFSET
        return offset

    def l2_entry(self, cluster: int) -> int:
        table, index = divmod(cluster, self.table_bytes // self.cluster_size)
        return self.l2_table(table) + index * 8

    def entry_of(self, number: int) -> int:
        """What the L2 table tells of a cluster"""
        value: int = self.numbers(self.l2_entry(number), '>Q')[0]
        return value

    def cluster(self, number: int) -> int:
        return self.entry_of(number) & L2E_OFFSET

    def clusters(self) -> int:
        return -(-self.size // self.cluster_size)

    def stream(self) -> bytes:
        data = b''.join(self.read(self.cluster(number), self.cluster_size)
                        for number in range(self.clusters()))
        return data[:self.size]

    def overwrite(self, offset: int, data: bytes) -> None:
        """A part of the stream that is in one cluster"""
        number, at = divmod(offset, self.cluster_size)
        assert at + len(data) <= self.cluster_size
        self.write(self.cluster(number) + at, data)

    def find_section(self, name: bytes) -> Tuple[int, int]:
        """Offsets of its header and of its footer in the stream"""
        stream = self.stream()
        match = re.search(FULL_SECTION + b'(....)' +
                          re.escape(bytes([len(name)]) + name), stream,
                          re.DOTALL)
        assert match, name
        return match.start(), stream.index(FOOTER + match.group(1),
                                           match.end())
