# SPDX-License-Identifier: GPL-2.0-or-later

"""Results as tables, for people and for reStructuredText."""

import json
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from cases import GIB, MIB, PATCHED, STOCK
from lab import BenchError, report
from results import Key, Runs, Spread, cases_of, field, rate, seconds
from targets import judge


BEGIN = '.. BENCH: begin'
END = '.. BENCH: end'

NOTHING = '–'

HEAD = ('case', 'who', 'step', 'seconds', 'MiB/s', 'CPU s', 'pause, s',
        'MiB more', 'of stock')

Cells = List[str]

number: Callable[[float], str] = report.number


def cell(found: Optional[Spread], unit: float = 1) -> str:
    """median (lowest–highest)"""
    if not found:
        return NOTHING
    middle = number(found.median / unit)
    if found.count == 1:
        return middle
    return f'{middle} ({number(found.low / unit)}–{number(found.high / unit)})'


def times(found: Optional[Spread]) -> str:
    """A ratio."""
    return f'{number(found.median)}×' if found else NOTHING


def steps_of(runs: Runs, data: Dict[str, Any], name: str,
             contender: str) -> List[Key]:
    """What a contender did, in its order."""
    return list(dict.fromkeys(
        (contender, row['step'], row['number']) for row in data['runs']
        if (row['case'], row['contender']) == (name, contender)
        and 'seconds' in row)) if not runs.problem(contender) else []


def step_name(key: Key) -> str:
    """save, save 2, ..."""
    return key[1] if key[2] == 1 else f'{key[1]} {key[2]}'


def row_of(name: str, runs: Runs, key: Key) -> Cells:
    """One line of figures."""
    faster = None
    if key[0] not in (STOCK, 'fio', 'qemu-img'):
        faster = runs.ratio(runs.by_round((STOCK, key[1], key[2]), seconds),
                            runs.by_round(key, seconds))
    return [name, key[0], step_name(key), cell(runs.spread(key, seconds)),
            cell(runs.spread(key, rate)),
            cell(runs.spread(key, field('cpu_seconds'))),
            cell(runs.spread(key, field('pause'))),
            cell(runs.spread(key, field('extra_memory')), MIB),
            times(faster)]


def figures(data: Dict[str, Any]) -> List[Cells]:
    """All lines; who was not measured is among them, with the reason."""
    rows = []
    for name, runs in cases_of(data):
        for contender in runs.contenders():
            problem = runs.problem(contender)
            if problem:
                rows.append([name, contender, problem,
                             *[NOTHING] * (len(HEAD) - 3)])
            rows += [row_of(name, runs, key)
                     for key in steps_of(runs, data, name, contender)]
    return rows


def phase_rows(data: Dict[str, Any]) -> List[Cells]:
    """The parts of each pause, in milliseconds."""
    rows = []
    for name, runs in cases_of(data):
        keys = [key for who in (STOCK, PATCHED)
                for key in steps_of(runs, data, name, who)]
        for key in keys:
            text = ', '.join(f'{phase} {number(value * 1000)}'
                             for phase, value in runs.phases(key).items())
            rows.append([name, key[0], step_name(key),
                         text or 'not measured'])
    return rows


def target_rows(data: Dict[str, Any]) -> List[Cells]:
    """What was to be reached, and what was."""
    return [[verdict.case, verdict.target,
             NOTHING if verdict.value is None else number(verdict.value),
             f'{"≤" if verdict.at_most else "≥"} {verdict.goal:g}',
             verdict.in_words()] for verdict in judge(data)]


def simple_table(head: Cells, rows: List[Cells]) -> List[str]:
    """The lines of a reStructuredText table."""
    if not rows:
        return ['Nothing was measured.']
    widths = [max(len(row[i]) for row in [head, *rows])
              for i in range(len(head))]
    rule = '  '.join('=' * width for width in widths)

    def line(row: Cells) -> str:
        return '  '.join(text.ljust(width)
                         for text, width in zip(row, widths)).rstrip()

    return [rule, line(head), rule, *map(line, rows), rule]


def about(data: Dict[str, Any]) -> List[str]:
    """Where the figures come from."""
    host, versions = data['machine'], data['versions']
    other = ', '.join(f'{name}={json.dumps(value)}' for name, value in
                      data['options'].get('set', {}).items())
    return [
        f"Medians of {data['options']['rounds']} rounds, lowest and highest "
        'in brackets.',
        f"{host['cpus']} CPUs ({host['cpu']}), {host['memory'] / GIB:.0f} GiB,"
        f" Linux {host['kernel']}, {host['file_system']},",
        f"{host['accel'].upper()}; QEMU {versions[STOCK]} (stock), "
        f"{versions[PATCHED]} (patched),",
        f"this project at {versions['project']}, {versions['fio']}, "
        f"{versions['nbdkit']}; {data['date']}.",
        *([f'Parameters of the patched QEMU: {other}.'] if other else []),
    ]


def tables(data: Dict[str, Any]) -> str:
    """All of them."""
    lines = [*about(data), '', *simple_table(list(HEAD), figures(data)), '',
             'Parts of the pauses, in milliseconds:', '',
             *simple_table(['case', 'who', 'step', 'parts'],
                           phase_rows(data)), '',
             'Targets:', '',
             *simple_table(['case', 'target', 'reached', 'goal', ''],
                           target_rows(data))]
    return '\n'.join(lines) + '\n'


def insert(path: Path, text: str) -> None:
    """Put @text between the marks in a file."""
    old = path.read_text(encoding='utf-8')
    before, begin, rest = old.partition(BEGIN + '\n')
    _, end, after = rest.partition(END + '\n')
    if not begin or not end:
        raise BenchError(f'{path} has no "{BEGIN}" and "{END}"')
    path.write_text(f'{before}{begin}\n{text}\n{end}{after}',
                    encoding='utf-8')
