# SPDX-License-Identifier: GPL-2.0-or-later

"""
What runs of all contenders have in common: programs, folders, VMs, storage.
"""

import contextlib
import dataclasses
import importlib
import os
from pathlib import Path
import subprocess
from typing import Any, Callable, Dict, Iterator, List, Optional

from cases import GIB, PATCHED, Case, Place
import storage


command: Any = importlib.import_module('vmsnap.command')
local: Any = importlib.import_module('vmsnap.storage')
preflight: Any = importlib.import_module('vmsnap.preflight')
report: Any = importlib.import_module('vmsnap.report')

# A figure, or what takes its place: "not measured: REASON"
Step = Dict[str, Any]

# Of disks, of which none is as large as this one.  The model keeps no data
# where nothing was written.
EXPORT_SLACK = GIB


class BenchError(Exception):
    """A run failed; the text is for the user."""


def not_measured(why: str) -> str:
    """What stands where a figure would."""
    return f'not measured: {why}'


@dataclasses.dataclass
class Lab:
    """
    @folder: for images and logs; the caller removes it
    @guest: kernel and initramfs of the test guest
    @machine: vmsnap.machine
    @trees: folders with the programs of each QEMU
    @detail: is told how far a long command of the guest is
    @parameters: of the patched QEMU's snapshots, where not the defaults
    """

    folder: Path
    guest: Path
    machine: Any
    trees: Dict[str, Path]
    accel: str
    detail: Callable[[str], None]
    parameters: Dict[str, Any]

    def program(self, qemu: str, name: str = 'qemu-system-x86_64') -> Path:
        """A program of one of the QEMUs."""
        return self.trees[qemu] / name

    def vm(self, qemu: str, case: Case, disk: Any, *args: str,
           label: str = '', trace: Any = None) -> Any:
        """A VM for the case, for use as a context manager."""
        config = self.machine.VMConfig(
            guest=self.guest, log_dir=self.folder, ram=case.ram,
            accel=self.accel, boot_timeout=300.0,
            extra_args=(*disk.objects(), *args))
        return self.machine.VM(self.program(qemu), disk, config,
                               label or qemu, progress=self.detail,
                               trace=trace)

    @contextlib.contextmanager
    def maker(self, *args: str) -> Iterator[Any]:
        """A QEMU without a guest that makes images."""
        vm = self.machine.qemu_machine.QEMUMachine(
            str(self.program(PATCHED)), name='maker',
            wrapper=('setpriv', '--pdeathsig', 'KILL', 'setsid'),
            base_temp_dir=str(self.folder), log_dir=str(self.folder))
        vm.set_machine('none')
        vm.add_args('-nodefaults', '-display', 'none', *args)
        with vm:
            try:
                vm.launch()
                yield vm
            except (self.machine.qemu_machine.QEMUMachineError,
                    self.machine.qemu_qmp.ExecuteError) as err:
                raise BenchError(f'an image cannot be made: {err}') from err

    # Storage

    @contextlib.contextmanager
    def place(self, case: Case) -> Iterator[storage.Storage]:
        """The case's storage, with nothing on it."""
        path = self.folder / 'storage'
        store = open_place(case.place, path,
                           case.disk_bytes() + case.stored_bytes()
                           + EXPORT_SLACK)
        try:
            if case.place.kind == 'local':
                prepare_file(case, path, store)
            with store:
                yield store
        finally:
            path.unlink(missing_ok=True)

    def storage_file(self, case: Case) -> Optional[Path]:
        """The file of the host that the case's storage is."""
        return self.folder / 'storage' if case.place.kind == 'local' else None


def open_place(place: Place, path: Path, size: int) -> storage.Storage:
    """Storage of @size bytes; only a local file is at @path."""
    if place.kind == 'local':
        return storage.LocalFile(path, place.cache, place.aio)
    if place.kind == 'nbd':
        return storage.Nbd(size, delay=place.delay, rate=place.rate)
    return storage.RotatingDisk(size)


def prepare_file(case: Case, path: Path, store: storage.Storage) -> None:
    """
    A file in the condition that the case wants: empty, or with room for all
    that will be stored, allocated or written.
    """
    path.touch()
    size = case.stored_bytes()
    if case.condition == 'unwritten':
        with open(path, 'rb+') as file:
            os.posix_fallocate(file.fileno(), 0, size)
    if case.condition == 'overwritten':
        local.run_fio('write', *store.fio_options(),
                      *local.fio_depth(1, size, False), '--end_fsync=1')


# The host's page cache

def cached_bytes(path: Path) -> Optional[int]:
    """How much of a file the page cache has; None if that cannot be told."""
    try:
        done = subprocess.run(['fincore', '-b', '-n', '-o', 'RES', str(path)],
                              check=False, capture_output=True, text=True)
    except OSError:
        return None
    return int(done.stdout) if done.stdout.strip().isdecimal() else None


def settle(*paths: Optional[Path]) -> Step:
    """
    Write out what the host has not yet, and drop @paths from its page cache.

    Only those files are dropped, not all that others have cached, which also
    needs no privilege.  Returns what is left of them for the record.
    """
    os.sync()
    left: List[Optional[int]] = []
    for path in filter(None, paths):
        with open(path, 'rb') as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        left.append(cached_bytes(path))
    if None in left:
        return {'cached': not_measured('there is no fincore')}
    return {'cached': sum(filter(None, left))}
