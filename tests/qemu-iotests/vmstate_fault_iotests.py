# What the tests of faults in the storage of snapshots have in common
#
# SPDX-License-Identifier: GPL-2.0-or-later

import collections
import os
import re
import shutil
import subprocess
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, \
    Tuple

import iotests
from iotests import qemu_img, qemu_img_check, qemu_img_info, qemu_io
from vmstate_iotests import KIB, SOAK, Node, SnapshotTestCase, SnapshotVM, \
    after_events, disk_path, faulty, file_node, own_check, stock_check
from vmstate_stored_iotests import L2E_OFFSET


EIO = 5
ENOSPC = 28

# Seeds of RAM
FIRST = 1
NOW = 2
AGAIN = 3
SECOND = 4

# Of the disk of FaultTestCase
CLUSTER = 4 * KIB

# Of moments and data that are chosen at random
SEED = int(os.environ.get('QFS_SEED', '20'))

# By how many the number of writes of a save is another one each time
VARIES = 2

# A snapshot has no more of them than this: one L1 table, L2 tables of the disk
# and of its VM state, those among them that were made ahead
TABLES = 16

STOPPED = 'restore-vm'

# What is left to be objected to: 63 bits, and the flag is the other one
NOT_SET = r'^ERROR OFLAG_COPIED (L2|data) cluster: .*' \
    r'entry=[0-7]?[0-9a-f]{0,15} refcount=1$'

# The copy of an image that repairing is tried with
REPAIRED = 'repaired'

Request = Tuple[int, int]

# What the text of an error says that was tried: of a save either the snapshot
# or its VM state, and otherwise the snapshot
SAVE = r"Could not create snapshot 'next' on 'disk'|" \
    'Error while writing VM state: '
LOAD = r"(Could not load|Disks were reverted to|VM state of) snapshot 'first'"
DELETE = r"Could not delete snapshot 'second' on 'disk'"

# What it says besides if it was about a request for VM state
WHERE = r"offset \d+ (to|from) node 'disk'|" \
    r"in node 'disk' cannot be read at offset \d+|" \
    r"Could not flush node 'disk' after \d+ bytes"


def note(text: str) -> None:
    """A figure of this run, which scripts/run-test shows"""
    path = os.path.join(iotests.test_dir, 'vmstate.notes')
    with open(path, 'a', encoding='utf-8') as notes:
        notes.write(text + '\n')


def copy_sparse(source: str, target: str) -> None:
    """Of a file that may be a lot longer than what is in it"""
    subprocess.run(['cp', '--sparse=always', source, target], check=True)


def fail_nth(number: int, kind: str, errno: int) -> Tuple[List[Node],
                                                          List[Node]]:
    """
    Rules and states of blkdebug: one request fails, all others work

    @kind is write, or flush for the first flush after write @number.  Each
    write is an event; a flush that follows no write has nothing to do.
    """
    rule = {'event': 'pwritev', 'state': min(number, 2), 'errno': errno,
            'iotype': kind, 'once': True}
    return [rule], after_events(number - 1, 'pwritev', 2)


class VmLog:
    """
    What a VM logs

    Were the file emptied, QEMU would go on behind zeroes.
    """

    def __init__(self, path: str):
        self.path = path
        # What is before is not read any more
        self.start = 0

    def read_new(self) -> str:
        """What has come since skip()"""
        with open(self.path, encoding='utf-8') as log:
            log.seek(self.start)
            return log.read()

    def skip(self) -> None:
        self.start = os.stat(self.path).st_size


