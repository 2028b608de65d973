#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later

"""
Compare snapshots of a stock and of a patched QEMU.

Sets everything up, then boots a Linux guest in each QEMU in turn, fills its
memory with incompressible data, takes internal snapshots and reverts to them,
verifies every byte from inside the guest and prints a table.
"""

import argparse
import contextlib
import dataclasses
import datetime
import importlib
import json
import os
from pathlib import Path
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile

# Also keeps QEMU's source tree as it is
sys.dont_write_bytecode = True

# pylint: disable=wrong-import-position
from vmsnap import report, storage, trace  # noqa: E402
from vmsnap.report import PATCHED, STOCK  # noqa: E402
from vmsnap.status import Status  # noqa: E402

TOP = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get('QFS_BUILD_DIR', TOP / 'build'))

MIB, GIB = 1 << 20, 1 << 30

QEMUS = (STOCK, PATCHED)
MIN_RAM = 128 * MIB

# The guest's disk, and how much of it is written and reverted
DISK_SIZE = '8G'
DISK_DATA = 16 * MIB

# Three snapshots in each of the two images, fio's file, and room for the rest
SPACE_PER_RAM = 7
SPACE_BASE = 1 * GIB
# What a QEMU process takes on top of its guest's memory
QEMU_MEMORY = 512 * MIB

# A guest that KVM can run comes up in one or two
KVM_PROBE_SECONDS = 10

# What ends the demo before its time
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# The snapshot that the other QEMU reverts to
KEPT = 'kept'

machine = None      # vmsnap.machine, once QEMU's modules are there


class DemoError(Exception):
    """The demo cannot go on; the text says why in one sentence."""


class Interrupted(Exception):
    """Somebody wants the demo to end."""


# The command line

class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message):
        self.exit(2, f'error: {message}\n')


def ram_size(text):
    """2G, 512M or, as with QEMU's -m, a number of MiB."""
    found = re.fullmatch(r'(\d+)([MG]?)', text.upper())
    if not found:
        raise argparse.ArgumentTypeError(
            f'{text} is no size: use something like 512M or 2G')
    size = int(found[1]) * (GIB if found[2] == 'G' else MIB)
    if size < MIN_RAM:
        raise argparse.ArgumentTypeError(
            f'{text} is too small for the guest: use at least 128M')
    return size


def round_count(text):
    """A number of at least one."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f'{text} is no number of rounds: use 1 or more')
    return int(text)


def make_parser():
    """All options."""
    parser = Parser(prog='demo', description=__doc__.strip().splitlines()[0])
    parser.add_argument('--ram', type=ram_size, default='2G', metavar='SIZE',
                        help="the guest's memory (default 2G)")
    parser.add_argument('--rounds', type=round_count, default=3, metavar='N',
                        help='paired runs, stock then patched (default 3)')
    parser.add_argument('--cache', choices=list(storage.CACHE_MODES),
                        default='none', help='cache mode (default none)')
    parser.add_argument('--aio', choices=storage.AIO_MODES,
                        help='how QEMU does asynchronous I/O (default native,'
                             ' or threads where the cache mode excludes it)')
    parser.add_argument('--accel', choices=('auto', 'kvm', 'tcg'),
                        default='auto',
                        help='auto (default): KVM where it runs the guest')
    parser.add_argument('--dir', type=Path, metavar='DIR',
                        default=BUILD / 'demo',
                        help='folder for images (default build/demo)')
    parser.add_argument('--qemu-src', type=Path, metavar='DIR',
                        help='use this QEMU source tree, not the release')
    parser.add_argument('--json', type=Path, metavar='FILE',
                        help='also write all figures to FILE')
    for name in QEMUS:
        parser.add_argument(f'--{name}', type=Path, metavar='DIR',
                            help=f'build tree to use as the {name} QEMU; '
                                 'with both given nothing is set up')
    return parser


def parse_options():
    """The command line, checked as far as that is possible now."""
    parser = make_parser()
    options = parser.parse_args()
    direct = storage.is_direct(options.cache)
    if options.aio is None:
        options.aio = 'native' if direct else 'threads'
    if options.aio == 'native' and not direct:
        parser.error(f'--aio native needs O_DIRECT, which --cache '
                     f'{options.cache} does not use: take --aio io_uring or '
                     'threads, or --cache none')
    if options.qemu_src and not (options.qemu_src / 'configure').is_file():
        parser.error(f'--qemu-src: {options.qemu_src} is no QEMU source tree')
    if options.json and not (os.access(options.json.parent, os.W_OK)
                             and not options.json.is_dir()):
        parser.error(f'--json: {options.json} cannot be written')
    return options


# Set-up

def run_step(command, what):
    """Run one of the project's scripts, which explain themselves."""
    try:
        done = subprocess.run([str(word) for word in command], check=False,
                              stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, text=True)
    except OSError as err:
        raise DemoError(f'{what}: {err}') from err
    if done.returncode:
        raise DemoError(f'{what}, see above')
    return done.stdout.strip()


