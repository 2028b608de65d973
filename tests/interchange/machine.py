# SPDX-License-Identifier: GPL-2.0-or-later

"""
A VM without a running CPU, whose RAM, devices and disks the test fills.

Everything is done through QEMU's own qemu.machine and the qtest protocol.
"""

import base64
import functools
import importlib
import json
from pathlib import Path
import random
import struct

from vmsnap.machine import MIB, VMError, qemu_machine, qemu_qmp, tail

qemu_qtest = importlib.import_module('qemu.machine.qtest')


KIB = 1024
GIB = 1024 * MIB
PAGE = 4 * KIB

RAM_SIZE = 16 * MIB
# What is left below 4 GiB of RAM that is split
LOW_RAM_SIZE = 8 * MIB
# Between these parts are devices and firmware
LOWEST_RAM, EXTENDED_RAM, HIGH_RAM = 0, 1 * MIB, 4 * GIB
LOWEST_RAM_SIZE = 640 * KIB

# A DIMM's place, with room for larger ones, wherever other RAM ends
DIMM_AT, DIMM_STEP = 6 * GIB, 64 * MIB
DIMM_SLOTS = 4

# A qtest command has no more than this
PIECE = 64 * KIB

DISK_SIZE = 8 * MIB

# Seconds that no step takes
PATIENCE = 120

# Ports with an index register and a data register
CMOS = (0x70, 0x71)
VGA_SEQUENCER = (0x3c4, 0x3c5)
VGA_GRAPHICS = (0x3ce, 0x3cf)
VGA_CRTC = (0x3d4, 0x3d5)

# Without colours the CRTC is elsewhere
VGA_MISC_WRITE, VGA_HAS_COLOURS = 0x3c2, 0x01

# Registers that keep what is written to them, whatever it is: behind an index
# (CMOS RAM that is no clock, cursor and start address of the screen) ...
INDEXED_REGISTERS = [
    *((CMOS, index) for index in range(0x40, 0x60)),
    *((VGA_SEQUENCER, index) for index in (0x03,)),
    *((VGA_GRAPHICS, index) for index in (0x00, 0x02, 0x08)),
    *((VGA_CRTC, index) for index in (0x0c, 0x0d, 0x0e, 0x0f)),
]
# ... and alone: interrupt masks and DMA page registers
PLAIN_REGISTERS = [0x21, 0xa1, 0x81, 0x82, 0x83, 0x87]

# Bits that exist in a register
REGISTER_BITS = {
    (VGA_SEQUENCER, 0x03): 0x3f,
    (VGA_GRAPHICS, 0x00): 0x0f,
    (VGA_GRAPHICS, 0x02): 0x0f,
}

PALETTE_WRITE, PALETTE_READ, PALETTE_DATA = 0x3c8, 0x3c7, 0x3c9

PIT_CONTROL, PIT_CHANNEL_2 = 0x43, 0x42
# Channel 2, both bytes of a counter, mode 3
PIT_SET_CHANNEL_2 = 0xb6
# Latch the status of channel 2
PIT_STATUS_2 = 0xe8

# ACPI's registers of DIMMs: the slot that the others are about, what the guest
# made of an event there, and flags
MEMHP_SLOT, MEMHP_OST_EVENT, MEMHP_OST_STATUS, MEMHP_FLAGS = \
    0xa00, 0xa04, 0xa08, 0xa14
# Of the flags: there is a new DIMM; the guest is to give it back; it does so.
# It writes the first two when it has seen them.
MEMHP_INSERTING, MEMHP_REMOVING, MEMHP_EJECT = 0x02, 0x04, 0x08


