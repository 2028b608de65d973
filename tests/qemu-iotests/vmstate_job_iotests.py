# What the tests of snapshot jobs have in common
#
# SPDX-License-Identifier: GPL-2.0-or-later

import json
import os
import select
import signal
import socket
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, \
    Tuple, Type

import iotests
from iotests import qemu_img_info, qemu_io
from vmstate_iotests import JOB, KIB, MIB, Node, SnapshotTestCase, \
    SnapshotVM, after_events, disk_path, faulty


EIO = 5

# Bytes per second.  A writer has 9 MiB of buffers, so at the one speed a save
# of 16 MiB of RAM is about RAM for a second; at the other one it is for ever,
# once the first bytes have been written.
SLOW = 8 * MIB
HELD = 64 * KIB
HELD_BURST = 2 * MIB

# Requests of a writer at a time
DEPTH = 8

# For anything that has to happen some time
DEADLINE = 60

SAVING = 'saved'
REVERTING = 'reverted to'

# States of a job after "created" and "running"
SUCCESS = ['waiting', 'pending', 'concluded', 'null']
FAILURE = ['aborting', 'concluded', 'null']


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """Poll until @condition returns something true, and return that"""
    end = time.monotonic() + DEADLINE
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < end, f'it never happened: {what}'
        time.sleep(0.005)


def has_to_wait(command: str, doing: str = SAVING) -> str:
    return f"Command '{command}' has to wait: a snapshot is being {doing}"


class Storage:
    """
    Images in another process, as slow as a test wants

    A throttle filter in the VM itself would go by its guest's clock, which
    stands still together with the guest.
    """

    # Images cannot grow over NBD
    SIZE = 256 * MIB

    def __init__(self, paths: Dict[str, str]):
        self.path = os.path.join(iotests.sock_dir, 'vmstate-storage.sock')
        args = ['--object', 'throttle-group,id=pace',
                '--nbd-server', f'addr.type=unix,addr.path={self.path}']
        for name, path in paths.items():
            os.truncate(path, self.SIZE)
            # qemu-img looks at the image while it is served here
            file = {'driver': 'file', 'node-name': f'{name}-file',
                    'filename': path, 'locking': 'off'}
            export = {'type': 'nbd', 'id': name, 'node-name': name,
                      'writable': True}
            args += ['--blockdev', json.dumps(file),
                     '--blockdev', json.dumps(self.filter_node(name)),
                     '--export', json.dumps(export)]
        self.names = list(paths)
        self.daemon = iotests.QemuStorageDaemon(*args, qmp=True)

    @staticmethod
    def filter_node(name: str) -> Node:
        return {'driver': 'throttle', 'node-name': name,
                'throttle-group': 'pace', 'file': f'{name}-file'}

    def limit(self, bytes_per_second: int, burst: int = 0) -> None:
        """
        From now on all images together have this speed; 0: no limit

        @burst: as many bytes go faster before
        """
        self.daemon.cmd('qom-set', {
            'path': '/objects/pace', 'property': 'limits',
            'value': {'bps-total': bytes_per_second, 'bps-total-max': burst},
        })
        # This drains, so that requests go that wait by the old limit
        nodes = [self.filter_node(name) for name in self.names]
        self.daemon.cmd('blockdev-reopen', {'options': nodes})

    def hold(self) -> None:
        self.limit(HELD, HELD_BURST)

    def node(self, name: str) -> Node:
        """How a VM gets at the image"""
        return {'driver': 'nbd', 'export': name,
                'server': {'type': 'unix', 'path': self.path}}

    def stop(self) -> None:
        # It need not finish what somebody holds who is gone
        self.daemon.stop(kill_signal=signal.SIGKILL)


