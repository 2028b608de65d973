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

import statistics
import sys

# Also keeps QEMU's source tree as it is
sys.dont_write_bytecode = True

# pylint: disable=wrong-import-position
from vmsnap import command, preflight, storage  # noqa: E402
from vmsnap.command import BUILD  # noqa: E402

MIB = 1 << 20
QEMUS = ('stock', 'patched')
SEED = 1

# Room for what is no machine state
SPACE_BASE = 1 << 30


def parse_options():
    """The command line."""
    parser = command.Parser(prog='scripts/bench',
                            description=__doc__.strip().splitlines()[0])
    parser.add_argument('--ram', type=command.count, default=1024,
                        metavar='MIB', help='guest memory in MiB (%(default)s)')
    parser.add_argument('--saves', type=command.count, default=10,
                        metavar='N', help='saves in a row (%(default)s)')
    parser.add_argument('--rounds', type=command.count, default=1,
                        metavar='N', help='paired runs (%(default)s)')
    command.add_options(parser, 'bench')
    return command.parse(parser)


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


def measure(machine, options, config, qemu, note):
    """Yield a row of saves in a new image, which must be clean afterwards."""
    tree = BUILD / qemu
    image = storage.Image(config.log_dir / 'disk.qcow2', tree / 'qemu-img')
    image.create('8G')
    with machine.VM(tree / 'qemu-system-x86_64', image, config, qemu) as vm:
        yield from row_of_saves(machine, vm, options, note)
        vm.quit()
    image.check()
    image.remove()


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


def check_before(options):
    """Refuse now what would fail in half an hour."""
    if storage.is_direct(options.cache):
        storage.check_direct_io(options.dir)
    ram = options.ram * MIB
    preflight.check_space(options.dir, (options.saves + 1) * ram + SPACE_BASE,
                          preflight.build_space())
    preflight.check_memory(ram)


def run_bench(options, status, record):
    """All rounds and the table; @record is what --json gets."""
    record['options'] = {key: str(value) for key, value
                         in vars(options).items() if key not in ('json', 'dir')}
    runs = record['runs'] = []
    with command.work_folder(options.dir, 'bench') as folder:
        check_before(options)
        command.set_up()
        machine = command.import_machine()
        config = machine.VMConfig(guest=command.make_guest(), log_dir=folder,
                                  ram=options.ram * MIB, cache=options.cache,
                                  aio=options.aio)
        for number in range(1, options.rounds + 1):
            for qemu in QEMUS:
                for run in measure(machine, options, config, qemu,
                                   status.note):
                    runs.append({'round': number, 'qemu': qemu, **run})
    print_table(runs, options.saves)


if __name__ == '__main__':
    sys.exit(command.run('bench', run_bench, parse_options()))
