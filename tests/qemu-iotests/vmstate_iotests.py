# What the tests of internal snapshots with VM state have in common
#
# SPDX-License-Identifier: GPL-2.0-or-later

import base64
import functools
import json
import os
import random
import re
import subprocess
from typing import Any, Dict, List, Optional, Sequence

import iotests
from iotests import qemu_img, qemu_img_check, qemu_img_create, qemu_io
from qemu.machine import machine


KIB = 1024
MIB = 1024 * KIB

# What lies below belongs to the firmware
RAM_START = 2 * MIB

# RAM is written and read in pieces of this size
PIECE = 64 * KIB

# How far behind the end of a file is looked for what nobody else can see
BEHIND = 2048 * MIB

JOB = 'snapshot-job'

# Set for the long variant of a test
SOAK = os.environ.get('QFS_SOAK') == '1'

QEMU_IO_FAILURE = '(verification|read|write|flush) failed'

Node = Dict[str, Any]


def disk_path(name: str = 'disk') -> str:
    return os.path.join(iotests.test_dir, f'vmstate-{name}.qcow2')


def file_node(path: str, **options: Any) -> Node:
    return {'driver': 'file', 'filename': path, **options}


def faulty(image: Node, rules: Sequence[Node] = (),
           states: Sequence[Node] = ()) -> Node:
    """A node between format and @image that fails as @rules say"""
    node: Node = {'driver': 'blkdebug', 'image': image}
    if rules:
        node['inject-error'] = list(rules)
    if states:
        node['set-state'] = list(states)
    return node


def after_events(count: int, event: str, state: int) -> List[Node]:
    """Rules that reach @state, from 1, with event number @count"""
    if count == 0:
        return []
    steps = [state + i for i in range(1, count)]
    return [{'event': event, 'state': at, 'new_state': to}
            for at, to in zip([1] + steps, steps + [state])]


def own_check(*args: str) -> 'subprocess.CompletedProcess[str]':
    return qemu_img('check', *args, check=False)


def stock_check(*args: str) -> 'subprocess.CompletedProcess[str]':
    """As own_check(), by the qemu-img that has no part of the series"""
    return subprocess.run([os.environ['QFS_STOCK_QEMU_IMG'], 'check', *args],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          universal_newlines=True, check=False)


def hidden_leaks(path: str) -> int:
    """
    How many leaks are there, not behind BEHIND, that qemu-img check misses?

    Stock looks no further than the file, and finds all once that is longer.
    """
    def count(check: 'subprocess.CompletedProcess[str]') -> int:
        assert check.returncode in (0, 2, 3), check.stdout
        return len(re.findall('^Leaked cluster', check.stdout, re.MULTILINE))

    size = os.stat(path).st_size
    seen = count(own_check(path))
    os.truncate(path, size + BEHIND)
    there = count(stock_check(path))
    os.truncate(path, size)
    return there - seen


@functools.lru_cache(maxsize=2048)
def random_piece(seed: int, address: int) -> str:
    """Incompressible data, always the same, as base64"""
    source = random.Random(f'{seed}-{address}')
    data = source.getrandbits(8 * PIECE).to_bytes(PIECE, 'little')
    return base64.b64encode(data).decode()