class JobVM(SnapshotVM):
    """A VM whose snapshot jobs can be looked at before they end"""

    def _post_launch(self) -> None:
        super()._post_launch()
        # The monitor has to answer at any time
        self._qmp.settimeout(DEADLINE)

    def set_terminal(self, name: str) -> None:
        """Instead of the files that are standard input and output"""
        self._wrapper = ('sh', '-c', 'exec "$@" <"$0" >"$0"', name)

    def begin_save(self, tag: str = 's0', devices: Sequence[str] = ('disk',),
                   vmstate: str = 'disk') -> None:
        self.cmd('snapshot-save', job_id=JOB, tag=tag, vmstate=vmstate,
                 devices=list(devices))

    def begin_load(self, tag: str = 's0', devices: Sequence[str] = ('disk',),
                   vmstate: str = 'disk') -> None:
        self.cmd('snapshot-load', job_id=JOB, tag=tag, vmstate=vmstate,
                 devices=list(devices))

    def begin_delete(self, tag: str = 's0',
                     devices: Sequence[str] = ('disk',)) -> None:
        self.cmd('snapshot-delete', job_id=JOB, tag=tag, devices=list(devices))

    def job(self, name: str = JOB) -> Node:
        jobs: Any = self.cmd('query-jobs')
        return next(job for job in jobs if job['id'] == name)

    def conclude(self, name: str = JOB) -> Node:
        """Wait until the job has ended; what was known of it then"""
        self.event_wait('JOB_STATUS_CHANGE', timeout=DEADLINE,
                        match={'data': {'id': name, 'status': 'concluded'}})
        job = self.job(name)
        self.cmd('job-dismiss', id=name)
        return job

    def job_states(self, name: str = JOB) -> Tuple[List[str], Node]:
        """
        Wait until the job has ended, and dismiss it

        Returns the states that it had, and what was known of it in the end.
        """
        states: List[str] = []
        job: Node = {}
        while states[-1:] != ['null']:
            event: Any = self.event_wait('JOB_STATUS_CHANGE', timeout=DEADLINE,
                                         match={'data': {'id': name}})
            assert event, f'nothing comes after {states}'
            states.append(event['data']['status'])
            if states[-1] == 'concluded':
                job = self.job(name)
                self.cmd('job-dismiss', id=name)
        return states, job

    def run_events(self) -> List[str]:
        """What there was since the last call, but for the states of jobs"""
        events: Any = self.get_qmp_events(wait=False)
        # Those that somebody has skipped come last
        events.sort(key=lambda event: (event['timestamp']['seconds'],
                                       event['timestamp']['microseconds']))
        return [event['event'] for event in events
                if event['event'] != 'JOB_STATUS_CHANGE']

    def stats(self) -> Node:
        return self.cmd('x-query-snapshot-stats')  # type: ignore

    def is_midway(self) -> bool:
        job = self.job()
        return 0 < job['current-progress'] < job['total-progress']

    def is_streaming(self) -> bool:
        """Is RAM written or read just now?"""
        if self.refusal('x-query-snapshot-stats'):
            return False
        stats = self.stats()
        phases = [phase['phase'] for phase in stats['phases']]
        return stats['status'] == 'running' and \
            phases[-1:] in (['ram'], ['state'])

    def wait_streaming(self) -> None:
        wait_until(self.is_streaming, 'RAM is written or read')

    def refusal(self, command: str, **arguments: Any) -> Optional[str]:
        """The text of the error, or None if the command succeeds"""
        answer = self.qmp(command, **arguments)
        if 'error' in answer:
            text: str = answer['error']['desc']  # type: ignore
            return text
        return None


class Peer:
    """The other end of a socket or terminal of QEMU's"""

    def __init__(self, stream: Any):
        self.stream = stream
        self.received = b''

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: Any) -> None:
        self.stream.close()

    def send_bytes(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.stream.fileno(), data):]

    def receive(self, timeout: float = DEADLINE) -> bool:
        """Returns false if there is nothing to be received"""
        if not select.select([self.stream], [], [], timeout)[0]:
            return False
        data = os.read(self.stream.fileno(), 4096)
        assert data, 'QEMU has hung up'
        self.received += data
        return True

    def read_to(self, end: bytes) -> bytes:
        while end not in self.received:
            assert self.receive(), f'QEMU does not send {end!r}'
        text, self.received = self.received.split(end, 1)
        return text


def connect(path: str) -> socket.socket:
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stream.connect(path)
    return stream


class HumanMonitor(Peer):
    PROMPT = b'(qemu) '

    def __init__(self, stream: Any):
        super().__init__(stream)
        self.read_to_prompt()

    def send(self, line: str) -> None:
        """@line is echoed, which read_to_prompt() returns as well"""
        self.send_bytes(line.encode() + b'\n')

    def read_to_prompt(self) -> str:
        return self.read_to(self.PROMPT).decode()

    def has_prompt(self) -> bool:
        while self.receive(0):
            pass
        return self.PROMPT in self.received


