#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later

"""
Measure snapshots, what stock QEMU has besides, and the storage itself.

Named cases, or sets of them, are run several times; whoever is compared takes
turns.  See bench/README.rst.
"""

import argparse
import dataclasses
import datetime
import json
import os
from pathlib import Path
import sys
from typing import Any, Dict, List, Tuple

# Also keeps QEMU's source tree as it is
sys.dont_write_bytecode = True

# pylint: disable=wrong-import-position
from cases import MIB, PATCHED, SETS, STOCK, Case, choose  # noqa: E402
from lab import BenchError, Lab, command, local, preflight  # noqa: E402
import output  # noqa: E402
from results import Record  # noqa: E402
from runner import Runner, plan  # noqa: E402
from storage import BUILD, TOP  # noqa: E402


def parameter(text: str) -> Tuple[str, Any]:
    """NAME=VALUE; a value is what it would be in QMP."""
    name, _, value = text.partition('=')
    try:
        return name, json.loads(value)
    except ValueError as err:
        raise argparse.ArgumentTypeError(
            f'{text} is not like depth=16 or engines=false') from err


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = command.Parser(prog='scripts/bench',
                            description=(__doc__ or '').strip()
                            .splitlines()[0],
                            epilog=f'sets: {", ".join(SETS)}; --list tells '
                            'the cases in them')
    parser.add_argument('names', nargs='*', metavar='NAME',
                        default=os.environ.get('QFS_BENCH', 'quick').split(),
                        help='sets and single cases (default: those in '
                        '$QFS_BENCH, or quick)')
    parser.add_argument('--list', action='store_true',
                        help='list sets and cases, and end')
    parser.add_argument('--rounds', type=command.count, metavar='N',
                        help='runs of each contender (default 3; quick: 1)')
    parser.add_argument('--ram', type=command.count, metavar='MIB',
                        help="the guest's memory, instead of each case's own")
    parser.add_argument('--contenders', metavar='A,B',
                        help='only these of each case')
    parser.add_argument('--set', dest='parameters', action='append',
                        default=[], type=parameter, metavar='NAME=VALUE',
                        help='of x-snapshot-set-parameters, such as '
                        'read-window=20971520, for the patched QEMU; may be '
                        'given several times')
    parser.add_argument('--accel', choices=('tcg', 'kvm'), default='tcg',
                        help='what guests run on (default tcg)')
    parser.add_argument('--dir', type=command.folder_name, metavar='DIR',
                        default=BUILD / 'bench',
                        help='folder for images (default build/bench)')
    parser.add_argument('--output', type=command.folder_name, metavar='DIR',
                        default=BUILD / 'bench/output',
                        help='folder for results (default build/bench/output)')
    parser.add_argument('--from', dest='source', type=Path, metavar='FILE',
                        help='measure nothing: table and plots of FILE')
    parser.add_argument('--plots', action='store_true',
                        help='also draw plots, SVG and PNG')
    parser.add_argument('--docs', type=Path, metavar='FILE',
                        help='also put the table between the marks in FILE')
    options = parser.parse_args()
    if options.source and any(
            parser.get_default(name) != getattr(options, name)
            for name in ('names', 'rounds', 'ram', 'contenders',
                         'parameters')):
        parser.refuse('--from measures nothing: it takes no names of cases, '
                      '--rounds, --ram, --contenders or --set')
    try:
        options.cases = adapt(choose(options.names), options)
    except KeyError as err:
        parser.refuse(f'there is no set or case {err.args[0]}: --list lists '
                      'them')
    # What command.run() wants: the record is written here, run by run
    options.json = None
    return options  # type: ignore[no-any-return]


def adapt(cases: List[Case], options: argparse.Namespace) -> List[Case]:
    """The cases as the command line wants them."""
    if options.ram:
        cases = [dataclasses.replace(case, ram=options.ram * MIB)
                 for case in cases]
    if options.contenders:
        wanted = options.contenders.split(',')
        cases = [dataclasses.replace(
            case, contenders=tuple(name for name in case.contenders
                                   if name in wanted))
                 for case in cases]
    return [case for case in cases if case.contenders]


def rounds(options: argparse.Namespace) -> int:
    """How often each contender runs."""
    if options.rounds:
        return int(options.rounds)
    return 1 if options.names == ['quick'] else 3


def version_of(program: str) -> str:
    """What a program says to --version."""
    try:
        return str(local.run_tool(program, '--version').split('\n')[0])
    except local.StorageError:
        return 'not installed'


def describe(options: argparse.Namespace, lab: Lab) -> Dict[str, Any]:
    """Where the figures come from."""
    return {
        'date': datetime.datetime.now(datetime.timezone.utc).isoformat(
            timespec='seconds'),
        'options': {'names': options.names, 'rounds': rounds(options),
                    'ram': options.ram, 'contenders': options.contenders,
                    'set': dict(options.parameters)},
        'machine': {
            **preflight.describe_host(lab.folder),
            'load': os.getloadavg(), 'accel': options.accel,
        },
        'versions': {
            **{qemu: lab.machine.qemu_version(lab.program(qemu))
               for qemu in (STOCK, PATCHED)},
            'project': project_version(),
            'fio': version_of('fio'), 'nbdkit': version_of('nbdkit'),
        },
    }


def project_version() -> str:
    """The commit, if this is a clone."""
    try:
        return str(local.run_tool('git', '-c', 'safe.directory=*', '-C', TOP,
                                  'describe', '--always', '--dirty')).strip()
    except local.StorageError:
        return 'not a clone'


def measure(options: argparse.Namespace, status: Any) -> Dict[str, Any]:
    """Run everything; the record."""
    if not options.cases:
        raise command.CommandError('none of the cases has such contenders')
    options.output.mkdir(parents=True, exist_ok=True)
    with command.work_folder(options.dir, 'bench') as folder:
        if any(local.is_direct(case.place.cache) for case in options.cases):
            local.check_direct_io(options.dir)
        command.set_up()
        lab = Lab(folder=folder, guest=command.make_guest(),
                  machine=command.import_machine(),
                  trees={qemu: BUILD / qemu for qemu in (STOCK, PATCHED)},
                  accel=options.accel, detail=status.detail,
                  parameters=dict(options.parameters))
        record = Record(options.output, describe(options, lab), options.cases)
        runner = Runner(lab, record, status)
        runner.run_all(plan(options.cases, rounds(options)))
    if runner.failures:
        output.write(record.data, options)
        raise command.CommandError(f'{len(runner.failures)} runs failed, the '
                                   f'first: {runner.failures[0]}')
    return record.data


def run_bench(options: argparse.Namespace, status: Any,
              _record: Dict[str, Any]) -> None:
    """From the command line to table and plots."""
    if options.list:
        output.print_list()
        return
    try:
        data = (output.load(options.source) if options.source else
                measure(options, status))
        output.write(data, options)
    except BenchError as err:
        raise command.CommandError(str(err)) from err


if __name__ == '__main__':
    sys.exit(command.run('bench', run_bench, parse_options()))