def pages_of(rng, kind, at, count):
    """Pages @at and following of one kind."""
    if kind == 'zero':
        return bytes(count * PAGE)
    if kind == 'pattern':
        return b''.join(struct.pack('>Q', at + i) * (PAGE // 8)
                        for i in range(count))
    pages = bytearray(count * PAGE)
    for i in range(count):
        # All but zero, which only a look at each byte tells
        place = rng.choice((0, PAGE - 1, rng.randrange(PAGE)))
        pages[i * PAGE + place] = rng.randrange(1, 256)
    return bytes(pages)


@functools.lru_cache(maxsize=32)
def content(seed, name, size):
    """
    What belongs into a piece of RAM or a disk called @name: bytes.

    Runs of pages that are incompressible, zero, patterned, or zero but for one
    byte; always the same for one seed.
    """
    rng = random.Random(f'{seed}-{name}')
    data = bytearray(rng.randbytes(size))
    kinds = ('random', 'zero', 'pattern', 'one byte')
    at = 0
    while at < size // PAGE:
        count = min(rng.randrange(1, 48), size // PAGE - at)
        kind = rng.choice(kinds)
        if kind != 'random':
            data[at * PAGE:(at + count) * PAGE] = \
                pages_of(rng, kind, at, count)
        at += count
    return bytes(data)


def difference(found, wanted):
    """Where two strings of bytes differ first; None if they do not."""
    if found == wanted:
        return None
    if len(found) != len(wanted):
        return f'{len(found)} bytes instead of {len(wanted)}'
    at = next(i for i in range(0, len(wanted), PAGE)
              if found[i:i + PAGE] != wanted[i:i + PAGE])
    while found[at] == wanted[at]:
        at += 1
    pages = sum(found[i:i + PAGE] != wanted[i:i + PAGE]
                for i in range(0, len(wanted), PAGE))
    return (f'{pages} pages differ, the first at {at:#x}: '
            f'{found[at:at + 16].hex()} instead of '
            f'{wanted[at:at + 16].hex()}')


def require(condition, what):
    """Raise what is for the user unless @condition."""
    if not condition:
        raise VMError(what)


def fixed_ram(split):
    """
    (Address, offset in QEMU's block, size) of each part of RAM that is no DIMM.

    @split: the second half of it is above 4 GiB
    """
    low_size = LOW_RAM_SIZE if split else RAM_SIZE
    parts = [(LOWEST_RAM, LOWEST_RAM, LOWEST_RAM_SIZE),
             (EXTENDED_RAM, EXTENDED_RAM, low_size - EXTENDED_RAM)]
    if split:
        parts.append((HIGH_RAM, low_size, RAM_SIZE - low_size))
    return parts


def dimm_options(number):
    """What a DIMM needs to be in the same place in each VM."""
    return {'id': f'dimm{number}', 'memdev': f'mem{number}', 'slot': number,
            'addr': DIMM_AT + number * DIMM_STEP}


class StillVM(qemu_qtest.QEMUQtestMachine):
    """
    QEMU with nothing that runs; use it as a context manager.

    @tree: the build folder of the QEMU
    @machine: type of machine
    @disks: Images; their nodes are disk0 and so on
    @folder: for logs and files of the test
    @dimms: {number: size in bytes} of DIMMs that it begins with
    @split: half of its RAM is above 4 GiB
    """

    def __init__(self, tree, machine, disks, folder, dimms=None, split=False,
                 args=()):
        super().__init__(str(tree / 'qemu-system-x86_64'),
                         wrapper=('setpriv', '--pdeathsig', 'KILL'),
                         base_temp_dir=str(folder))
        self.label = f'{tree.name}, {machine}'
        self.disks = disks
        self._folder = Path(folder)
        self._jobs = 0
        self._split = split
        self.set_machine(f'{machine},max-ram-below-4g={LOW_RAM_SIZE}'
                         if split else machine)
        # The log would have all that is written to RAM.  The real-time clock
        # would be the host's, which goes on while the VM is stopped.
        self.add_args('-nodefaults', '-vga', 'std', '-display', 'none', '-m',
                      f'{RAM_SIZE // MIB}M,slots={DIMM_SLOTS},maxmem=1G',
                      '-qtest-log', '/dev/null', '-rtc', 'clock=vm', *args)
        for number, image in enumerate(disks):
            self.add_args('-blockdev', json.dumps({
                'driver': 'qcow2', 'node-name': f'disk{number}',
                'file': {'driver': 'file', 'filename': str(image.path)}}),
                '-device', f'virtio-blk-pci,drive=disk{number},share-rw=on')
        for number, size in (dimms or {}).items():
            self.add_args('-object', f'memory-backend-ram,id=mem{number},'
                          f'size={size}', '-device', json.dumps(
                              {'driver': 'pc-dimm', **dimm_options(number)}))

    def __enter__(self):
        try:
            self.launch()
        except qemu_machine.VMLaunchFailure as err:
            raise VMError(f'{self.label}: QEMU did not start: '
                          f'{tail(err.output)}') from err
        self._qmp.settimeout(PATIENCE)
        return self

    def __exit__(self, exc_type, exc_val, exc_tb):
        self.shutdown(hard=exc_type is not None)
        if exc_type is None:
            require(self.exitcode() == 0, f'{self.label}: QEMU ended with '
                    f'{self.exitcode()}: {tail(self.get_log())}')

    def hotplug(self, number, size):
        """Add a DIMM to the VM that runs."""
        self.cmd('object-add', qom_type='memory-backend-ram',
                 id=f'mem{number}', size=size)
        self.cmd('device_add', driver='pc-dimm', **dimm_options(number))

    def unplug(self, number):
        """
        Take a DIMM out of the VM that runs.

        That needs a guest that gives it back, through ACPI.
        """
        self.cmd('device_del', id=f'dimm{number}')
        self._select_slot(number)
        require(self._in(MEMHP_FLAGS) & MEMHP_REMOVING,
                f'{self.label}: the guest is not asked for DIMM {number}')
        for flag in (MEMHP_INSERTING, MEMHP_REMOVING, MEMHP_EJECT):
            self._out(MEMHP_FLAGS, flag)
        require(self.event_wait('DEVICE_DELETED', timeout=PATIENCE, match={
            'data': {'device': f'dimm{number}'}})
                and not self._in(MEMHP_FLAGS),
                f'{self.label}: DIMM {number} was not unplugged')
        self.cmd('object-del', id=f'mem{number}')

    # RAM

    def ram(self):
        """(Name of the part, address, size) of all guest RAM."""
        found = [(f'ram-{at:#x}', at, size)
                 for at, _, size in fixed_ram(self._split)]
        for device in self.cmd('query-memory-devices'):
            dimm = device['data']
            found.append((dimm['id'], dimm['addr'], dimm['size']))
        return found

    def _ask(self, command):
        answer = self.qtest(command).split()
        require(answer[:1] == ['OK'],
                f'{self.label}: qtest says {answer} to {command[:60]}')
        return answer[1] if len(answer) > 1 else None

    def _write_ram(self, at, data):
        for start in range(0, len(data), PIECE):
            piece = data[start:start + PIECE]
            if any(piece):
                text = base64.b64encode(piece).decode()
                self._ask(f'b64write {at + start:#x} {len(piece):#x} {text}')
            else:
                self._ask(f'memset {at + start:#x} {len(piece):#x} 0')

    def _read_ram(self, at, size):
        return b''.join(
            base64.b64decode(self._ask(f'b64read {start:#x} '
                                       f'{min(PIECE, at + size - start):#x}'))
            for start in range(at, at + size, PIECE))

    # Registers

    def _out(self, port, value):
        self._ask(f'outb {port:#x} {value:#x}')

    def _in(self, port):
        return int(self._ask(f'inb {port:#x}'), 16)

    def _select_slot(self, number):
        self._ask(f'outl {MEMHP_SLOT:#x} {number:#x}')

    def _write_slots(self, rng):
        for number in range(DIMM_SLOTS):
            self._select_slot(number)
            for port in (MEMHP_OST_EVENT, MEMHP_OST_STATUS):
                self._ask(f'outl {port:#x} {rng.randrange(1 << 31):#x}')

    def _slots(self):
        found = {}
        for number in range(DIMM_SLOTS):
            self._select_slot(number)
            found[f'flags of slot {number}'] = self._in(MEMHP_FLAGS)
        for slot in self.cmd('query-acpi-ospm-status'):
            for what in ('source', 'status'):
                found[f'{what} in slot {slot["slot"]}'] = slot[what]
        return found

    def _write_registers(self, seed):
        rng = random.Random(f'{seed}-registers')
        self._out(VGA_MISC_WRITE, VGA_HAS_COLOURS)
        for ports, index in INDEXED_REGISTERS:
            self._out(ports[0], index)
            self._out(ports[1], rng.randrange(256)
                      & REGISTER_BITS.get((ports, index), 0xff))
        for port in PLAIN_REGISTERS:
            self._out(port, rng.randrange(256))
        self._out(PALETTE_WRITE, 0)
        for _ in range(3 * 256):
            self._out(PALETTE_DATA, rng.randrange(64))
        self._out(PIT_CONTROL, PIT_SET_CHANNEL_2 | seed % 2)
        for _ in range(2):
            self._out(PIT_CHANNEL_2, rng.randrange(256))
        self._write_slots(rng)

    def registers(self):
        """What can be read back, as {name: value}."""
        found = {}
        for ports, index in INDEXED_REGISTERS:
            self._out(ports[0], index)
            found[f'{ports[0]:#x}[{index:#x}]'] = self._in(ports[1])
        for port in PLAIN_REGISTERS:
            found[f'{port:#x}'] = self._in(port)
        self._out(PALETTE_READ, 0)
        for index in range(3 * 256):
            found[f'palette[{index}]'] = self._in(PALETTE_DATA)
        self._out(PIT_CONTROL, PIT_STATUS_2)
        found['PIT status'] = self._in(PIT_CHANNEL_2)
        found.update(self._slots())
        return found

    # All of it

    def fill(self, seed):
        """Let RAM, registers and disks have what belongs to @seed."""
        for name, at, size in self.ram():
            self._write_ram(at, content(seed, name, size))
        self._write_registers(seed)
        self._fill_disks(seed)

    def _fill_disks(self, seed):
        for number in range(len(self.disks)):
            path = disk_pattern(self._folder, seed, number)
            self.cmd('human-monitor-command', command_line=f'qemu-io '
                     f'disk{number} "write -s {path} 0 {DISK_SIZE}"')
        # QEMU says on its own output what goes wrong with that, so the caller
        # looks at the disks when it has ended

    def spoil(self, seed):
        """Change all of it, RAM to what is on no page of fill()'s."""
        for _, at, size in self.ram():
            self._ask(f'memset {at:#x} {size:#x} 0xa5')
        self._write_registers(seed)
        self._fill_disks(seed)

    def require_ram(self, seed):
        """Raise if one byte of RAM is not what fill() has made of it."""
        for name, at, size in self.ram():
            error = difference(self._read_ram(at, size),
                               content(seed, name, size))
            require(error is None, f'{self.label}: {name}: {error}')

    def require_registers(self, wanted):
        """Raise if registers() are not what they were."""
        found = self.registers()
        wrong = [f'{name} is {value:#x} instead of {wanted[name]:#x}'
                 for name, value in found.items() if value != wanted[name]]
        require(not wrong, f'{self.label}: {len(wrong)} registers differ: '
                f'{", ".join(wrong[:5])}')

    # Snapshots

    def _job(self, name, **args):
        self._jobs += 1
        job_id = f'job{self._jobs}'
        try:
            self.cmd(name, job_id=job_id, **args)
            self.event_wait('JOB_STATUS_CHANGE', timeout=PATIENCE, match={
                'data': {'id': job_id, 'status': 'concluded'}})
            [job] = [job for job in self.cmd('query-jobs')
                     if job['id'] == job_id]
            self.cmd('job-dismiss', id=job_id)
        except (EOFError, qemu_qmp.QMPError,
                qemu_machine.QEMUMachineError) as err:
            raise VMError(f'{self.label}: {name}: {err!r}') from err
        require('error' not in job,
                f'{self.label}: {name}: {job.get("error")}')

    def save(self, tag):
        """Take a snapshot; VM state goes to the last disk."""
        nodes = [f'disk{number}' for number in range(len(self.disks))]
        self._job('snapshot-save', tag=tag, vmstate=nodes[-1], devices=nodes)

    def load(self, tag):
        """Revert to a snapshot."""
        nodes = [f'disk{number}' for number in range(len(self.disks))]
        self._job('snapshot-load', tag=tag, vmstate=nodes[-1], devices=nodes)


def disk_pattern(folder, seed, number):
    """A file with what belongs to @seed on a disk."""
    path = Path(folder) / f'pattern-{seed}-{number}'
    if not path.exists():
        path.write_bytes(content(seed, f'disk{number}', DISK_SIZE))
    return path