class JobTestCase(SnapshotTestCase):
    """Disks 'disk' and, in some tests, 'other' on slow storage"""

    ram_mib = 16
    disks: Tuple[str, ...] = ('disk',)
    vm_class: Type[JobVM] = JobVM

    def setUp(self) -> None:
        super().setUp()
        self.base: Dict[str, int] = {}
        self.paths = {name: disk_path(name) for name in self.disks}
        for name, path in self.paths.items():
            self.create(path=path)
            qemu_io('-f', 'qcow2', '-c', 'write -P 0x11 1M 3M', path)
            self.base[name] = self.allocated(path)
        self.storage: Any = None
        self.storage = Storage(self.paths)

    def tearDown(self) -> None:
        super().tearDown()
        if self.storage:
            self.storage.stop()

    def new_vm(self) -> JobVM:
        assert self.vm is None
        vm = self.vm_class(self.ram_mib)
        self.vm = vm
        return vm

    def disk_nodes(self) -> List[Node]:
        return [self.qcow2(name, file=self.storage.node(name))
                for name in self.disks]

    def start(self, *disks: Node, seed: int = 1, paused: bool = False,
              args: Optional[List[str]] = None) -> JobVM:
        self.storage.limit(0)
        self.launch(*(disks or self.disk_nodes()), paused=paused, args=args)
        vm: JobVM = self.vm
        vm.fill_ram(seed)
        return vm

    def wait_stuck(self) -> None:
        """The writer waits for storage with all requests that it may have"""
        vm = self.vm
        vm.wait_streaming()
        wait_until(lambda: vm.stats()['stream']['max-in-flight'] == DEPTH,
                   'storage has all that it can get')

    def hold_save(self) -> None:
        """Begin a save that does not end before let_go()"""
        self.storage.hold()
        self.vm.begin_save(devices=self.disks)
        self.wait_stuck()

    def hold_load(self) -> None:
        self.storage.hold()
        self.vm.begin_load(devices=self.disks)
        self.vm.wait_streaming()

    def let_go(self) -> None:
        """The operation goes on, and has to succeed"""
        self.storage.limit(0)
        self.succeed(self.vm.conclude().get('error'))

    def fail_after(self, mib: int) -> List[Node]:
        """
        Nodes of the disks, of which the first fails once

        Writing VM state does, where @mib MiB of it have been written before.
        """
        rule = {'event': 'vmstate_save', 'state': 2, 'errno': EIO,
                'once': True, 'iotype': 'write'}
        first, *rest = self.disk_nodes()
        first['file'] = faulty(first['file'], [rule],
                               after_events(mib, 'vmstate_save', 2))
        return [first] + rest

    def assert_no_snapshot(self) -> None:
        for name in self.disks:
            self.assertEqual(self.vm.snapshot_entries(name), [], name)

    def cancel_save(self, tag: str = 's0') -> None:
        """Begin a save and cancel it in the middle"""
        self.storage.limit(SLOW)
        self.vm.begin_save(tag, self.disks)
        self.vm.wait_streaming()
        self.vm.cmd('job-cancel', id=JOB)
        # What is in flight need not take its time
        self.storage.limit(0)

    def assert_cancelled(self, job: Node) -> None:
        self.assertEqual(job['status'], 'concluded')
        self.fail_with(job.get('error'), 'cancelled')
        self.assertEqual(self.vm.status(), 'running')
        self.assert_no_snapshot()

    def snapshot_names(self, path: str) -> Set[str]:
        """While no VM uses the image"""
        assert self.vm is None
        snapshots = qemu_img_info(path).get('snapshots', [])
        return {snapshot['name'] for snapshot in snapshots}

    def assert_as_before(self) -> None:
        """No VM runs, and no image has more in it than in the beginning"""
        for name, path in self.paths.items():
            # Snapshots are no part of what is counted as allocated
            self.assertEqual(self.snapshot_names(path), set(), path)
            self.assert_sound(path, self.base[name])
            qemu_io('-f', 'qcow2', '-c', 'read -P 0x11 1M 3M', path)

    def do_round(self, seed: int = 2) -> None:
        """Save, revert and delete as if nothing had happened"""
        vm = self.vm
        self.storage.limit(0)
        vm.fill_ram(seed)
        devices = list(self.disks)
        self.succeed(vm.save('round', devices=devices))
        vm.scribble_ram()
        self.succeed(vm.load('round', devices=devices))
        self.assertTrue(vm.ram_is(seed))
        self.succeed(vm.delete('round', devices=devices))

    def finish(self) -> None:
        self.do_round()
        self.quit()
        self.assert_as_before()