def set_up(options):
    """Build what is not there; return the build trees by name."""
    trees = {name: getattr(options, name) or BUILD / name for name in QEMUS}
    if not (options.stock and options.patched):
        command = [TOP / 'scripts' / 'setup']
        if options.qemu_src:
            command += ['--qemu-src', options.qemu_src.resolve()]
        run_step(command, 'setting up did not succeed')
    for tree in trees.values():
        for program in ('qemu-system-x86_64', 'qemu-img'):
            if not (tree / program).is_file():
                raise DemoError(f'there is no {program} in {tree}')
    return trees


def make_guest():
    """The folder with the guest's kernel and initramfs."""
    return Path(run_step([TOP / 'tests' / 'guest' / 'make-guest'],
                         'making the guest did not succeed'))


def import_machine():
    """vmsnap.machine stands on modules that set_up() fetches."""
    global machine  # pylint: disable=global-statement
    try:
        machine = importlib.import_module('vmsnap.machine')
    except ImportError as err:
        raise DemoError(str(err)) from err


def check_room(options):
    """Refuse now what would fail in half an hour."""
    needed = SPACE_PER_RAM * options.ram + SPACE_BASE
    free = storage.free_space(options.dir)
    if free < needed:
        raise DemoError(f'{options.dir} has {free / GIB:.1f} GiB free and '
                        f'{needed / GIB:.1f} are needed: name another folder '
                        'with --dir, or use a smaller --ram')
    available = host_memory('MemAvailable')
    if available < options.ram + QEMU_MEMORY:
        raise DemoError(f'this machine has {available / GIB:.1f} GiB of '
                        'memory available, too little for a guest of '
                        f'{options.ram / GIB:.1f}: use a smaller --ram')
    if storage.is_direct(options.cache):
        storage.check_direct_io(options.dir)


def host_memory(key):
    """An entry of /proc/meminfo in bytes."""
    text = Path('/proc/meminfo').read_text(encoding='ascii')
    return int(re.search(rf'^{key}:\s+(\d+)', text, re.M)[1]) * 1024


