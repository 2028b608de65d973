# SPDX-License-Identifier: GPL-2.0-or-later

"""Results as pictures, each as SVG and as PNG."""

import importlib
from pathlib import Path
from typing import Any, Dict, List, Tuple

from cases import GIB, MIGRATIONS, PATCHED, STOCK
from lab import command
from results import Key, Runs, cases_of, rate, seconds
from storage import TOP


# What is a step of each contender
STEPS: Dict[str, List[Tuple[str, Key]]] = {
    'save': [(STOCK, (STOCK, 'save', 1)), (PATCHED, (PATCHED, 'save', 1)),
             *((name, (name, 'save', 1)) for name in MIGRATIONS),
             ('qemu-img bench', ('qemu-img', 'write-8', 1)),
             ('fio', ('fio', 'write-8', 1))],
    'revert': [(STOCK, (STOCK, 'load', 1)), (PATCHED, (PATCHED, 'load', 1)),
               *((name, (name, 'load', 1)) for name in MIGRATIONS),
               ('qemu-img bench, depth 1', ('qemu-img', 'read-5M', 1)),
               ('qemu-img bench, depth 8', ('qemu-img', 'read-8', 1)),
               ('fio, depth 1', ('fio', 'read-1', 1)),
               ('fio, depth 8', ('fio', 'read-8', 1))],
}


def pyplot() -> Any:
    """matplotlib, which is installed when it is needed first."""
    command.run_script(TOP / 'scripts' / 'deps', '--plots')
    matplotlib = importlib.import_module('matplotlib')
    matplotlib.use('Agg')
    # The same figures give the same file
    matplotlib.rcParams['svg.hashsalt'] = 'bench'
    return importlib.import_module('matplotlib.pyplot')


def save_figure(plt: Any, folder: Path, name: str) -> None:
    """Write what has been drawn."""
    plt.tight_layout()
    for kind, about in (('svg', {'Date': None}), ('png', {})):
        plt.savefig(folder / f'{name}.{kind}', metadata=about)
    plt.close()


def draw_rates(plt: Any, data: Dict[str, Any], folder: Path,
               step: str) -> None:
    """Bars of MiB/s for each case, with the extremes as whiskers."""
    cases = list(cases_of(data))
    plt.figure(figsize=(9, 1.5 + 1.5 * len(cases)))
    height = 0.8 / len(STEPS[step])
    for at, (label, key) in enumerate(STEPS[step]):
        found = [(place, runs.spread(key, rate))
                 for place, (_, runs) in enumerate(cases)]
        bars = [(place, each) for place, each in found if each]
        if not bars:
            continue
        plt.barh([place + at * height for place, _ in bars],
                 [each.median for _, each in bars], height, label=label,
                 xerr=[[each.median - each.low for _, each in bars],
                       [each.high - each.median for _, each in bars]])
    plt.yticks([place + 0.4 - height / 2 for place in range(len(cases))],
               [name for name, _ in cases])
    plt.gca().invert_yaxis()
    plt.xlabel(f'{step}, MiB/s')
    plt.legend()
    save_figure(plt, folder, f'{step}-rates')


def draw_pauses(plt: Any, data: Dict[str, Any], folder: Path,
                step: str) -> None:
    """What the pauses of the patched QEMU consist of."""
    key = (PATCHED, step, 1)
    found = [(name, runs.phases(key)) for name, runs in cases_of(data)]
    found = [(name, parts) for name, parts in found if parts]
    if not found:
        return
    names = list(dict.fromkeys(part for _, parts in found for part in parts))
    plt.figure(figsize=(9, 1.5 + 0.4 * len(found)))
    left = [0.0] * len(found)
    for part in names:
        widths = [parts.get(part, 0.0) for _, parts in found]
        plt.barh([name for name, _ in found], widths, left=left, label=part)
        left = [sum(both) for both in zip(left, widths)]
    plt.gca().invert_yaxis()
    plt.xlabel(f'{step}: parts of the pause, seconds')
    plt.legend(fontsize='small')
    save_figure(plt, folder, f'{step}-pause')


def draw_sizes(plt: Any, cases: List[Tuple[float, Runs]],
               folder: Path) -> None:
    """Seconds over guest RAM."""
    plt.figure(figsize=(7, 5))
    for qemu in (STOCK, PATCHED):
        for step in ('save', 'load'):
            found = [(size, runs.spread((qemu, step, 1), seconds))
                     for size, runs in cases]
            points = [(size, each.median) for size, each in found if each]
            plt.plot([x for x, _ in points], [y for _, y in points], 'o-',
                     label=f'{qemu}, {step}')
    plt.xlabel('guest RAM, GiB')
    plt.ylabel('seconds')
    plt.legend()
    save_figure(plt, folder, 'seconds-by-ram')


def draw(data: Dict[str, Any], folder: Path) -> None:
    """All pictures that there is something for."""
    plt = pyplot()
    for step in STEPS:
        draw_rates(plt, data, folder, step)
    for step in ('save', 'load'):
        draw_pauses(plt, data, folder, step)
    sizes = [(runs.case['ram'] / GIB, runs) for name, runs in cases_of(data)
             if name.startswith('ram-')]
    if len(sizes) > 1:
        draw_sizes(plt, sizes, folder)
