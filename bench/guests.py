# SPDX-License-Identifier: GPL-2.0-or-later

"""What is done with a guest while it is measured."""

import contextlib
from typing import Any, Iterator, List

from cases import Case
from lab import BenchError, Lab, Step, not_measured


SEED = 1

# What the guest sends when it stops and goes on
PAUSE_EVENTS = ('STOP', 'RESUME')


def moment(event: Any) -> float:
    """When QEMU sent an event, in seconds."""
    stamp = event['timestamp']
    return float(stamp['seconds'] + stamp['microseconds'] / 1e6)


def pause_of(events: List[Any]) -> Any:
    """Seconds between the first stop and the last resume; or why not."""
    found = {name: [moment(event) for event in events
                    if event['event'] == name] for name in PAUSE_EVENTS}
    if not all(found.values()):
        return not_measured('the guest did not stop and go on')
    return found['RESUME'][-1] - found['STOP'][0]


def fill(vm: Any, case: Case) -> None:
    """Let memory have what it must have after a revert."""
    vm.agent('fill', SEED, case.zero)


def spoil(vm: Any) -> None:
    """Change every page of memory."""
    vm.agent('dirty', SEED + 1)


def verify(vm: Any, case: Case, memory: int) -> int:
    """Raise unless all @memory bytes are what fill() has made of them."""
    verified = int(vm.agent('verify', SEED, case.zero))
    if verified != memory:
        raise BenchError(f'{vm.label}: the guest verified {verified} bytes '
                         f'of {memory}')
    return verified


def test_verify(lab: Lab, vm: Any, case: Case, memory: int) -> None:
    """Raise unless one wrong bit in the middle of memory is found."""
    vm.agent('poke', memory // 2 + 5)
    try:
        verify(vm, case, memory)
    except lab.machine.VerifyError:
        return
    raise BenchError(f'{vm.label}: a wrong byte in the guest was not found')


@contextlib.contextmanager
def watched(vm: Any, step: Step) -> Iterator[None]:
    """
    Note in @step how long the guest stood still and how much memory QEMU took
    besides what it had.
    """
    vm.get_qmp_events()
    resident = vm.reset_peak()
    yield
    step['extra_memory'] = max(vm.resident_peak() - resident, 0)
    step['pause'] = pause_of(vm.get_qmp_events())
