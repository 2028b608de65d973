# SPDX-License-Identifier: GPL-2.0-or-later

"""What becomes of a record: printed, inserted into a document, drawn."""

import argparse
import json
from pathlib import Path
from typing import Any, Dict

from cases import SETS
from lab import BenchError
import plots
from results import FORMAT, replace
import table


def load(path: Path) -> Dict[str, Any]:
    """A record of an earlier run."""
    try:
        data: Dict[str, Any] = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as err:
        raise BenchError(f'{path} cannot be read: {err}') from err
    if (data.get('format') != FORMAT or
            not {'runs', 'versions'} <= data.keys()):
        raise BenchError(f'{path} is no record of this benchmark, or by an '
                         'earlier version')
    return data


def write(data: Dict[str, Any], options: argparse.Namespace) -> None:
    """All that the command line asks for."""
    text = table.tables(data)
    print(text)
    options.output.mkdir(parents=True, exist_ok=True)
    replace(options.output / 'table.rst', text)
    if options.docs:
        table.insert(options.docs, text)
    if options.plots:
        plots.draw(data, options.output)


def print_list() -> None:
    """Sets, their cases and who is compared in them."""
    for name, cases in SETS.items():
        if name == 'all':
            print('all: every set but quick')
            continue
        print(f'{name}:')
        for case in cases:
            print(f'  {case.name:25}{", ".join(case.contenders)}')
