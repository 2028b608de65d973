# What the tests have in common that kill QEMU at any moment
#
# SPDX-License-Identifier: GPL-2.0-or-later

import contextlib
import dataclasses
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from typing import Callable, Dict, List, NamedTuple, Sequence, Tuple

from qemu.qmp import QMPError

import iotests
from iotests import qemu_img, qemu_img_check, qemu_io
from vmstate_iotests import KIB, MIB, SOAK, hidden_leaks
from vmstate_job_iotests import DEADLINE, JobVM
from vmstate_fault_iotests import CLUSTER, FIRST, NOW, SECOND, SEED, \
    FaultTestCase, main as run_tests, note


FACTOR = 15 if SOAK else 1

# Every request takes as long, so that a moment is as likely to be in the few
# ones that make a snapshot valid as in those of much data
DELAY = 1500 * 1000

DISK = 16 * MIB

# A request that reads VM state, for blkdebug
STATE_READ = ('vmstate_load', 'read')

# What closing an image leaves behind data that is not in use
HOLE = 64 * KIB

# To the disk, each round
WRITTEN = 128 * KIB

# In what filefrag tells of an extent: where it is in the file, where on the
# disk, and its length
EXTENT = r'^ *\d+: +\d+\.\. +\d+: +\d+\.\. +\d+: +(\d+):'

# What there is before, and stays
RAM = {'first': FIRST, 'second': SECOND}
KEPT = list(RAM)


class FileEnd(NamedTuple):
    """
    What is at the end of an image's file

    @image: where its last cluster ends, be it used or leaked
    @data: where a hole begins that lasts to the end of the file, if any
    @file: where the file ends
    @leaks: how many clusters are leaked
    """

    image: int
    data: int
    file: int
    leaks: int

    def can_be_cut(self) -> bool:
        """
        Is there nothing to be cut off, or will the next save do it?

        It knows what another one has left by the hole.  Where that is not, as
        something was freed, or a leak is behind, it leaves data alone.
        """
        return not self.leaks and (self.data <= self.image or
                                   self.data < self.file)