class FaultTestCase(SnapshotTestCase):
    """
    A disk that has changed since its snapshot 'first' was taken

    Whatever becomes of another save or revert: that snapshot has to be there
    afterwards, with its memory and its disk; and so has what the disk has now,
    unless it was reverted.  Every trial begins with a copy of the same image.

    With more disks than 'disk' all snapshots are of all of them; what is
    looked at here is that one.
    """

    ram_mib = 4
    disks: Tuple[str, ...] = ('disk',)
    # The one that has VM state
    vmstate = 'disk'
    options: Tuple[str, ...] = ('cluster_size=4k',)

    def setUp(self) -> None:
        super().setUp()
        # What is done to a disk just now
        self.trial = ''
        for name in self.disks:
            self.create(*self.options, path=self.path_of(name), size='16M')
            self.write_patterns(name, 0x11, '1M')
        self.log = VmLog(os.path.join(iotests.test_dir, 'vmstate-faults.log'))
        self.files.append(self.log.path)
        self.add_file(REPAIRED)
        self.start_vm()
        self.attach()
        self.vm.fill_ram(FIRST)
        self.succeed(self.save_all('first'))
        self.detach()
        for name in self.disks:
            self.write_patterns(name, 0x22, '1536k')
        self.base = self.allocated()
        self.pristine = {name: self.add_file(f'pristine-{name}')
                         for name in self.disks}
        self.keep_as_pristine()
        self.first_base = self.count_first()
        self.first_disk = self.reference('first')
        self.now_disk = self.reference('now')

    def count_first(self) -> int:
        """What is allocated when the disk has been reverted"""
        self.attach()
        self.succeed(self.load_all('first'))
        self.detach()
        count = self.allocated()
        self.renew_disk()
        return count

    def add_second(self) -> None:
        """Another snapshot, which is like the disks are now"""
        self.attach()
        self.vm.fill_ram(SECOND)
        self.succeed(self.save_all('second'))
        self.detach()
        self.keep_as_pristine()

    def path_of(self, name: str) -> str:
        return self.disk if name == 'disk' else disk_path(name)

    def write_patterns(self, name: str, pattern: int, offset: str) -> None:
        """No two disks get the same"""
        pattern += self.disks.index(name)
        qemu_io('-f', 'qcow2', '-c', f'write -P {pattern} {offset} 1M',
                self.path_of(name))

    def add_file(self, name: str) -> str:
        path = disk_path(name)
        self.files.append(path)
        return path

    def reference(self, version: str, name: str = 'disk') -> str:
        """What a disk has now, or in the snapshot that is called @version"""
        path = self.add_file(f'reference-{version}-{name}')
        args = [] if version == 'now' else ['-l', f'snapshot.name={version}']
        qemu_img('convert', '-f', 'qcow2', '-O', 'raw', *args,
                 self.path_of(name), path)
        return path

    def keep_as_pristine(self) -> None:
        """Trials begin with what the disk is now"""
        for name, path in self.pristine.items():
            shutil.copyfile(self.path_of(name), path)

    def renew_disk(self) -> None:
        for name, path in self.pristine.items():
            shutil.copyfile(path, self.path_of(name))

    def assert_disk_is(self, reference: str, shared: bool = False) -> None:
        """Byte for byte"""
        qemu_img('compare', *(['-U'] if shared else []), '-f', 'qcow2', '-F',
                 'raw', self.disk, reference)

    def is_reverted(self) -> bool:
        """Is the disk what 'first' has?  If not, it is what it was."""
        same = [qemu_img('compare', '-f', 'qcow2', '-F', 'raw', self.disk,
                         disk, check=False).returncode == 0
                for disk in (self.now_disk, self.first_disk)]
        self.assertEqual(sorted(same), [False, True])
        return same[1]

    def is_marked(self) -> bool:
        """As corrupt, as nobody knows what is on disk"""
        info = qemu_img_info('-U', self.disk)
        marked: bool = info['format-specific']['data']['corrupt']
        return marked

    def free_leaks(self) -> int:
        """No VM runs that has the disk; nothing but leaks is wrong with it"""
        result = qemu_img_check(self.disk)
        for error in ('check-errors', 'corruptions'):
            if result.get(error, 0):
                self.fail(qemu_img('check', self.disk, check=False).stdout)
        leaks: int = result.get('leaks', 0)
        if leaks:
            qemu_img('check', '-r', 'leaks', self.disk)
        return leaks

    def check_flag(self, line: str, references: Dict[int, int]) -> None:
        """
        A flag that does not fit its count must do no harm

        If it is set, nobody else may use the cluster: the count is too high, a
        leak.  If it is not, the cluster will be copied for nothing.
        """
        match = re.match(r'ERROR OFLAG_COPIED (?:L2|data) cluster: .*'
                         r'entry=([0-9a-f]+) refcount=(\d+)$', line)
        assert match, line
        entry = int(match.group(1), 16)
        if entry >> 63:
            cluster = (entry & L2E_OFFSET) // CLUSTER
            self.assertEqual(references.get(cluster), 1, line)
        else:
            self.assertEqual(match.group(2), '1', line)

    def check_flags(self, text: str) -> None:
        """What stock calls an error is a flag that does no harm"""
        leaks = re.findall(r'^Leaked cluster (\d+) .* reference=(\d+)$', text,
                           re.MULTILINE)
        references = {int(cluster): int(count) for cluster, count in leaks}
        for line in text.splitlines():
            if line.startswith('ERROR'):
                self.check_flag(line, references)

    def check_crashed(self, path: Optional[str] = None) -> List[str]:
        """
        What is wrong with an image does no harm; returns what there is

        That is leaks, and flags that are not set though nobody shares their
        cluster.  Stock QEMU also objects to flags of leaked clusters.
        """
        path = path or self.disk
        stock = stock_check(path)
        self.assertIn(stock.returncode, (0, 2, 3), stock.stdout)
        self.check_flags(stock.stdout)
        result = own_check(path)
        text = result.stdout
        for line in text.splitlines():
            if line.startswith('ERROR'):
                self.assertRegex(line, NOT_SET)
        found = []
        if 'OFLAG_COPIED' in text:
            found.append('flags')
        if 'Leaked cluster' in text:
            found.append('leaks')
        # The status has the worst there is, and 1 is for no check at all
        status = 2 if 'flags' in found else 3 if found else 0
        self.assertEqual(result.returncode, status, text)
        return found

    def check_leaks_only(self, path: Optional[str] = None) -> None:
        """
        Nothing is wrong with an image once its leaks are freed

        That is tried with copies, with stock QEMU as well.
        """
        copy = disk_path(REPAIRED)
        for check in (own_check, stock_check):
            copy_sparse(path or self.disk, copy)
            for args in (('-r', 'leaks', copy), (copy,)):
                result = check(*args)
                self.assertEqual(result.returncode, 0, result.stdout)

    def fail_to(self, tried: str, error: Optional[str], reason: str) -> None:
        """It says what was tried, SAVE or such, with what disk, and why not"""
        self.fail_with(error, "'disk'", reason)
        self.assertRegex(error or '', tried)

    # A VM that has no disks but for a trial, and no devices for them

    def start_vm(self) -> SnapshotVM:
        vm = self.new_vm()
        vm.add_args('-D', self.log.path, '-trace', 'bdrv_co_preadv_part',
                    '-trace', 'bdrv_co_pwritev_part',
                    '-trace', 'vmstate_qcow2_*')
        vm.launch()
        self.log.start = 0
        vm.cmd('x-snapshot-set-parameters', chunk_size=256 * KIB)
        return vm

    def attach(self, rules: Sequence[Node] = (),
               states: Sequence[Node] = ()) -> None:
        for name in self.disks:
            image = faulty(file_node(self.path_of(name)), rules, states)
            self.vm.cmd('blockdev-add', self.qcow2(name, file=image))

    def detach(self) -> None:
        for name in self.disks:
            self.vm.cmd('blockdev-del', node_name=name)

    def save_all(self, tag: str) -> Optional[str]:
        error: Optional[str] = self.vm.save(tag, self.vmstate,
                                            list(self.disks))
        return error

    def load_all(self, tag: str) -> Optional[str]:
        error: Optional[str] = self.vm.load(tag, self.vmstate,
                                            list(self.disks))
        return error

    def delete_all(self, tag: str) -> Optional[str]:
        error: Optional[str] = self.vm.delete(tag, list(self.disks))
        return error

    def snapshot_names(self, name: str = 'disk') -> List[str]:
        return [entry['name'] for entry in self.vm.snapshot_entries(name)]

    def do_round(self) -> None:
        """As if there had never been a fault; ends with the disk detached"""
        vm = self.vm
        self.attach()
        if vm.status() == 'running':
            vm.fill_ram(AGAIN)
            self.succeed(vm.save('again'))
        self.succeed(vm.load('first'))
        self.assertTrue(vm.ram_is(FIRST))
        if vm.status() == STOPPED:
            vm.cmd('cont')
        self.assertEqual(vm.status(), 'running')
        if 'again' in self.snapshot_names():
            self.succeed(vm.load('again'))
            self.assertTrue(vm.ram_is(AGAIN))
            self.succeed(vm.delete('again'))
        self.detach()

    # What an operation does without a fault

    def trace_requests(self) -> Dict[str, List[Request]]:
        """Offset and size of what was read and written since the last call"""
        nodes: Dict[Tuple[str, str], List[Request]] = \
            collections.defaultdict(list)
        for match in re.finditer(r'bdrv_co_p(read|write)v_part bs (\S+) '
                                 r'offset (\d+) bytes (\d+) ',
                                 self.log.read_new()):
            kind, node, offset, size = match.groups()
            nodes[kind, node].append((int(offset), int(size)))
        self.log.skip()
        requests: Dict[str, List[Request]] = {'read': [], 'write': []}
        # Those of blkdebug are passed on to the file: any of these two
        for (kind, _), those in nodes.items():
            if len(those) > len(requests[kind]):
                requests[kind] = those
        return requests

    def each(self, total: int) -> Iterator[int]:
        """Numbers of all requests, and of some that there may be"""
        self.assertGreater(total, 3)
        return iter(range(1, total + VARIES + 1))


