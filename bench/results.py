# SPDX-License-Identifier: GPL-2.0-or-later

"""What was measured: raw runs, in files at once, and medians of them."""

import csv
import dataclasses
import io
import json
import os
from pathlib import Path
import statistics
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from cases import MIB, Case


FORMAT = 1

# Columns of the CSV file; phases follow as phase-NAME
COLUMNS = ('case', 'round', 'order', 'contender', 'step', 'number', 'bytes',
           'seconds', 'cpu_seconds', 'pause', 'extra_memory', 'cached',
           'verified', 'missing', 'error')

Row = Dict[str, Any]


class Record:
    """
    The runs so far, and where they come from.

    Each run is written to @folder as soon as it has ended: results.json and
    runs.csv.
    """

    def __init__(self, folder: Path, about: Dict[str, Any],
                 cases: List[Case]):
        self._folder = folder
        self.data: Dict[str, Any] = {
            'format': FORMAT, **about,
            'cases': {case.name: dataclasses.asdict(case) for case in cases},
            'runs': [],
        }

    def add(self, run: Any, steps: List[Row]) -> None:
        """Keep what a run gave."""
        rows: List[Row] = self.data['runs']
        order = rows[-1]['order'] + 1 if rows else 1
        rows += [{'case': run.case.name, 'round': run.round, 'order': order,
                  'contender': run.contender, **step} for step in steps]
        self.write()

    def write(self) -> None:
        """Both files, each of them whole at any time."""
        replace(self._folder / 'results.json',
                json.dumps(self.data, indent=1, ensure_ascii=False) + '\n')
        replace(self._folder / 'runs.csv', to_csv(self.data['runs']))


def replace(path: Path, text: str) -> None:
    """Write a file; whoever reads it meanwhile sees the old one."""
    new = path.with_name(path.name + '.new')
    new.write_text(text, encoding='utf-8')
    os.replace(new, path)


def to_csv(rows: List[Row]) -> str:
    """The runs as a table for other programs."""
    phases = list(dict.fromkeys(
        name for row in rows if isinstance(row.get('phases'), dict)
        for name in row['phases']))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator='\n')
    writer.writerow([*COLUMNS, *(f'phase-{name}' for name in phases)])
    for row in rows:
        found = row.get('phases')
        times = found if isinstance(found, dict) else {}
        writer.writerow([*(row.get(name, '') for name in COLUMNS),
                         *(times.get(name, '') for name in phases)])
    return out.getvalue()


@dataclasses.dataclass(frozen=True)
class Spread:
    """The median of some figures, and the extremes."""

    median: float
    low: float
    high: float
    count: int


def spread(values: List[float]) -> Optional[Spread]:
    """None when there is no value."""
    if not values:
        return None
    return Spread(statistics.median(values), min(values), max(values),
                  len(values))


def seconds(row: Row) -> Any:
    """What a step took."""
    return row['seconds']


def rate(row: Row) -> Any:
    """What a step moved, in MiB a second."""
    return row['bytes'] / MIB / row['seconds']


Figure = Callable[[Row], Any]
# (contender, step, number of the snapshot)
Key = Tuple[str, str, int]


def field(name: str) -> Figure:
    """A figure that is recorded as such."""
    return lambda row: row.get(name)


class Runs:
    """The runs of one case."""

    def __init__(self, data: Dict[str, Any], case: str):
        self.case: Dict[str, Any] = data['cases'][case]
        self._all = [row for row in data['runs'] if row['case'] == case]

    def contenders(self) -> List[str]:
        """Who was to be compared."""
        return list(self.case['contenders'])

    def problem(self, contender: str) -> Optional[str]:
        """Why there is no figure of a contender; None if there is one."""
        rows = [row for row in self._all if row['contender'] == contender]
        if any('seconds' in row for row in rows):
            return None
        for row in rows:
            if 'missing' in row:
                return str(row['missing'])
            if 'error' in row:
                return f'failed: {row["error"]}'
        return 'not measured: not run'

    def by_round(self, key: Key, figure: Figure) -> Dict[int, float]:
        """A figure of each round that has it."""
        found = {}
        for row in self._all:
            mine = (row['contender'], row.get('step'), row.get('number'))
            if mine == key and isinstance(figure(row), (int, float)):
                found[row['round']] = float(figure(row))
        return found

    def spread(self, key: Key, figure: Figure) -> Optional[Spread]:
        """Median and extremes over the rounds."""
        return spread(list(self.by_round(key, figure).values()))

    def ratio(self, one: Dict[int, float],
              other: Dict[int, float]) -> Optional[Spread]:
        """@one as a share of @other, of pairs of the same round."""
        return spread([one[number] / other[number]
                       for number in sorted(one.keys() & other.keys())
                       if other[number] > 0])

    def phases(self, key: Key) -> Dict[str, float]:
        """Medians of the parts of a pause, in their order."""
        parts: Dict[str, List[float]] = {}
        for row in self._all:
            mine = (row['contender'], row.get('step'), row.get('number'))
            if mine == key and isinstance(row.get('phases'), dict):
                for name, value in row['phases'].items():
                    parts.setdefault(name, []).append(value)
        return {name: statistics.median(values)
                for name, values in parts.items()}


def cases_of(data: Dict[str, Any]) -> Iterator[Tuple[str, Runs]]:
    """Each case of a record with its runs."""
    for name in data['cases']:
        yield name, Runs(data, name)
