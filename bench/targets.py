# SPDX-License-Identifier: GPL-2.0-or-later

"""
What the project wants to reach, and whether a record shows it.

A target that is missed is a figure like any other, not a failure.
"""

import dataclasses
import statistics
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from cases import GIB, PATCHED, STOCK
from results import Figure, Key, Runs, cases_of, field, rate, seconds


# A step, first of its kind, of the patched QEMU and of the others
SAVE: Key = (PATCHED, 'save', 1)
LOAD: Key = (PATCHED, 'load', 1)
FIO_WRITE: Key = ('fio', 'write-8', 1)
FIO_READ_1: Key = ('fio', 'read-1', 1)
FIO_READ_8: Key = ('fio', 'read-8', 1)
IMG_WRITE: Key = ('qemu-img', 'write-8', 1)
IMG_READ: Key = ('qemu-img', 'read-5M', 1)
IMG_READ_8: Key = ('qemu-img', 'read-8', 1)

# CPU time is counted in these
CPU_TICK = 0.01

# From so many per cent of zero pages on, looking for them takes longer than
# storing the others: the rate of the storage is no goal then
MOSTLY_ZERO = 95


@dataclasses.dataclass(frozen=True)
class Verdict:
    """
    How a target was met.

    @value: what was reached; None: not measured
    @goal: the least, or with @at_most the most, that it has to be
    """

    case: str
    target: str
    value: Optional[float]
    goal: float
    at_most: bool = False

    def met(self) -> Optional[bool]:
        """None when it was not measured."""
        if self.value is None:
            return None
        return (self.value <= self.goal if self.at_most else
                self.value >= self.goal)

    def in_words(self) -> str:
        """For a table."""
        verdict = {True: 'met', False: 'missed', None: 'not measured'}
        return verdict[self.met()]


Rounds = Dict[int, float]


def stock(step: str) -> Key:
    """The same step of stock QEMU."""
    return (STOCK, step, 1)


def share(runs: Runs, key: Key, of: Key, figure: Figure = rate
          ) -> Optional[float]:
    """Median of one figure as a share of another's in the same round."""
    return middle(runs.ratio(runs.by_round(key, figure),
                             runs.by_round(of, figure)))


def middle(found: Any) -> Optional[float]:
    """The median of a spread, if there is one."""
    return found.median if found else None


def share_of_reads(runs: Runs) -> Optional[float]:
    """A revert against the better of one reader and nine tenths of eight."""
    one = runs.by_round(FIO_READ_1, rate)
    eight = runs.by_round(FIO_READ_8, rate)
    best = {number: max(one[number], 0.9 * eight[number])
            for number in one.keys() & eight.keys()}
    return middle(runs.ratio(runs.by_round(LOAD, rate), best))


Measured = Tuple[str, Optional[float], float]


def of_local(runs: Runs) -> Iterator[Measured]:
    """Disks of the host."""
    place = runs.case['place']
    if place['cache'] != 'none':
        yield 'save, of fio', share(runs, SAVE, FIO_WRITE), 0.8
    elif place['aio'] != 'threads':
        yield 'save, of fio', share(runs, SAVE, FIO_WRITE), 0.95
        yield 'revert, of fio', share_of_reads(runs), 0.95


def of_network(runs: Runs) -> Iterator[Measured]:
    """Storage behind a network."""
    place = runs.case['place']
    if place['delay'] == 0.002:
        yield ('save, of qemu-img bench', share(runs, SAVE, IMG_WRITE), 0.8)
        yield ('revert, of qemu-img bench', share(runs, LOAD, IMG_READ), 0.9)
        yield ('revert, of qemu-img bench at depth 8',
               share(runs, LOAD, IMG_READ_8), 0.8)
        for key in (SAVE, LOAD):
            yield (f'{name_of(key)}, times stock',
                   share(runs, key, stock(key[1])), 20)
    if place['rate'] == 150_000_000 and runs.case['ram'] == 8 * GIB:
        link = place['rate'] / (1 << 20)
        for key in (SAVE, LOAD):
            found = runs.spread(key, rate)
            yield (f'{name_of(key)}, of the link',
                   found.median / link if found else None, 0.95)


