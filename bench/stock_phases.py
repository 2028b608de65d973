# SPDX-License-Identifier: GPL-2.0-or-later

"""
The parts of a pause of stock QEMU, as far as its trace events tell them.

Some that x-query-snapshot-stats of the patched QEMU tells apart are one here.
"""

from pathlib import Path
import re
from typing import Any, Iterator, List, Optional, Tuple

from lab import not_measured


# The name of a part, and a pattern of the event that begins it.  The last one
# begins nothing.  "last" looks for an event from behind.
Mark = Tuple[str, str]

SAVE: List[Mark] = [
    ('stop', r'runstate_set .*new_state \d+ \(save-vm\)'),
    ('setup', r'savevm_state_header\b'),
    ('ram', r'savevm_state_iterate\b'),
    ('device-state', r'last savevm_section_end ram,'),
    ('flush + disks-snapshot + clean-up', r'savevm_state_cleanup\b'),
    ('', r'runstate_set .*new_state \d+ \(running\)'),
]

LOAD: List[Mark] = [
    ('stop + disks-revert + reset',
     r'runstate_set .*new_state \d+ \(restore-vm\)'),
    ('state', r'loadvm_state_setup\b'),
    ('clean-up', r'loadvm_state_cleanup\b'),
    ('', r'runstate_set .*new_state \d+ \(running\)'),
]

EVENTS = ('runstate_set', 'savevm_state_header', 'savevm_state_iterate',
          'savevm_section_end', 'savevm_state_cleanup', 'loadvm_state_setup',
          'loadvm_state_cleanup')

LINE = re.compile(r'^(?:\d+@)?(\d+\.\d+):(.*)$')

# QEMU puts the time before the lines of its log
ARGUMENTS = ('-msg', 'timestamp=on')


def events(text: str) -> Iterator[Tuple[float, str]]:
    """Time and text of each event in a log."""
    for line in text.splitlines():
        found = LINE.match(line)
        if found:
            yield float(found[1]), found[2]


def time_of(log: List[Tuple[float, str]], pattern: str) -> Optional[float]:
    """When the first event that fits was, or the last one."""
    order = log
    if pattern.startswith('last '):
        pattern = pattern[len('last '):]
        order = log[::-1]
    for moment, text in order:
        if re.match(pattern, text):
            return moment
    return None


def phases(text: str, marks: List[Mark]) -> Any:
    """Seconds by the part's name; or why there are none."""
    log = list(events(text))
    times: List[float] = []
    for _, pattern in marks:
        moment = time_of(log, pattern)
        if moment is None:
            return not_measured(f'no trace event {pattern}')
        times.append(moment)
    return {name: end - begin
            for (name, _), begin, end in zip(marks, times, times[1:])}


class Log:
    """
    The log of one VM.

    @folder: where it and the list of events go
    """

    def __init__(self, folder: Path):
        self._log = folder / 'trace.log'
        self._list = folder / 'events'
        self._seen = 0
        self._log.unlink(missing_ok=True)
        self._list.write_text('\n'.join(EVENTS) + '\n', encoding='ascii')

    def files(self) -> Tuple[Path, Path]:
        """For machine.VM."""
        return self._list, self._log

    def skip(self) -> None:
        """What has been logged so far is of no interest."""
        self._seen = self._log.stat().st_size if self._log.exists() else 0

    def phases(self, step: str) -> Any:
        """The parts of a save or a load, logged since skip()."""
        if not self._log.exists():
            return not_measured('stock QEMU has no trace log')
        with open(self._log, encoding='utf-8', errors='replace') as file:
            file.seek(self._seen)
            text = file.read()
        return phases(text, SAVE if step == 'save' else LOAD)
