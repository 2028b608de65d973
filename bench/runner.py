# SPDX-License-Identifier: GPL-2.0-or-later

"""Runs cases, round by round, and keeps what each run gave at once."""

import time
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple, Type

from cases import MIB, Case
from contenders import CONTENDERS, Contender
from eta import Estimate, Work, in_words
from lab import BenchError, Lab, local, not_measured, preflight
from results import Record
import storage


# What a QEMU takes besides the memory of its guest
QEMU_MEMORY = 512 * MIB
# What must stay free of the machine's memory
SPARE_MEMORY = 512 * MIB
# What must stay free on a disk
SPARE_SPACE = 1024 * MIB


class Run(NamedTuple):
    """One contender in one round of one case."""

    case: Case
    round: int
    contender: str

    def work(self) -> Work:
        """What the estimate has to know of it."""
        return Work(self.case.name, self.contender,
                    (self.case.snapshots + 1) * self.case.ram / MIB)


def rotate(names: Sequence[str], by: int) -> List[str]:
    """Each round begins with another one: none is always the first."""
    by %= len(names)
    return [*names[by:], *names[:by]]


def plan(cases: List[Case], rounds: int) -> List[Run]:
    """
    All runs in their order.

    The contenders of a case take turns, so that what they are compared with
    was measured minutes ago and not hours.
    """
    return [Run(case, number, name) for case in cases
            for number in range(1, rounds + 1)
            for name in rotate(case.contenders, number - 1)]


def memory_needed(case: Case) -> int:
    """Bytes of this machine's memory that a case takes, about."""
    served = (0 if case.place.kind == 'local' else
              case.snapshots * case.stream_bytes())
    return case.ram + QEMU_MEMORY + served + SPARE_MEMORY


def why_not(lab: Lab, run: Run, contender: Contender) -> Optional[str]:
    """Why a run is left out, in words; None if it is not."""
    case = run.case
    available = preflight.host_memory('MemAvailable')
    if available < memory_needed(case):
        return (f'{memory_needed(case) // MIB} MiB of memory are needed and '
                f'{available // MIB} available')
    space = 2 * case.stored_bytes() + SPARE_SPACE
    if case.place.kind == 'local' and local.free_space(lab.folder) < space:
        return f'{space // MIB} MiB of disk are needed'
    return contender.why_not(lab, case)


class Runner:
    """
    All runs.

    @record: where results go
    @status: tells the user
    """

    def __init__(self, lab: Lab, record: Record, status: Any):
        self._lab = lab
        self._record = record
        self._status = status
        self._estimate = Estimate()
        self.failures: List[str] = []

    def _expected(self) -> Tuple[Type[Exception], ...]:
        """What makes one run fail, and not all of them."""
        return (BenchError, storage.StorageError, local.StorageError,
                self._lab.machine.VMError)

    def _note(self, run: Run, text: str) -> None:
        self._status.note(f'{run.case.name:22} round {run.round}  '
                          f'{run.contender:12}{text}')

    def _run(self, run: Run, contender: Contender) -> None:
        start = time.monotonic()
        try:
            steps = contender.run(self._lab, run.case)
        except self._expected() as err:
            self.failures.append(f'{run.case.name}, {run.contender}: {err}')
            self._record.add(run, [{'error': str(err).splitlines()[0]}])
            self._note(run, f'FAILED: {err}')
            return
        self._estimate.add(run.work(), time.monotonic() - start)
        self._record.add(run, steps)
        for step in steps:
            speed = step['bytes'] / MIB / step['seconds']
            self._note(run, f'{step["step"]:8}{step["number"]:3} '
                       f'{step["seconds"]:8.2f} s {speed:7.0f} MiB/s')

    def run_all(self, runs: List[Run]) -> None:
        """Every run; what fails is in failures afterwards."""
        for number, run in enumerate(runs):
            contender = CONTENDERS[run.contender]
            reason = why_not(self._lab, run, contender)
            if reason:
                self._record.add(run, [{'missing': not_measured(reason)}])
                self._note(run, not_measured(reason))
                continue
            left = self._estimate.remaining([one.work()
                                             for one in runs[number:]])
            with self._status.step(
                    f'run {number + 1} of {len(runs)}, {in_words(left)}: '
                    f'{run.case.name}, {run.contender}'):
                self._run(run, contender)