class KilledDisk:
    """An image, and copies of what was in it at several times"""

    def __init__(self, path: str, snapshots: Dict[str, str], current: str):
        """
        @snapshots: what each of them has, by name; with 'next', if any
        @current: what the disk has now
        """
        self.path = path
        self.snapshots = snapshots
        self.current = current
        self.limit = 0

    def keep_next(self) -> None:
        shutil.copyfile(self.current, self.snapshots['next'])

    def assert_data(self, *references: str) -> str:
        """
        The disk has what one of @references has: that is the one now

        Returns which one that is.
        """
        for reference in references:
            same = qemu_img('compare', '-f', 'qcow2', '-F', 'raw', self.path,
                            reference, check=False)
            if same.returncode == 0:
                if reference != self.current:
                    shutil.copyfile(reference, self.current)
                return reference
        raise AssertionError(f'{self.path} is like none of {references}')

    def write(self, offset: int, pattern: int) -> None:
        qemu_io('-f', 'qcow2', '-c', f'write -P {pattern} {offset} {WRITTEN}',
                self.path)
        with open(self.current, 'r+b') as disk:
            disk.seek(offset)
            disk.write(bytes([pattern]) * WRITTEN)

    def end(self) -> FileEnd:
        result = qemu_img_check(self.path)
        with open(self.path, 'rb') as file:
            size = file.seek(0, os.SEEK_END)
            data = 0
            with contextlib.suppress(OSError):
                # It fails behind the last data
                while True:
                    data = file.seek(file.seek(data, os.SEEK_DATA),
                                     os.SEEK_HOLE)
        return FileEnd(result['image-end-offset'], data, size,
                       result.get('leaks', 0))

    def host_bytes(self) -> int:
        """
        What the host has for the file's data, be it in the file or behind it

        The number of blocks that stat() tells has tables of the file system,
        too, once there are some extents.
        """
        extents = subprocess.run(['filefrag', '-s', '-v', '-b512', self.path],
                                 check=True, capture_output=True, text=True)
        lengths = re.findall(EXTENT, extents.stdout, re.MULTILINE)
        assert lengths, extents.stdout
        return 512 * sum(map(int, lengths))

    def clusters(self) -> int:
        """How many it needs: what is not zero was written"""
        with open(self.current, 'rb') as disk:
            return sum(1 for _ in range(DISK // CLUSTER)
                       if any(disk.read(CLUSTER)))

    def has_next(self) -> bool:
        snapshots = iotests.qemu_img_info(self.path).get('snapshots', [])
        return 'next' in (snapshot['name'] for snapshot in snapshots)


@dataclasses.dataclass
class Operation:
    """
    What is to be killed

    @end: its outcome when it is not
    @slow: kinds of requests that take their time, so that each part of it can
           be hit
    @told: does QEMU tell its phases?
    @phases: how many seconds each of them takes, about; if QEMU does not tell
             them, it is one
    """

    begin: Callable[[], None]
    outcome: Callable[[], str]
    end: str
    slow: Sequence[str] = ('write', 'flush')
    told: bool = True
    phases: Dict[str, float] = dataclasses.field(default_factory=dict)

    def find(self, moment: float) -> Tuple[int, float]:
        """
        Where @moment is, 0 being the beginning and 1 the end of it all

        Returns the number of the phase, from 1, and the seconds since that has
        begun.
        """
        left = moment * sum(self.phases.values())
        for number, seconds in enumerate(self.phases.values(), 1):
            if left < seconds:
                return number, left
            left -= seconds
        return len(self.phases) + 1, left

    def adapt(self, moment: float, outcome: str) -> None:
        """
        Go by how busy the machine is now, so that moments stay spread

        Where QEMU tells its phases, waiting for these does that.
        """
        if self.told:
            return
        if outcome == self.end and moment < 0.9:
            self.phases['all'] *= 0.9
        elif outcome != self.end and moment > 1:
            self.phases['all'] *= 1.1


class KilledTestCase(FaultTestCase):
    """
    The same images for all rounds, one QEMU a round

    A QEMU takes back what the one before it has left, looks at all that has to
    be there, and is killed in its turn.
    """

    rounds = 0
    # Does what is killed free VM state?
    frees_state = False
    # May it leave flags that are not set though nobody shares the cluster?
    may_miss_flags = False

    def setUp(self) -> None:
        super().setUp()
        self.add_second()
        self.quit()
        self.rounds *= FACTOR
        self.source = random.Random(f'{SEED} {self.id()}')
        self.images = [self.image(name) for name in self.disks]
        self.next_ram = 0
        self.outcomes: Dict[str, int] = {}
        self.round = 0

    def image(self, name: str) -> KilledDisk:
        snapshots = {tag: self.reference(tag, name) for tag in KEPT}
        snapshots['next'] = self.add_file(f'next-{name}')
        disk = KilledDisk(self.path_of(name), snapshots,
                          self.reference('now', name))
        disk.limit = os.stat(disk.path).st_size + self.ram_mib * MIB
        return disk

    def tearDown(self) -> None:
        if self.rounds:
            note(f'{self.id()}: {self.rounds} kills, seed {SEED}, '
                 f'{self.outcomes}')
        super().tearDown()

    def count(self, outcome: str) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def new_vm(self) -> JobVM:
        assert self.vm is None
        self.vm = JobVM(self.ram_mib)
        vm: JobVM = self.vm
        vm.add_args('-trace', 'snapshot_*')
        return vm

    def attach_slow(self, operation: Operation) -> None:
        """
        Requests of these kinds take their time

        VM state is read by a few large ones: they take as long together as
        the many ones of a disk.  The rules of an event replace those before.
        """
        self.attach([{'event': event, 'errno': 0, 'iotype': kind, 'delay-ns':
                      DELAY * (16 if (event, kind) == STATE_READ else 1)}
                     for event in ('none', STATE_READ[0])
                     for kind in operation.slow])

    # After a crash

    def look_at_crashed(self) -> None:
        """What there is may be repaired now or later"""
        for disk in self.images:
            found = self.check_crashed(disk.path)
            for what in found:
                self.count(what)
            if not self.may_miss_flags:
                self.assertNotIn('flags', found)
            self.check_leaks_only(disk.path)
            if found and self.source.random() < 0.5:
                qemu_img('check', '-r', 'leaks', disk.path)
                self.assert_sound(disk.path)
            self.assertEqual(hidden_leaks(disk.path), 0, disk.path)

    def assert_cut(self, disk: KilledDisk) -> None:
        """
        The file has what the disk needs, and the host has no more of it

        Of the last cluster, the file has what was written.
        """
        end = self.assert_sound(disk.path, allocated=disk.clusters()
                                )['image-end-offset']
        size = os.stat(disk.path).st_size
        self.assertEqual(-(-size // CLUSTER) * CLUSTER, end, disk.path)
        self.assertLessEqual(disk.host_bytes(), end, disk.path)

    def assert_closed(self) -> None:
        """
        Closing an image cuts off a hole at the end, if not data

        Behind data a short one stays, by which the next save knows it.
        """
        for disk in self.images:
            end = disk.end()
            hole = HOLE if end.image < end.data else 0
            self.assertLessEqual(end.file, max(end.image, end.data) + hole,
                                 str(end))

    def check_data_behind(self, disk: KilledDisk, end: FileEnd) -> None:
        """
        Data behind the end that stays was freed, and never that of a save

        A delete frees what lay there, and so does a revert on a disk whose
        file no save cuts, as the VM state is on the other one: that is what
        was written to the disk, and the two tables of a snapshot behind it.
        """
        if self.frees_state:
            return
        self.assertNotEqual(disk.path, self.path_of(self.vmstate), str(end))
        self.assertLessEqual(end.file - end.image, WRITTEN + 2 * CLUSTER,
                             str(end))

    def cut_data(self, disk: KilledDisk, before: FileEnd) -> None:
        """
        What a save has left of the file that it cannot cut off

        That is no more than there was.  The next round shall not have it.
        """
        end = disk.end()
        self.assertLessEqual(end.file, max(end.image, before.data), str(end))
        if end.file > end.image:
            self.check_data_behind(disk, end)
            self.count('data behind the end')
            os.truncate(disk.path, end.image)

    def take_back(self) -> None:
        """A save takes back all but leaks"""
        before = [disk.end() for disk in self.images]
        self.attach()
        self.succeed(self.save_all('whole'))
        self.detach()
        for disk, end in zip(self.images, before):
            leaks = qemu_img_check(disk.path).get('leaks', 0)
            # It leaks nothing itself
            self.assertLessEqual(leaks, end.leaks)
            if leaks:
                qemu_img('check', '-r', 'leaks', disk.path)
            self.assert_sound(disk.path, allocated=disk.clusters())
        self.attach()
        self.succeed(self.delete_all('whole'))
        self.detach()
        for disk, end in zip(self.images, before):
            if not end.can_be_cut():
                self.cut_data(disk, end)
            elif end.image < end.data:
                self.count('cut off')
            self.assert_cut(disk)

    def verify_snapshots(self) -> None:
        """All have their memory and their disks; 'next' is gone then"""
        self.attach()
        names = {name: self.snapshot_names(name) for name in self.disks}
        self.detach()
        for those in names.values():
            self.assertEqual([name for name in those if name != 'next'], KEPT)
        for tag, ram in RAM.items():
            self.verify(tag, ram)
        halves = sum('next' in those for those in names.values())
        if halves == len(self.disks):
            self.verify('next', self.next_ram)
        elif halves:
            self.refuse_half()
            if self.source.random() < 0.5:
                self.save_over_half()
        if halves:
            self.delete_next()

    def delete_next(self) -> None:
        """From all disks that have it"""
        self.attach()
        self.succeed(self.delete_all('next'))
        for name in self.disks:
            self.assertEqual(self.snapshot_names(name), KEPT)
        self.detach()

    def refuse_half(self) -> None:
        """'next' is on one disk only, so it can be seen but not be loaded"""
        vm = self.vm
        self.attach()
        vm.fill_ram(NOW)
        self.fail_with(vm.hmp_text('info snapshots'),
                       'partial (non-loadable) snapshots', 'next')
        self.fail_with(self.load_all('next'), "'next' does not exist in one "
                       'or more devices')
        self.fail_with(self.save_all('next'), "'next' already exists in one "
                       'or more devices')
        self.assertTrue(vm.ram_is(NOW))
        self.assertEqual(vm.status(), 'running')
        self.detach()
        for disk in self.images:
            disk.assert_data(disk.current)

    def save_over_half(self) -> None:
        """savevm replaces what has the same name, however much there is"""
        vm = self.vm
        self.fill_next()
        self.attach()
        self.assertIsNone(vm.hmp_text('savevm next'))
        vm.scribble_ram()
        self.assertIsNone(vm.hmp_text('loadvm next'))
        self.assertTrue(vm.ram_is(self.next_ram))
        self.detach()
        for disk in self.images:
            disk.assert_data(disk.snapshots['next'])

    def verify(self, tag: str, ram: int) -> None:
        self.vm.scribble_ram()
        self.attach()
        self.succeed(self.load_all(tag))
        self.assertTrue(self.vm.ram_is(ram), tag)
        self.detach()
        for disk in self.images:
            disk.assert_data(disk.snapshots[tag])

    # Rounds

    def fill_next(self) -> None:
        self.next_ram = 100 + self.round
        self.vm.fill_ram(self.next_ram)
        for disk in self.images:
            disk.keep_next()

    def save_next(self) -> None:
        self.fill_next()
        self.attach()
        self.succeed(self.save_all('next'))
        self.detach()

    def take_time_of(self, operation: Operation) -> None:
        self.attach_slow(operation)
        start = time.monotonic()
        operation.begin()
        self.succeed(self.vm.conclude().get('error'))
        operation.phases = {'all': time.monotonic() - start}
        if operation.told:
            operation.phases = {phase['phase']: phase['time'] / 1e6
                                for phase in self.vm.stats()['phases']}
        self.detach()

    def moment(self) -> float:
        """Any, but no two rounds share a part of the operation"""
        return (self.round + self.source.random()) / self.rounds * 1.1

    def events(self) -> List[str]:
        """What QEMU has told of its phases since log.skip()"""
        return re.findall(r'\bsnapshot_(begin|phase|end)\b',
                          self.log.read_new())

    def wait_for_phase(self, number: int, seconds: float) -> None:
        """Until it begins, or for @seconds"""
        end = time.monotonic() + seconds
        while len(self.events()) < number and time.monotonic() < end:
            time.sleep(0.001)

    def kill_at(self, phase: int, seconds: float) -> None:
        """When a phase has lasted for @seconds, or ends before that"""
        self.wait_for_phase(phase, DEADLINE)
        self.wait_for_phase(phase + 1, seconds)
        os.kill(self.vm.get_pid(), signal.SIGKILL)

    def kill_in(self, operation: Operation) -> None:
        """Kill it somewhere in an operation, which may not have begun"""
        moment = self.moment()
        phase, seconds = operation.find(moment)
        self.log.skip()
        self.attach_slow(operation)
        killer = threading.Thread(target=self.kill_at, args=(
            phase if operation.told else 0, seconds))
        killer.start()
        with contextlib.suppress(QMPError):
            operation.begin()
        killer.join()
        self.vm.kill()
        self.vm = None
        if operation.told:
            self.count_phase(operation)

        outcome = operation.outcome()
        self.count(outcome)
        operation.adapt(moment, outcome)

    def count_phase(self, operation: Operation) -> None:
        """In which one it was killed, the one after those that have ended"""
        names = ['before', *operation.phases, 'after', 'after']
        self.count(f'in {names[len(self.events())]}')

    def where_next_is(self, everywhere: str, nowhere: str) -> str:
        """On which disks there is a snapshot 'next' now"""
        halves = [disk.has_next() for disk in self.images]
        for disk in self.images:
            disk.assert_data(disk.current)
        if all(halves):
            return everywhere
        return 'on one disk' if any(halves) else nowhere

    def look_at_it_all(self) -> None:
        """What a crash has left is taken back, and nothing was lost"""
        self.look_at_crashed()
        self.start_vm()
        if self.source.random() < 0.5:
            self.take_back()
            self.verify_snapshots()
        else:
            self.verify_snapshots()
            self.assert_closed()
            self.take_back()
        for disk in self.images:
            self.assert_cut(disk)
            self.assertLess(os.stat(disk.path).st_size, disk.limit)
            disk.write(self.source.randrange(0, 3 * MIB, CLUSTER),
                       self.source.randrange(1, 256))

    def assert_phases(self, *phases: str) -> None:
        """Where moments must have been, too, unless they are few"""
        if self.rounds >= 40:
            self.assertLessEqual({f'in {phase}' for phase in phases},
                                 self.outcomes.keys(), str(self.outcomes))

    def assert_kinds(self, *outcomes: str) -> None:
        """Moments were not all before, or all after, what counts"""
        self.assertGreater(len(self.outcomes.keys() & set(outcomes)), 1,
                           str(self.outcomes))

    def do_rounds(self, do_round: Callable[[], None]) -> None:
        self.start_vm()
        for self.round in range(self.rounds):
            try:
                do_round()
                self.look_at_it_all()
            except AssertionError as error:
                # Summaries of a run have the end of a traceback only
                raise AssertionError(f'round {self.round} of seed {SEED}: '
                                     f'{error}') from error
        self.quit()


class KilledSave(KilledTestCase):
    def begin(self) -> None:
        self.vm.begin_save('next', self.disks, self.vmstate)

    def outcome(self) -> str:
        return self.where_next_is('saved', 'not saved')

    def test_save(self) -> None:
        save = Operation(self.begin, self.outcome, 'saved')
        self.start_vm()
        self.fill_next()
        self.take_time_of(save)
        self.verify_snapshots()
        self.quit()

        def do_round() -> None:
            self.fill_next()
            self.kill_in(save)

        self.do_rounds(do_round)
        self.assertGreater(self.outcomes['not saved'], self.rounds // 4)
        self.assert_kinds('saved', 'on one disk', 'not saved')
        self.assert_phases('ram', 'disks-snapshot')


class KilledDelete(KilledTestCase):
    frees_state = True
    may_miss_flags = True

    def begin(self) -> None:
        self.vm.begin_delete('next', self.disks)

    def outcome(self) -> str:
        return self.where_next_is('not deleted', 'deleted')

    def test_delete(self) -> None:
        delete = Operation(self.begin, self.outcome, 'deleted', told=False)
        self.start_vm()
        self.save_next()
        self.take_time_of(delete)
        self.quit()

        def do_round() -> None:
            self.save_next()
            self.kill_in(delete)

        self.do_rounds(do_round)
        self.assert_kinds('deleted', 'on one disk', 'not deleted')


class KilledRevert(KilledTestCase):
    target = KEPT[0]

    def begin(self) -> None:
        self.vm.begin_load(self.target, self.disks, self.vmstate)

    def outcome(self) -> str:
        reverted = []
        for disk in self.images:
            target = disk.snapshots[self.target]
            reverted.append(disk.assert_data(disk.current, target) == target)
        if all(reverted):
            return 'reverted'
        return 'one disk reverted' if any(reverted) else 'not reverted'

    def test_revert(self) -> None:
        revert = Operation(self.begin, self.outcome, 'reverted',
                           ('read', 'write', 'flush'))
        self.start_vm()
        self.take_time_of(revert)
        self.assertEqual(self.outcome(), 'reverted')
        self.quit()

        def do_round() -> None:
            self.target = self.source.choice(KEPT)
            self.kill_in(revert)

        self.do_rounds(do_round)
        self.assert_kinds('reverted', 'one disk reverted', 'not reverted')
        self.assert_phases('disks-revert', 'state')


def main() -> None:
    # A monitor that hangs up is no news here
    logging.getLogger('qemu').setLevel(logging.CRITICAL)
    run_tests()
