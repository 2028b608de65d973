# SPDX-License-Identifier: GPL-2.0-or-later

"""How long the runs that are still to come will take."""

import dataclasses
import statistics
from typing import Callable, List, Optional


@dataclasses.dataclass(frozen=True)
class Work:
    """
    A run.

    @weight: what its duration grows with, such as bytes
    """

    case: str
    contender: str
    weight: float


class Estimate:
    """Learns from the runs that have ended."""

    def __init__(self) -> None:
        self._done: List[Work] = []
        self._seconds: List[float] = []

    def add(self, work: Work, seconds: float) -> None:
        """A run has taken so long."""
        self._done.append(work)
        self._seconds.append(seconds)

    def _pace(self, alike: Callable[[Work], bool]) -> Optional[float]:
        """Seconds for a weight of 1, of runs that are alike."""
        paces = [seconds / work.weight
                 for work, seconds in zip(self._done, self._seconds)
                 if alike(work)]
        return statistics.median(paces) if paces else None

    def seconds(self, work: Work) -> Optional[float]:
        """What one run will take, by the most similar runs there were."""
        likenesses: List[Callable[[Work], bool]] = [
            lambda done: (done.case, done.contender) == (work.case,
                                                         work.contender),
            lambda done: done.contender == work.contender,
            lambda done: True,
        ]
        for alike in likenesses:
            pace = self._pace(alike)
            if pace is not None:
                return pace * work.weight
        return None

    def remaining(self, works: List[Work]) -> Optional[float]:
        """What they will take together; None if there is no telling."""
        total = 0.0
        for work in works:
            seconds = self.seconds(work)
            if seconds is None:
                return None
            total += seconds
        return total


def in_words(seconds: Optional[float]) -> str:
    """An estimate for people."""
    if seconds is None:
        return 'no telling how long'
    if seconds < 90:
        return f'{seconds:.0f} s left'
    minutes = round(seconds / 60)
    if minutes < 90:
        return f'{minutes} min left'
    return f'{minutes // 60} h {minutes % 60:02} min left'
