# SPDX-License-Identifier: GPL-2.0-or-later

"""Snapshots by QMP, of stock QEMU and of the patched one."""

import dataclasses
from typing import (Any, Callable, Dict, Iterator, List, NamedTuple, Optional,
                    Union)

from cases import PATCHED, STOCK, Case
from disk import Disk
import guests
from lab import Lab, Step, settle
import stock_phases


class Statistics:
    """The parts of a pause, as the patched QEMU tells them."""

    def __init__(self, vm: Any):
        self._vm = vm

    def skip(self) -> None:
        """Nothing: there are figures of the last snapshot only."""

    def phases(self, _step: str) -> Dict[str, float]:
        """In seconds, in their order."""
        stats = self._vm.command('x-query-snapshot-stats')
        return {entry['phase']: entry['time'] / 1e6
                for entry in stats['phases']}


class Session(NamedTuple):
    """
    A VM that is measured.

    @teller: tells the parts of its pauses
    """

    lab: Lab
    case: Case
    vm: Any
    teller: Union[Statistics, stock_phases.Log]


class Snapshots:
    """A row of snapshots with a revert after each, all verified."""

    def __init__(self, qemu: str):
        self._qemu = qemu

    @staticmethod
    def why_not(_lab: Lab, _case: Case) -> Optional[str]:
        """They can always be taken."""
        return None

    @staticmethod
    def _measure(name: str, action: Callable[[], Any], session: Session
                 ) -> Step:
        step: Step = {'step': name,
                      **settle(session.lab.storage_file(session.case))}
        session.teller.skip()
        with guests.watched(session.vm, step):
            timing = action()
        step.update(dataclasses.asdict(timing),
                    phases=session.teller.phases(name))
        return step

    def _pair(self, session: Session, number: int) -> List[Step]:
        """A save and a revert."""
        tag, vm = f's{number}', session.vm
        save = self._measure('save', lambda: vm.snapshot_save(tag), session)
        guests.spoil(vm)
        load = self._measure('load', lambda: vm.snapshot_load(tag), session)
        size = vm.vmstate_size(tag)
        return [{**step, 'number': number, 'bytes': size}
                for step in (save, load)]

    def _row(self, session: Session) -> Iterator[Step]:
        vm, case = session.vm, session.case
        memory = vm.boot()
        guests.fill(vm, case)
        if self._qemu == PATCHED and session.lab.parameters:
            vm.command('x-snapshot-set-parameters', **session.lab.parameters)
        for number in range(1, case.snapshots + 1):
            save, load = self._pair(session, number)
            load['verified'] = guests.verify(vm, case, memory)
            yield from (save, load)
        guests.test_verify(session.lab, vm, case, memory)

    def _run_on(self, lab: Lab, case: Case, disk: Disk) -> List[Step]:
        log = stock_phases.Log(lab.folder) if self._qemu == STOCK else None
        with lab.vm(self._qemu, case, disk,
                    *(stock_phases.ARGUMENTS if log else ()),
                    trace=log.files() if log else None) as vm:
            steps = list(self._row(Session(lab, case, vm,
                                           log or Statistics(vm))))
            vm.quit()
        return steps

    def run(self, lab: Lab, case: Case) -> List[Step]:
        """One run, in an image of its own."""
        with lab.place(case) as store:
            disk = Disk(lab, case, store)
            disk.create()
            steps = self._run_on(lab, case, disk)
            disk.check()
        return steps