class SnapshotVM(iotests.VM):
    """A VM whose RAM the test writes and whose snapshots it takes"""

    def __init__(self, ram_mib: int = 16, path_suffix: str = ''):
        super().__init__(path_suffix)
        self.ram_mib = ram_mib
        # The log would contain all that is written to RAM
        self.add_args('-m', str(ram_mib), '-qtest-log', '/dev/null')

    def add_node(self, node: Node) -> None:
        self.add_args('-blockdev', json.dumps(node))

    def add_disk(self, node: Node, device: str = 'virtio-blk') -> None:
        """The node gets a device, which lets node_io() write, too"""
        self.add_node(node)
        self.add_device(f'{device},drive={node["node-name"]},share-rw=on')

    # RAM

    def ram_pieces(self) -> range:
        return range(RAM_START, self.ram_mib * MIB, PIECE)

    def fill_ram(self, seed: int) -> None:
        """Incompressible content, no page like another"""
        for at in self.ram_pieces():
            answer = self.qtest(f'b64write {at:#x} {PIECE:#x} '
                                f'{random_piece(seed, at)}')
            assert answer.startswith('OK')

    def scribble_ram(self) -> None:
        size = self.ram_mib * MIB - RAM_START
        answer = self.qtest(f'memset {RAM_START:#x} {size:#x} 0x5a')
        assert answer.startswith('OK')

    def ram_is(self, seed: int) -> bool:
        for at in self.ram_pieces():
            answer = self.qtest(f'b64read {at:#x} {PIECE:#x}')
            if answer.split() != ['OK', random_piece(seed, at)]:
                return False
        return True

    # Snapshots: each function returns the text of the error, or None

    def snapshot_job(self, command: str, **arguments: Any) -> Optional[str]:
        self.cmd(command, job_id=JOB, **arguments)
        self.event_wait('JOB_STATUS_CHANGE',
                        match={'data': {'id': JOB, 'status': 'concluded'}})
        jobs: Any = self.cmd('query-jobs')
        job = next(job for job in jobs if job['id'] == JOB)
        self.cmd('job-dismiss', id=JOB)
        return job.get('error')

    def save(self, tag: str = 's0', vmstate: str = 'disk',
             devices: Optional[List[str]] = None) -> Optional[str]:
        return self.snapshot_job('snapshot-save', tag=tag, vmstate=vmstate,
                                 devices=devices or [vmstate])

    def load(self, tag: str = 's0', vmstate: str = 'disk',
             devices: Optional[List[str]] = None) -> Optional[str]:
        return self.snapshot_job('snapshot-load', tag=tag, vmstate=vmstate,
                                 devices=devices or [vmstate])

    def delete(self, tag: str = 's0',
               devices: Optional[List[str]] = None) -> Optional[str]:
        return self.snapshot_job('snapshot-delete', tag=tag,
                                 devices=devices or ['disk'])

    def hmp_text(self, command_line: str) -> Optional[str]:
        """Run an HMP command; what it prints is its error"""
        text = self.hmp(command_line)['return'].strip()
        return text or None

    # State

    def status(self) -> str:
        answer: Any = self.cmd('query-status')
        return answer['status']

    def event_names(self) -> List[str]:
        """Events since the last call"""
        return [event['event'] for event in self.get_qmp_events(wait=False)]

    def snapshot_entries(self, node: str = 'disk') -> List[Node]:
        info = self.node_info(node)
        return info['image'].get('snapshots', [])

    def node_io(self, command: str, node: str = 'disk') -> None:
        """Run a qemu-io command; quit() sees if reading or writing failed"""
        answer = self.hmp_qemu_io(node, command)
        assert answer == {'return': ''}, answer


