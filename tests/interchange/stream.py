# SPDX-License-Identifier: GPL-2.0-or-later

"""
The migration stream in a snapshot: taken out of the image and into pieces.

QEMU's own scripts/analyze-migration.py walks through it.  What that does not
show is added here: the bytes of each piece and their order, and pages of RAM
one by one.
"""

import contextlib
import dataclasses
import importlib.util
import io
import json
from pathlib import Path
import shutil
import struct
import sys

from vmsnap.storage import Image, run_tool


SECTOR = 512

# An entry of the active L1 table stands for as much as an L2 table does
L2_ENTRY_SIZE = 8

# Flags in the low bits of what stands before a page
FLAG_ZERO = 0x02
FLAG_MEM_SIZE = 0x04
FLAG_PAGE = 0x08
FLAG_EOS = 0x10
FLAG_CONTINUE = 0x20

RAM_VERSION = 4


class StreamError(Exception):
    """A stream is not what it must be."""


# Out of the image

def image_info(image):
    """What qemu-img info says."""
    return json.loads(run_tool(image.qemu_img, 'info', '--output=json',
                               image.path))


def extract(image, tag, path):
    """
    Write the VM state of snapshot @tag to the file @path.

    By qemu-img alone: in a copy of the image, a revert brings the state into
    the active layer, behind the end of the disk; when the disk is made
    larger, it is in the disk.  @image's qemu-img has to be that of stock QEMU,
    which leaves it there.
    """
    info = image_info(image)
    [size] = [snapshot['vm-state-size'] for snapshot in info['snapshots']
              if snapshot['name'] == tag]
    per_entry = info['cluster-size'] ** 2 // L2_ENTRY_SIZE
    offset = -(-info['virtual-size'] // per_entry) * per_entry
    sectors = -(-size // SECTOR) * SECTOR

    copy = Image(f'{path}.qcow2', image.qemu_img)
    try:
        shutil.copyfile(image.path, copy.path)
        run_tool(copy.qemu_img, 'snapshot', '-a', tag, copy.path)
        run_tool(copy.qemu_img, 'resize', '-q', '-f', 'qcow2', copy.path,
                 offset + sectors)
        node = {'driver': 'raw', 'offset': offset, 'size': sectors,
                'file': {'driver': 'qcow2', 'file': {
                    'driver': 'file', 'filename': str(copy.path)}}}
        run_tool(copy.qemu_img, 'convert', '-O', 'raw',
                 f'json:{json.dumps(node)}', path)
    finally:
        copy.remove()
    with open(path, 'r+b') as out:
        out.truncate(size)
    return Path(path)


# Into pieces

def load_analyzer(source):
    """
    QEMU's analyze-migration.py of the tree @source as a module.

    It is a program, which ends when it has told of its options; all that
    belongs to the analysis is defined by then.
    """
    spec = importlib.util.spec_from_file_location(
        'analyze_migration', source / 'scripts' / 'analyze-migration.py')
    module = importlib.util.module_from_spec(spec)
    arguments = sys.argv
    sys.argv = ['analyze-migration', '--help']
    try:
        with contextlib.redirect_stdout(io.StringIO()), \
                contextlib.suppress(SystemExit):
            spec.loader.exec_module(module)
    finally:
        sys.argv = arguments
    return module


@dataclasses.dataclass
class Piece:
    """
    One section as it is in the stream, or a part of one.

    @key: its idstr and instance
    @lead: what is between this piece and the one before it: footer, type, and
           idstr, instance and version at the section's beginning
    @body: its contents
    @section: what the analyzer makes of it
    """
    key: tuple
    lead: bytes
    body: bytes
    section: object

    @property
    def name(self):
        """For messages."""
        return f'section {self.key[0]}, instance {self.key[1]}'


class RamSection:
    """
    Pages of RAM one by one, with the interface of the analyzer's RamSection.

    @blocks: {name of the RAM block: size}
    @pages: {(block, address): the page, or the byte that fills it}, in the
            order in which they were written
    """

    def __init__(self, file, version, args, section_key):
        if version != RAM_VERSION:
            raise StreamError(f'RAM has version {version}')
        self._file = file
        self._page_size = args['page_size']
        self.section_key = section_key
        self.blocks = {}
        self.pages = {}
        self._block = None

    def read(self):
        """One part."""
        while self._read_record():
            pass

    def _read_record(self):
        word = self._file.read64()
        flags = word % self._page_size
        at = word - flags
        if flags == FLAG_EOS:
            return False
        if flags == FLAG_MEM_SIZE:
            self._read_blocks(at)
        elif flags & ~FLAG_CONTINUE in (FLAG_ZERO, FLAG_PAGE):
            self._read_page(at, flags)
        else:
            raise StreamError(f'RAM has flags {flags:#x} before '
                              f'{self._file.tell():#x}')
        return True

    def _read_name(self):
        return self._file.readstr(len=self._file.read8())

    def _read_blocks(self, total):
        while total > 0:
            name = self._read_name()
            self.blocks[name] = self._file.read64()
            total -= self.blocks[name]
        if total:
            raise StreamError('sizes of RAM blocks do not add up')

    def _read_page(self, at, flags):
        if not flags & FLAG_CONTINUE:
            self._block = self._read_name()
        key = (self._block, at)
        if key in self.pages:
            raise StreamError(f'page {at:#x} of {self._block} is there twice')
        self.pages[key] = self._file.readvar(self._page_size) \
            if flags & FLAG_PAGE else self._file.read8()

    def require_all_pages(self):
        """Raise unless each page of each block is there, and no other."""
        wanted = {(name, at) for name, size in self.blocks.items()
                  for at in range(0, size, self._page_size)}
        if wanted != set(self.pages):
            raise StreamError(f'{len(wanted - set(self.pages))} pages are '
                              f'missing, {len(set(self.pages) - wanted)} are '
                              'none of any block')

    def contents(self, block, at, size):
        """That much of a block in one piece."""
        pages = (self.pages[block, start]
                 for start in range(at, at + size, self._page_size))
        return b''.join(page if isinstance(page, bytes)
                        else bytes([page]) * self._page_size
                        for page in pages)


def recorded(kind, sections):
    """
    Makes sections of @kind that add (section, start, end) each time they are
    read.
    """
    def make(file, version, args, section_key):
        section = kind(file, version, args, section_key)
        read = section.read

        def read_and_record():
            start = file.tell()
            read()
            sections.append((section, start, file.tell()))
        section.read = read_and_record
        return section
    return make


def analyze(path, analyzer):
    """
    Have the analyzer walk through a stream.

    Returns its MigrationDump, and (section, start, end in the file) for each
    time that it has read a section or a part of one.
    """
    sections = []

    class Dump(analyzer.MigrationDump):
        """With our own class for RAM, and a record of what was read"""

        def load_vmsd_json(self, file):
            super().load_vmsd_json(file)
            self.section_classes['ram', 0][0] = RamSection
            for key, (kind, *args) in self.section_classes.items():
                self.section_classes[key] = [recorded(kind, sections), *args]

    dump = Dump(str(path))
    try:
        dump.read()
    except Exception as err:
        # The analyzer raises nothing more special
        raise StreamError(f'the analyzer stops after {len(sections)} '
                          f'sections: {err!r}') from err
    return dump, sections


class Stream:
    """
    All of one stream; no byte of it is in none or two of these.

    @pieces: Pieces in their order
    @end: what follows the last one, with the JSON text about all the others
    @length: in bytes
    @ram: the RamSection
    """

    def __init__(self, path, analyzer):
        data = Path(path).read_bytes()
        self.length = len(data)
        dump, sections = analyze(path, analyzer)
        self.description = dump.vmsd_json
        self.pieces = []
        position = 0
        for section, start, end in sections:
            self.pieces.append(Piece(section.section_key,
                                     data[position:start], data[start:end],
                                     section))
            position = end
        self.end = data[position:]
        [self.ram] = {piece.section for piece in self.pieces
                      if piece.key == ('ram', 0)}
        self.ram.require_all_pages()
        self._require_end(analyzer)

    def _require_end(self, analyzer):
        """The last section's footer, the end's mark and the description."""
        text = self.description.encode()
        footer = analyzer.MigrationDump.QEMU_VM_SECTION_FOOTER
        mark = analyzer.MigrationDump.QEMU_VM_VMDESCRIPTION
        wanted = struct.pack('>BBI', 0, mark, len(text)) + text
        if self.end[:1] != bytes([footer]) or self.end[5:] != wanted:
            raise StreamError('there is more or less at the end than the '
                              'description')

    def course(self):
        """
        (key, lead) of each section in order.

        RAM is cut into parts by time: any number of them is like one.
        """
        found = []
        for piece in self.pieces:
            step = (piece.key, piece.lead)
            if piece.key != ('ram', 0) or [step] != found[-1:]:
                found.append(step)
        return found

    def devices(self):
        """{key: Piece} of all but RAM."""
        return {piece.key: piece for piece in self.pieces
                if piece.key != ('ram', 0)}


# Comparing

def fields(section):
    """{path: value} of all fields of a device, as the analyzer shows them."""
    found = {}

    def walk(value, path):
        if isinstance(value, dict):
            for key, each in value.items():
                walk(each, f'{path}/{key}')
        elif isinstance(value, list):
            for index, each in enumerate(value):
                walk(each, f'{path}[{index}]')
        else:
            found[path] = value
    walk(section.getDict(), '')
    return found


def different_bytes(one, other):
    """
    {path: numbers of the bytes} that differ in two pieces of one device.

    For fields that the analyzer does not show byte by byte, None stands for
    any.
    """
    first, second = fields(one.section), fields(other.section)
    found = {}
    for path in set(first) | set(second):
        values = [str(first.get(path)).split(), str(second.get(path)).split()]
        if values[0] == values[1]:
            continue
        if len(values[0]) > 1 and len(values[0]) == len(values[1]):
            found[path] = {number for number, pair in enumerate(zip(*values))
                           if pair[0] != pair[1]}
        else:
            found[path] = {None}
    return found


def compare_devices(one, other):
    """What is different in two pieces of one device; None if nothing."""
    if other is None or len(one.body) != len(other.body):
        return f'length of {one.name}'
    if one.body == other.body:
        return None
    return f'{one.name}: {different_bytes(one, other)}'


def compare(one, other):
    """List what is different in two Streams, as texts."""
    wrong = []
    if one.course() != other.course():
        wrong.append('headers or order of sections')
    if one.end != other.end:
        wrong.append('end of the stream, or description')
    if one.ram.blocks != other.ram.blocks:
        wrong.append('RAM blocks')
    if list(one.ram.pages) != list(other.ram.pages):
        wrong.append('order of pages')
    wrong += [f'page {key[1]:#x} of {key[0]}'
              for key, page in one.ram.pages.items()
              if page != other.ram.pages.get(key)]
    devices = other.devices()
    for key, piece in one.devices().items():
        found = compare_devices(piece, devices.get(key))
        if found:
            wrong.append(found)
    return wrong