class EveryRequest(FaultTestCase):
    def setUp(self) -> None:
        super().setUp()
        # How many of the trials ended how
        self.outcomes: Dict[str, int] = {}
        # Trials whose fault did not make the operation fail
        self.spared: List[str] = []
        # How many clusters those trials left that did not free all
        self.leaky_trials: Dict[str, int] = {}

    def count(self, outcome: str) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def assert_leaks(self, limit: int, clusters: int = 0) -> None:
        """So many trials, at most, could not free all, @clusters each"""
        self.assertLessEqual(len(self.leaky_trials), limit,
                             str(self.leaky_trials))
        for trial, leaks in self.leaky_trials.items():
            self.assertLessEqual(leaks, clusters, trial)

    def assert_failures(self, failures: int, total: int, spared: int = 0
                        ) -> None:
        """Of @total requests an operation can do without @spared, at most"""
        self.assertGreaterEqual(failures, total - spared, str(self.spared))

    def state_clusters(self) -> int:
        """What VM state takes, with tables"""
        entry = qemu_img_info('-U', self.disk)['snapshots'][0]
        return -(-int(entry['vm-state-size']) // CLUSTER) + TABLES

    def tearDown(self) -> None:
        note(f'{self.id()}: {"soak" if SOAK else "short"}, {self.outcomes}, '
             f'spared: {self.spared}, leaks: {self.leaky_trials}')
        super().tearDown()

    def measure(self, operation: Callable[[], Optional[str]]
                ) -> Dict[str, List[Request]]:
        """The requests of an operation that nothing happens to"""
        self.prepare()
        self.trace_requests()
        self.succeed(operation())
        requests = self.trace_requests()
        self.detach()
        return requests

    def prepare(self, rules: Sequence[Node] = (),
                states: Sequence[Node] = ()) -> None:
        self.renew_disk()
        self.vm.fill_ram(NOW)
        self.attach(rules, states)

    def check_text(self, error: str, errno: int,
                   tried: str = f'{SAVE}|{LOAD}|{DELETE}') -> None:
        """It says what was tried, what failed, where and why"""
        self.fail_to(tried, error, os.strerror(errno))
        if 'VM state' in error:
            self.assertRegex(error, WHERE)

    def check_disk(self, reverted: bool) -> None:
        """
        The image has the data that it should have, and no more

        Only what a fault while freeing left may have leaked.
        """
        self.assert_disk_is(self.first_disk if reverted else self.now_disk)
        leaks = self.free_leaks()
        if leaks:
            self.leaky_trials[self.trial] = leaks
        base = self.first_base if reverted else self.base
        if self.allocated() > base:
            # VM state of a revert that succeeded, but for freeing that
            self.assertTrue(reverted)
            self.count('not freed')
        self.do_round()
        self.assert_sound(allocated=base)

    def run_trial(self, attempt: Callable[..., bool], *args: Any) -> bool:
        try:
            failed = attempt(*args)
        except AssertionError as error:
            raise AssertionError(self.trial) from error
        if not failed:
            self.spared.append(self.trial)
        return failed

    def each_write(self, attempt: Callable[..., bool], total: int,
                   kind: str, errno: int, at_end: int, before: int = 0
                   ) -> None:
        """
        Every one fails in its turn, and with it the operation

        It can do without the last @at_end ones, and without @before others.
        """
        spared: List[int] = []
        for number in self.each(total):
            self.trial = f'{kind} {number} of {total}, errno {errno}'
            if not self.run_trial(attempt, errno,
                                  *fail_nth(number, kind, errno)):
                spared.append(number)
        self.assertLessEqual(sum(number <= total - at_end
                                 for number in spared), before,
                             f'{kind}, {total}: {spared}')

    @staticmethod
    def places(requests: Sequence[Request]) -> int:
        """How many trials there are for them"""
        return len({offset for offset, _ in requests})

    def each_read(self, attempt: Callable[..., bool],
                  requests: Sequence[Request], once: bool) -> int:
        failures = 0
        for offset in sorted({offset for offset, _ in requests}):
            self.trial = f'read at {offset}, once: {once}'
            # Opening the image reads the header as well
            rule = {'event': 'none' if offset >= 512 else 'pwritev',
                    'iotype': 'read', 'errno': EIO, 'sector': offset // 512,
                    'once': once}
            failures += self.run_trial(attempt, EIO, [rule])
        return failures


def main(*drivers: str) -> None:
    """Run the tests of a file; @drivers: what they need besides blkdebug"""
    iotests.main(supported_fmts=['qcow2'],
                 supported_protocols=['file'],
                 required_fmts=['blkdebug', *drivers],
                 unsupported_imgopts=['refcount_bits=1', 'data_file',
                                      'compat', 'cluster_size', 'extended_l2',
                                      'preallocation'])
