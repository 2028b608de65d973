# SPDX-License-Identifier: GPL-2.0-or-later

"""What stock QEMU has besides: migration to a file, and back from it."""

import asyncio
import contextlib
import dataclasses
import os
from pathlib import Path
import time
from typing import Any, Dict, Iterator, List, Optional

from cases import STOCK, Case
from disk import Disk
import guests
from lab import BenchError, Lab, Step, not_measured, settle


# As many as the others have requests in flight
CHANNELS = 8

# Its default is for networks, and counts for files as well
NO_LIMIT = 1 << 50


@contextlib.contextmanager
def timed(vm: Any, step: Step) -> Iterator[None]:
    """Note seconds and CPU seconds in @step."""
    timings: List[Any] = []
    with vm.timed(timings):
        yield
    step.update(dataclasses.asdict(timings[0]))


def wait_migrated(vm: Any) -> None:
    """Raise when the migration under way does not complete."""
    ends = [('MIGRATION', {'data': {'status': status}})
            for status in ('completed', 'failed', 'cancelled')]
    deadline = time.monotonic() + vm.step_limit()
    while time.monotonic() < deadline:
        with contextlib.suppress(asyncio.TimeoutError):
            event = vm.events_wait(ends, timeout=1.0)
            if event['data']['status'] == 'completed':
                return
            raise BenchError(f'{vm.label}: migration '
                             f'{event["data"]["status"]}: '
                             f'{vm.command("query-migrate")}')
        if not vm.is_running():
            break
    raise BenchError(f'{vm.label}: the migration did not end')


def make_durable(path: Path) -> None:
    """A snapshot has been flushed when its job ends; a migration has not."""
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


class Migration:
    """
    The state of a stopped guest written to a file; with @live, of a running
    one.  It is read by a new QEMU.

    @capabilities: of migration, to be switched on
    @parameters: of migration
    """

    def __init__(self, capabilities: List[str], live: bool = False,
                 **parameters: Any):
        self._capabilities = capabilities
        self._live = live
        self._parameters = parameters

    @staticmethod
    def why_not(_lab: Lab, case: Case) -> Optional[str]:
        """It writes through the host's file system only."""
        if case.place.kind != 'local':
            return 'QEMU migrates to a file of the host only'
        return None

    def _set_up(self, vm: Any, leave_out: str = '') -> None:
        wanted = [name for name in ['events', *self._capabilities]
                  if name != leave_out]
        vm.command('migrate-set-capabilities',
                   capabilities=[{'capability': name, 'state': True}
                                 for name in wanted])
        parameters: Dict[str, Any] = {'max-bandwidth': NO_LIMIT}
        parameters.update({name.replace('_', '-'): value
                           for name, value in self._parameters.items()})
        vm.command('migrate-set-parameters', **parameters)

    def _save(self, vm: Any, path: Path) -> Step:
        step: Step = {'step': 'save', 'number': 1, **settle()}
        self._set_up(vm)
        with guests.watched(vm, step), timed(vm, step):
            if not self._live:
                vm.command('stop')
            vm.command('migrate', uri=f'file:{path}')
            wait_migrated(vm)
            make_durable(path)
            vm.command('cont')
        step['bytes'] = path.stat().st_blocks * 512
        return step

    def _load(self, vm: Any, path: Path) -> Step:
        step: Step = {'step': 'load', 'number': 1, **settle(path)}
        vm.start()
        # It has no part in reading
        self._set_up(vm, leave_out='background-snapshot')
        with guests.watched(vm, step), timed(vm, step):
            vm.command('migrate-incoming', uri=f'file:{path}')
            wait_migrated(vm)
            vm.command('cont')
        # Its memory is new, too
        step['pause'] = step['extra_memory'] = not_measured(
            'the guest is in a new process')
        step['bytes'] = path.stat().st_blocks * 512
        return step

    def _run_on(self, lab: Lab, case: Case, disk: Disk,
                path: Path) -> List[Step]:
        with lab.vm(STOCK, case, disk) as vm:
            memory = vm.boot()
            guests.fill(vm, case)
            save = self._save(vm, path)
            vm.quit()
        with lab.vm(STOCK, case, disk, '-incoming', 'defer',
                    label='stock, reading') as vm:
            load = self._load(vm, path)
            load['verified'] = guests.verify(vm, case, memory)
            guests.test_verify(lab, vm, case, memory)
            vm.quit()
        return [save, load]

    def run(self, lab: Lab, case: Case) -> List[Step]:
        """One run, into a file of its own."""
        path = lab.folder / 'state'
        try:
            with lab.place(case) as store:
                disk = Disk(lab, case, store)
                disk.create()
                return self._run_on(lab, case, disk, path)
        finally:
            path.unlink(missing_ok=True)
