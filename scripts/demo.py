#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later

"""
Compare snapshots of a stock and of a patched QEMU.

Sets everything up, then boots a Linux guest in each QEMU in turn, fills its
memory with incompressible data, takes internal snapshots and reverts to them,
verifies every byte from inside the guest and prints a table.
"""

import argparse
import dataclasses
import datetime
from pathlib import Path
import re
import sys

# Also keeps QEMU's source tree as it is
sys.dont_write_bytecode = True

# pylint: disable=wrong-import-position
from vmsnap import command, preflight, report, storage, trace  # noqa: E402
from vmsnap.command import BUILD, CommandError  # noqa: E402
from vmsnap.report import PATCHED, STOCK  # noqa: E402

MIB, GIB = 1 << 20, 1 << 30

QEMUS = (STOCK, PATCHED)
MIN_RAM = 128 * MIB

# The guest's disk, and how much of it is written and reverted
DISK_SIZE = '8G'
DISK_DATA = 16 * MIB

# Three snapshots in each of the two images, fio's file, and room for the rest
SPACE_PER_RAM = 7
SPACE_BASE = 1 * GIB

# A guest that KVM can run comes up in one or two
KVM_PROBE_SECONDS = 10

# The snapshot that the other QEMU reverts to
KEPT = 'kept'

machine = None      # vmsnap.machine, once QEMU's modules are there


# The command line

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


def make_parser():
    """All options."""
    parser = command.Parser(prog='scripts/demo',
                            description=__doc__.strip().splitlines()[0])
    parser.add_argument('--ram', type=ram_size, default='2G', metavar='SIZE',
                        help="the guest's memory (default 2G)")
    parser.add_argument('--rounds', type=command.count, default=3, metavar='N',
                        help='paired runs, stock then patched (default 3)')
    command.add_options(parser, 'demo')
    parser.add_argument('--accel', choices=('auto', 'kvm', 'tcg'),
                        default='auto',
                        help='auto (default): KVM where it runs the guest')
    parser.add_argument('--qemu-src', type=Path, metavar='DIR',
                        help='use this QEMU source tree, not the release')
    for name in QEMUS:
        parser.add_argument(f'--{name}', type=Path, metavar='DIR',
                            help=f'build tree to use as the {name} QEMU; '
                                 'with both given nothing is set up')
    return parser


def parse_options():
    """The command line, checked as far as that is possible now."""
    parser = make_parser()
    options = command.parse(parser)
    if options.qemu_src and not (options.qemu_src / 'configure').is_file():
        parser.refuse(f'--qemu-src: {options.qemu_src} is no QEMU source '
                      'tree')
    return options


# Set-up

def check_before(options):
    """Refuse now what would fail in half an hour."""
    problem = preflight.kvm_problem() if options.accel == 'kvm' else None
    if problem:
        raise CommandError(f'--accel kvm: {problem}: use --accel tcg to do '
                           'without')
    for name in QEMUS:
        tree = getattr(options, name)
        if tree:
            check_tree(tree)
    if storage.is_direct(options.cache):
        storage.check_direct_io(options.dir)
    preflight.check_space(options.dir,
                          SPACE_PER_RAM * options.ram + SPACE_BASE,
                          preflight.build_space() if sets_up(options) else 0)
    preflight.check_memory(options.ram)


def check_tree(tree):
    """Raise CommandError when @tree is no build tree of QEMU."""
    for program in ('qemu-system-x86_64', 'qemu-img'):
        if not (tree / program).is_file():
            raise CommandError(f'there is no {program} in {tree}')


def sets_up(options):
    """Whether there are trees to build."""
    return not (options.stock and options.patched)


def set_up(options):
    """Build what is not there; return the build trees by name."""
    if sets_up(options):
        source = options.qemu_src
        command.set_up(*(['--qemu-src', source.resolve()] if source else []))
    return {name: getattr(options, name) or BUILD / name for name in QEMUS}


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
        self.peaks = dict.fromkeys(('saving', 'reverting'))
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
            return
        problem = preflight.kvm_problem()
        if not problem and not self._kvm_works():
            problem = 'KVM does not run the guest here'
        if problem:
            self.status.note(f'{problem}: using TCG')
        else:
            self.config.accel = 'kvm'

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
                self.peaks[what] = max(peak, self.peaks[what] or 0)

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

def describe_machine(options, trees, config):
    """Where the figures come from."""
    return {
        **preflight.describe_host(options.dir),
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
        report.rounds_line(options.rounds),
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


def new_record(options):
    """What --json begins with."""
    return {
        'format': 1,
        'date': datetime.datetime.now(datetime.timezone.utc).isoformat(
            timespec='seconds'),
        'options': {'ram': options.ram, 'rounds': options.rounds,
                    'cache': options.cache, 'aio': options.aio},
    }


def run_demo(options, status, record):
    """From the command line to the table; @record is what --json gets."""
    global machine  # pylint: disable=global-statement
    record.update(new_record(options))
    with command.work_folder(options.dir, 'demo') as folder:
        check_before(options)
        trees = set_up(options)
        machine = command.import_machine()
        config = machine.VMConfig(guest=command.make_guest(), log_dir=folder,
                                  ram=options.ram, cache=options.cache,
                                  aio=options.aio)
        demo = Demo(options, status, trees, config)
        demo.choose_accel()
        host = describe_machine(options, trees, config)
        # Every single run, as far as they get
        record.update(machine=host, runs=demo.runs, fio=demo.ceilings,
                      interchange=demo.interchanges,
                      engine_buffer_peaks=demo.peaks)
        demo.run()
    summary = report.summarize(demo.runs, demo.ceilings)
    record['summary'] = summary
    print_results(demo, summary, host)


if __name__ == '__main__':
    sys.exit(command.run('demo', run_demo, parse_options()))