def remove_leftovers(folder):
    """What a killed demo could not remove itself."""
    for left in folder.glob('demo-*-*'):
        owner = left.name.split('-')[1]
        if owner.isdecimal() and not Path('/proc', owner).exists():
            shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def work_folder(folder):
    """A folder that is gone afterwards."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        path = tempfile.mkdtemp(prefix=f'demo-{os.getpid()}-', dir=folder)
    except OSError as err:
        raise DemoError(f'--dir: {folder} cannot be used: '
                        f'{err.strerror}') from err
    try:
        yield Path(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)


# The runs

class Demo:
    """All rounds and what came out of them."""

    def __init__(self, options, status, trees, config):
        self.options = options
        self.status = status
        self.trees = trees
        self.config = config
        self.fio = storage.Fio(config.log_dir, options.cache, options.aio)
        self.runs = []
        self.ceilings = []
        self.interchanges = []
        self.peaks = {}
        self.round = 0
        # (seed, size of the guest's memory) of the snapshot that is kept
        self._kept = {}
        self._event_list = trace.write_event_list(
            config.log_dir / 'events', self._binary(STOCK),
            self._binary(PATCHED))

    # Things by name

    def _binary(self, qemu):
        return self.trees[qemu] / 'qemu-system-x86_64'

    def _image(self, qemu):
        return storage.Image(self.config.log_dir / f'{qemu}.qcow2',
                             self.trees[qemu] / 'qemu-img')

    def _vm(self, qemu, **options):
        return machine.VM(self._binary(qemu), self._image(qemu), self.config,
                          qemu, progress=self.status.detail, **options)

    def _step(self, text):
        return self.status.step(
            f'round {self.round} of {self.options.rounds}, {text}')

    # The accelerator

    def choose_accel(self):
        """Try KVM where the user leaves it to us."""
        if self.options.accel != 'auto':
            self.config.accel = self.options.accel
        elif not os.access('/dev/kvm', os.R_OK | os.W_OK):
            self.status.note('No access to /dev/kvm: using TCG')
        elif self._kvm_works():
            self.config.accel = 'kvm'
        else:
            self.status.note('KVM does not run the guest here: using TCG')

    def _kvm_works(self):
        config = dataclasses.replace(self.config, accel='kvm',
                                     ram=2 * MIN_RAM,
                                     boot_timeout=KVM_PROBE_SECONDS)
        image = self._image(STOCK)
        image.create(DISK_SIZE)
        try:
            with self.status.step('trying KVM'), \
                 machine.VM(self._binary(STOCK), image, config, 'KVM') as vm:
                vm.boot()
            return True
        except machine.VMError:
            return False
        finally:
            image.remove()

    # One QEMU in one round

    def _note_run(self, qemu, key, timing, size=None):
        step = next(step for step in report.STEPS if step.key == key)
        run = {'round': self.round, 'qemu': qemu, 'step': key,
               'seconds': timing.seconds, 'cpu_seconds': timing.cpu_seconds}
        speed = ''
        if size is not None:
            run['bytes'] = size
            run['mib_per_second'] = size / MIB / timing.seconds
            speed = f"{run['mib_per_second']:6.0f} MiB/s"
        self.runs.append(run)
        self.status.note(f'round {self.round}  {qemu:8}{step.title:24}'
                         f'{timing.seconds:7.2f} s '
                         f'{timing.cpu_seconds:6.2f} CPU s  {speed}'.rstrip())

    def _write(self, vm, seed, what):
        with self._step(f'{vm.label}: {what}'):
            vm.agent('fill', seed)
            vm.agent('disk-fill', seed, DISK_DATA)

    def _verify(self, vm, seed, memory):
        with self._step(f'{vm.label}: verifying memory and disk'):
            verified = int(vm.agent('verify', seed))
            vm.agent('disk-verify', seed, DISK_DATA)
        if verified != memory:
            raise machine.VerifyError(
                f'{vm.label}: the guest verified {verified} bytes of '
                f'{memory}')

    def _cycle(self, vm, memory, tag, seed, save, load):
        """Save, change everything, revert, verify everything."""
        (save_key, save_call), (load_key, load_call) = save, load
        self._write(vm, seed, 'filling memory')
        with self._step(f'{vm.label}: {save_key}'):
            timing = save_call(tag)
        size = vm.vmstate_size(tag)
        self._note_run(vm.label, save_key, timing, size)
        self._write(vm, seed + 1, 'changing all memory')
        with self._step(f'{vm.label}: {load_key}'):
            timing = load_call(tag)
        self._note_run(vm.label, load_key, timing, size)
        self._verify(vm, seed, memory)
        return size

    def _delete_all_but_kept(self, vm, tags):
        with self._step(f'{vm.label}: deleting snapshots'):
            timings = [vm.snapshot_delete(tag) for tag in tags]
        self._note_run(vm.label, 'qmp-delete', machine.Timing(
            sum(timing.seconds for timing in timings),
            sum(timing.cpu_seconds for timing in timings)))

    def _quit_and_check(self, vm, image):
        with self._step(f'{vm.label}: checking the image'):
            vm.quit()
            image.check()

    def run_qemu(self, qemu):
        """All that is measured with one QEMU; return the stream's size."""
        image = self._image(qemu)
        image.create(DISK_SIZE)
        seed = 100 * self.round + 10 * QEMUS.index(qemu)
        with self._vm(qemu) as vm:
            with self._step(f'{qemu}: booting the guest'):
                memory = vm.boot()
            size = self._cycle(vm, memory, 'first', seed,
                               ('qmp-save', vm.snapshot_save),
                               ('qmp-load', vm.snapshot_load))
            self._cycle(vm, memory, 'second', seed + 2,
                        ('qmp-save-again', vm.snapshot_save),
                        ('qmp-load-again', vm.snapshot_load))
            self._cycle(vm, memory, KEPT, seed + 4,
                        ('hmp-save', vm.savevm), ('hmp-load', vm.loadvm))
            self._kept[qemu] = seed + 4, memory
            self._delete_all_but_kept(vm, ['first', 'second'])
            self._quit_and_check(vm, image)
        return size

    # The ceiling

    def run_fio(self, size):
        """What the storage can do, in the same round."""
        if not self.fio.available():
            return
        with self._step('fio'):
            found = self.fio.measure(size)
        self.ceilings.append({'round': self.round, 'bytes': size, **found})
        self.status.note(f'round {self.round}  fio     write '
                         f"{found['write_depth8']:.0f}, read "
                         f"{found['read_depth1']:.0f} (depth 1) and "
                         f"{found['read_depth8']:.0f} (depth 8) MiB/s")

    # Interchange

    def _trace(self, qemu):
        if qemu != PATCHED or not self._event_list:
            return None
        return self._event_list, self.config.log_dir / 'trace.log'

    def _note_peaks(self, log):
        for what, peak in trace.buffer_peaks(log).items():
            if peak is not None:
                self.peaks[what] = max(peak, self.peaks.get(what, 0))

    def interchange(self, writer, reader):
        """@reader reverts to a snapshot that @writer took."""
        seed, memory = self._kept[writer]
        image = self._image(writer)
        tracing = self._trace(reader)
        label = f'{reader} on the image of {writer}'
        with machine.VM(self._binary(reader), image, self.config, label,
                        paused=True, progress=self.status.detail,
                        trace=tracing) as vm:
            vm.start()
            with self._step(f'{label}: reverting'):
                timing = vm.snapshot_load(KEPT)
            vm.command('cont')
            self._verify(vm, seed, memory)
            if tracing:
                # Not timed: this is where the writer's buffers are seen
                with self._step(f'{label}: saving with trace events'):
                    vm.snapshot_save('traced')
                    vm.snapshot_delete('traced')
            vm.snapshot_delete(KEPT)
            self._quit_and_check(vm, image)
        if tracing:
            self._note_peaks(tracing[1])
        self.interchanges.append({
            'round': self.round, 'saved_by': writer, 'reverted_by': reader,
            'seconds': timing.seconds, 'verified_bytes': memory})
        self.status.note(f'round {self.round}  saved by {writer}, reverted '
                         f'and verified in {reader}')

    # All of it

    def run(self):
        """Every round."""
        for self.round in range(1, self.options.rounds + 1):
            size = self.run_qemu(STOCK)
            self.run_fio(size)
            self.run_qemu(PATCHED)
            self.interchange(STOCK, PATCHED)
            self.interchange(PATCHED, STOCK)
            for qemu in QEMUS:
                self._image(qemu).remove()