def of_rotating(runs: Runs) -> Iterator[Measured]:
    """Disks that turn."""
    for key, most in ((SAVE, FIO_WRITE), (LOAD, FIO_READ_1)):
        yield (f'{name_of(key)}, times stock',
               share(runs, key, stock(key[1])), 1)
        yield f'{name_of(key)}, of fio', share(runs, key, most), 0.9


def of_guests(runs: Runs) -> Iterator[Measured]:
    """What guests hold."""
    if runs.case['zero'] >= MOSTLY_ZERO:
        walked = runs.spread(SAVE, lambda row: runs.case['ram'] / GIB /
                             max(row['cpu_seconds'], CPU_TICK))
        yield 'save, GiB of RAM a CPU second', middle(walked), 5
    if runs.case['snapshots'] >= 10:
        for key in (SAVE, LOAD):
            first = runs.by_round(key, seconds)
            tenth = runs.by_round((key[0], key[1], 10), seconds)
            yield (f'tenth {name_of(key)}, speed of the first',
                   middle(runs.ratio(first, tenth)), 0.9)


def cpu(row: Dict[str, Any]) -> Optional[float]:
    """CPU seconds, no less than can be told from zero."""
    used = row.get('cpu_seconds')
    return None if used is None else max(float(used), CPU_TICK)


def of_cpu(runs: Runs) -> Iterator[Measured]:
    """CPU time, of any storage."""
    if STOCK in runs.contenders():
        for key in (SAVE, LOAD):
            yield (f'{name_of(key)}, times less CPU than stock',
                   share(runs, stock(key[1]), key, cpu), 4)


def name_of(key: Key) -> str:
    """A step for people."""
    return 'revert' if key[1] == 'load' else key[1]


BY_KIND: Dict[str, Callable[[Runs], Iterator[Measured]]] = {
    'local': of_local, 'nbd': of_network, 'rotating': of_rotating,
}


def of_case(name: str, runs: Runs) -> List[Verdict]:
    """All targets of one case; those of cases that compare nobody are none."""
    if PATCHED not in runs.contenders():
        return []
    wanted = [*of_guests(runs), *of_cpu(runs)]
    if (runs.case['zero'] < MOSTLY_ZERO and
            {'fio', 'qemu-img'} & set(runs.contenders())):
        wanted = [*BY_KIND[runs.case['place']['kind']](runs), *wanted]
    return [Verdict(name, *each) for each in wanted]


# Of several cases

def r_squared(points: List[Tuple[float, float]]) -> Optional[float]:
    """How well a straight line fits; None for less than three points."""
    if len(points) < 3:
        return None
    fit = statistics.correlation([x for x, _ in points],
                                 [y for _, y in points])
    return fit * fit


def of_sizes(data: Dict[str, Any]) -> List[Verdict]:
    """Guests that differ by the size of RAM alone."""
    cases = [(runs.case['ram'] / GIB, runs) for name, runs in cases_of(data)
             if name.startswith('ram-')]
    verdicts = []
    for key in (SAVE, LOAD) if cases else ():
        times = [(size, middle(runs.spread(key, seconds)))
                 for size, runs in cases if size >= 1]
        verdicts.append(Verdict(
            'ram', f'{name_of(key)}, R² of seconds over RAM',
            r_squared([(x, y) for x, y in times if y is not None]), 0.99))
        extra = [middle(runs.spread(key, field('extra_memory')))
                 for _, runs in cases]
        known = [value / (1 << 20) for value in extra if value is not None]
        verdicts.append(Verdict(
            'ram', f'{name_of(key)}, MiB by which memory differs',
            max(known) - min(known) if len(known) > 1 else None, 8,
            at_most=True))
    return verdicts


def judge(data: Dict[str, Any]) -> List[Verdict]:
    """All targets that a record has to do with."""
    return [verdict for name, runs in cases_of(data)
            for verdict in of_case(name, runs)] + of_sizes(data)