class SnapshotTestCase(iotests.QMPTestCase):
    """
    One image called disk and one VM at a time

    Nothing of a test may stay behind, so files and the VM are taken care of by
    tearDown().
    """

    ram_mib = 16

    def setUp(self) -> None:
        # A SnapshotVM, or None while there is none
        self.vm: Any = None
        self.disk = disk_path()
        self.files: List[str] = []

    def tearDown(self) -> None:
        if self.vm:
            self.vm.shutdown(hard=True)
        for path in self.files:
            iotests.try_remove(path)

    def case_skip(self, reason: str) -> None:
        """The log says which case it is, too"""
        name = self.id().split('.', 1)[1]
        super().case_skip(f'{name}: {reason}')

    # Images

    def create(self, *options: str, path: Optional[str] = None,
               size: str = '64M') -> str:
        """An empty image; @options are for -o"""
        path = path or self.disk
        self.files.append(path)
        args = [arg for option in options for arg in ('-o', option)]
        qemu_img_create('-f', 'qcow2', *args, path, size)
        return path

    def qcow2(self, name: str = 'disk', path: Optional[str] = None,
              file: Optional[Node] = None, **options: Any) -> Node:
        return {
            'driver': 'qcow2',
            'node-name': name,
            'file': file or file_node(path or self.disk),
            **options,
        }

    def assert_sound(self, path: Optional[str] = None,
                     allocated: Optional[int] = None,
                     shared: bool = False,
                     args: Sequence[str] = ()) -> Node:
        """
        No errors, no leaks; the number of allocated clusters as given

        @shared: a VM has the image open, and has flushed it
        @args: what qemu-img needs to open @path
        """
        result = qemu_img_check(*(['-U'] if shared else []), *args,
                                path or self.disk)
        for error in ('check-errors', 'corruptions', 'leaks'):
            self.assertEqual(result.get(error, 0), 0, str(result))
        if allocated is not None:
            self.assertEqual(result.get('allocated-clusters', 0), allocated)
        return result

    def allocated(self, path: Optional[str] = None) -> int:
        return self.assert_sound(path).get('allocated-clusters', 0)

    # VM

    def new_vm(self) -> SnapshotVM:
        assert self.vm is None
        vm = SnapshotVM(self.ram_mib)
        self.vm = vm
        return vm

    def launch(self, *disks: Node, paused: bool = False,
               args: Optional[List[str]] = None) -> SnapshotVM:
        """Start a VM with @disks, by default just the usual one"""
        vm = self.new_vm()
        vm.add_args(*(args or []))
        if paused:
            vm.add_paused()
        for disk in disks or (self.qcow2(),):
            vm.add_disk(disk)
        vm.launch()
        return vm

    def fail_to_start(self, *disks: Node, args: Sequence[str]) -> str:
        """
        Start another VM, which ends with status 1; returns what it prints

        @disks: nodes without devices
        """
        vm = SnapshotVM(self.ram_mib, '-starting')
        vm.add_args(*args)
        for disk in disks:
            vm.add_node(disk)
        try:
            # Which would tell that nobody answers
            with iotests.change_log_level('qemu.qmp'):
                vm.launch()
        except machine.VMLaunchFailure as failure:
            self.assertEqual(failure.exitcode, 1, failure.output)
            return failure.output or ''
        vm.shutdown(hard=True)
        raise AssertionError('it runs')

    def quit(self) -> None:
        """End the VM properly, which closes its images"""
        self.vm.shutdown()
        self.assertEqual(self.vm.exitcode(), 0)
        self.assertNotRegex(self.vm.get_log(), QEMU_IO_FAILURE)
        self.vm = None

    def succeed(self, error: Optional[str]) -> None:
        self.assertIsNone(error)

    def fail_with(self, error: Optional[str], *parts: str,
                  case: str = '') -> None:
        """@error is an error whose text has all of @parts"""
        self.assertIsNotNone(error, f'success, unexpectedly {case}')
        for part in parts:
            self.assertIn(part, error or '', case)


class TracedTestCase(SnapshotTestCase):
    """A VM whose events of interest go to a file"""

    EVENTS = ('vmstate_qcow2_*', 'vmstate_writer_*', 'vmstate_reader_*',
              'qcow2_writev_*', 'qcow2_l2_allocate')

    def setUp(self) -> None:
        super().setUp()
        self.log = os.path.join(iotests.test_dir, 'vmstate-trace.log')
        self.files.append(self.log)

    def launch_traced(self, *disks: Node, **kwargs: Any) -> SnapshotVM:
        args = ['-D', self.log]
        for pattern in self.EVENTS:
            args += ['-trace', pattern]
        return self.launch(*disks, args=args, **kwargs)

    def trace(self, event: str) -> List[str]:
        """What was logged about @event so far"""
        with open(self.log, encoding='utf-8') as log:
            return re.findall(rf'\b{event} (.*)', log.read())


class RoundsTestCase(SnapshotTestCase):
    """Snapshots that differ in RAM and in the second MiB of the disk"""

    ram_mib = 4

    def prepare(self, *options: str) -> int:
        """Allocated clusters of an image where all of 1M to 2M is in use"""
        self.create(*options)
        qemu_io('-f', 'qcow2', '-c', 'write -P 0x11 1M 1M', self.disk)
        return self.allocated()

    def save(self, tag: str, seed: int, node: str = 'disk') -> None:
        self.vm.fill_ram(seed)
        self.vm.node_io(f'write -P {seed} 1M 1M', node)
        self.succeed(self.vm.save(tag, vmstate=node))

    def load(self, tag: str, seed: int, node: str = 'disk') -> None:
        vm = self.vm
        vm.scribble_ram()
        vm.node_io('write -P 0x5a 1M 1M', node)
        self.succeed(vm.load(tag, vmstate=node))
        self.assertTrue(vm.ram_is(seed), f'RAM of {tag}')
        vm.node_io(f'read -P {seed} 1M 1M', node)

    def rounds(self, node: str = 'disk') -> None:
        """Save twice, revert to both, delete both"""
        tags = {'s1': 1, 's2': 2}
        for tag, seed in tags.items():
            self.save(tag, seed, node)
        for tag, seed in tags.items():
            self.load(tag, seed, node)
        self.assertEqual(self.vm.status(), 'running')
        for tag in tags:
            self.succeed(self.vm.delete(tag, devices=[node]))