# The results

def cpu_model():
    """What the host's processor calls itself."""
    text = Path('/proc/cpuinfo').read_text(encoding='utf-8')
    found = re.search(r'^model name\s*:\s*(.+)$', text, re.M)
    return found[1] if found else platform.machine()


def describe_machine(options, trees, config):
    """Where the figures come from."""
    return {
        'cpu': cpu_model(), 'cpus': os.cpu_count(),
        'memory': host_memory('MemTotal'),
        'kernel': platform.release(),
        'file_system': storage.file_system(options.dir),
        'accel': config.accel,
        'qemu': {name: machine.qemu_version(tree / 'qemu-system-x86_64')
                 for name, tree in trees.items()},
    }


def headline(options, host):
    """The lines above the tables."""
    return [
        f"QEMU {host['qemu'][STOCK]} (stock) and {host['qemu'][PATCHED]} "
        f"(patched), {host['accel'].upper()}",
        f"guest with {options.ram // MIB} MiB of memory, full of "
        'incompressible data',
        f"cache={options.cache}, aio={options.aio}, {host['file_system']}, "
        f"{host['cpus']} CPUs, Linux {host['kernel']}",
        f'medians of {options.rounds} paired round(s); lowest and highest '
        'in brackets',
    ]


def print_results(demo, summary, host):
    """The table and what goes with it."""
    memory = max(entry['verified_bytes'] for entry in demo.interchanges)
    stream = max(run.get('bytes', 0) for run in demo.runs)
    print('', *headline(demo.options, host), sep='\n')
    print('', *report.time_table(summary), sep='\n')
    print('', *report.cost_table(summary), sep='\n')
    print('', *report.fio_lines(summary['fio']), sep='\n')
    print(report.buffer_line(demo.peaks))
    print(f'Each snapshot holds {stream / MIB:.0f} MiB of machine state; the '
          'second and the third one\nare taken after a revert.')
    print(f'After every revert the guest verified {memory} bytes of memory '
          f'and {DISK_DATA}\nof its disk; {len(demo.interchanges)} of the '
          "reverts were to the other QEMU's snapshots.\n"
          'All images are clean.')


