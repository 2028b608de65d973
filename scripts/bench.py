#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later

"""
Measure many snapshots in a row, with a revert after each.

In stock QEMU the second snapshot after a revert is slower than the first.  For
each round, stock and patched in turn: a new image, a guest with its memory full
of incompressible data, then as many times as asked for a save and a revert
through QMP.  At the end the guest verifies its memory.  Prints the medians of
all rounds for each save in the row; --json writes the raw runs.
"""

import argparse
import importlib
import json
import os
from pathlib import Path
import statistics
import subprocess
import sys
import tempfile

# Also keeps QEMU's source tree as it is
sys.dont_write_bytecode = True

# pylint: disable=wrong-import-position
from vmsnap import storage  # noqa: E402
from vmsnap.status import Status  # noqa: E402

TOP = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get('QFS_BUILD_DIR', TOP / 'build'))
MIB = 1 << 20
QEMUS = ('stock', 'patched')
SEED = 1


def at_least_one(text):
    """A whole number of 1 or more."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def parse_options():
    """The command line."""
    parser = argparse.ArgumentParser(prog='bench',
                                     description=__doc__.split('\n')[1])
    parser.add_argument('--ram', type=at_least_one, default=1024,
                        metavar='MIB', help='guest memory in MiB (%(default)s)')
    parser.add_argument('--saves', type=at_least_one, default=10,
                        metavar='N', help='saves in a row (%(default)s)')
    parser.add_argument('--rounds', type=at_least_one, default=1,
                        metavar='N', help='paired runs (%(default)s)')
    parser.add_argument('--cache', default='none',
                        help='cache mode (%(default)s)')
    parser.add_argument('--aio', default='native',
                        help='kind of asynchronous I/O (%(default)s)')
    parser.add_argument('--dir', type=Path, default=BUILD,
                        help='where the images are (build/)')
    parser.add_argument('--json', type=Path, help='write the raw runs here')
    return parser.parse_args()


def run_script(*command):
    """Run one of the project's scripts; it says itself what went wrong."""
    done = subprocess.run([str(word) for word in command], check=False,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          text=True)
    if done.returncode:
        sys.exit(1)
    return done.stdout.strip()


def row_of_saves(machine, vm, options, note):
    """Save and revert again and again; yield what each took."""
    memory = vm.boot()
    vm.agent('fill', SEED)
    for number in range(1, options.saves + 1):
        tag = f's{number}'
        save = vm.snapshot_save(tag)
        size = vm.vmstate_size(tag)
        load = vm.snapshot_load(tag)
        note(f'{vm.label:8}{number:3}  save {save.seconds:6.2f} s '
             f'{size / MIB / save.seconds:6.0f} MiB/s   '
             f'revert {load.seconds:6.2f} s '
             f'{size / MIB / load.seconds:6.0f} MiB/s')
        yield {'number': number, 'bytes': size,
               'save_seconds': save.seconds, 'load_seconds': load.seconds,
               'save_cpu_seconds': save.cpu_seconds,
               'load_cpu_seconds': load.cpu_seconds}
    if int(vm.agent('verify', SEED)) != memory:
        raise machine.VerifyError(f'{vm.label}: not all memory was verified')


def measure(machine, options, guest, qemu, note):
    """One row of saves in a new image, which must be clean afterwards."""
    tree = BUILD / qemu
    with tempfile.TemporaryDirectory(prefix='bench-',
                                     dir=options.dir) as folder:
        folder = Path(folder)
        image = storage.Image(folder / 'disk.qcow2', tree / 'qemu-img')
        image.create('8G')
        config = machine.VMConfig(guest=guest, log_dir=folder,
                                  ram=options.ram * MIB, cache=options.cache,
                                  aio=options.aio)
        with machine.VM(tree / 'qemu-system-x86_64', image, config,
                        qemu) as vm:
            runs = list(row_of_saves(machine, vm, options, note))
            vm.quit()
        image.check()
    return runs


def print_table(runs, saves):
    """Medians over the rounds, a line for each save in the row."""
    def median(qemu, number, field):
        return statistics.median(run[field] for run in runs
                                 if run['qemu'] == qemu
                                 and run['number'] == number)

    print(f"{'save':>4}{'stock, s':>12}{'patched, s':>12}"
          f"{'revert: stock, s':>20}{'patched, s':>12}")
    for number in range(1, saves + 1):
        print(f'{number:4}'
              f"{median('stock', number, 'save_seconds'):12.2f}"
              f"{median('patched', number, 'save_seconds'):12.2f}"
              f"{median('stock', number, 'load_seconds'):20.2f}"
              f"{median('patched', number, 'load_seconds'):12.2f}")


def main():
    """Return the exit code."""
    options = parse_options()
    run_script(TOP / 'scripts' / 'setup')
    guest = Path(run_script(TOP / 'tests' / 'guest' / 'make-guest'))
    machine = importlib.import_module('vmsnap.machine')
    status = Status()
    runs = []
    try:
        for number in range(1, options.rounds + 1):
            for qemu in QEMUS:
                for run in measure(machine, options, guest, qemu, status.note):
                    runs.append({'round': number, 'qemu': qemu, **run})
    except (machine.VMError, storage.StorageError, OSError) as error:
        status.note(f'error: {error}')
        return 1
    print_table(runs, options.saves)
    if options.json:
        settings = {key: str(value) for key, value in vars(options).items()
                    if key not in ('json', 'dir')}
        options.json.write_text(json.dumps({'options': settings, 'runs': runs},
                                           indent=1) + '\n', encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