def write_json(path, demo, summary, host):
    """The same and every single run, for a program."""
    options = demo.options
    everything = {
        'format': 1,
        'date': datetime.datetime.now(datetime.timezone.utc).isoformat(
            timespec='seconds'),
        'options': {'ram': options.ram, 'rounds': options.rounds,
                    'cache': options.cache, 'aio': options.aio},
        'machine': host,
        'runs': demo.runs,
        'fio': demo.ceilings,
        'interchange': demo.interchanges,
        'engine_buffer_peaks': {what: demo.peaks.get(what)
                                for what in ('saving', 'reverting')},
        'summary': summary,
    }
    text = json.dumps(everything, indent=2, ensure_ascii=False) + '\n'
    path.write_text(text, encoding='utf-8')


def run_demo(options, status):
    """From the command line to the table."""
    trees = set_up(options)
    import_machine()
    guest = make_guest()
    with work_folder(options.dir) as folder:
        check_room(options)
        config = machine.VMConfig(guest=guest, log_dir=folder,
                                  ram=options.ram, cache=options.cache,
                                  aio=options.aio)
        demo = Demo(options, status, trees, config)
        demo.choose_accel()
        host = describe_machine(options, trees, config)
        demo.run()
    summary = report.summarize(demo.runs, demo.ceilings)
    print_results(demo, summary, host)
    if options.json:
        write_json(options.json, demo, summary, host)


def interrupt(number, _frame):
    """Unwind, so that everything is cleaned up, and do not unwind that."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(signal.Signals(number).name)


def explain(error):
    """The last line of a demo that failed."""
    if machine and isinstance(error, machine.VerifyError):
        return f'VERIFICATION FAILED: {error}'
    return f'error: {error}'


def expected_errors():
    """What ends in a sentence instead of a trace."""
    kinds = (DemoError, storage.StorageError, OSError)
    return kinds + (machine.VMError,) if machine else kinds


def main():
    """Return the exit code."""
    options = parse_options()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors='replace')
    for number in SIGNALS:
        signal.signal(number, interrupt)
    status = Status()
    try:
        run_demo(options, status)
        return 0
    except Interrupted as reason:
        status.note(f'error: stopped by {reason}; nothing is left behind')
        return 130
    except Exception as error:  # pylint: disable=broad-except
        if not isinstance(error, expected_errors()):
            raise
        status.note(explain(error))
        return 1


if __name__ == '__main__':
    sys.exit(main())
