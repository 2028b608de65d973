# SPDX-License-Identifier: GPL-2.0-or-later

"""How fast the storage is without any VM: fio, and qemu-img bench."""

import os
from pathlib import Path
import re
import subprocess
import time
from typing import List, Optional, Tuple

from cases import MIB, PATCHED, Case
from disk import Disk
from lab import BenchError, Lab, Step, local, settle
import storage


DEPTH = 8

# A read of the reader, when it has got going
LARGE_READ = 5 * MIB


def step(name: str, size: int, seconds: float, cached: Step) -> Step:
    """What fio or qemu-img did to @size bytes."""
    return {'step': name, 'number': 1, 'bytes': size, 'seconds': seconds,
            **cached}


class Fio:
    """
    The storage without an image.

    What an image begins with as an empty file is a sparse one here.
    """

    @staticmethod
    def why_not(_lab: Lab, case: Case) -> Optional[str]:
        """It must be installed, and know LUKS, which it does not."""
        if case.luks:
            return 'fio knows no LUKS'
        return None if local.Fio.available() else 'fio is not installed'

    def _measure(self, case: Case, path: Optional[Path],
                 store: storage.Storage) -> List[Step]:
        size = case.stream_bytes()
        options = store.fio_options()
        by_jobs = case.place.kind == 'local' and case.place.aio == 'threads'
        if path and case.condition == 'sparse':
            os.truncate(path, size)
        steps = []
        for name, direction, depth in (('write-8', 'write', DEPTH),
                                       ('read-1', 'read', 1),
                                       ('read-8', 'read', DEPTH)):
            end = ['--end_fsync=1'] if direction == 'write' else []
            cached = settle(path)
            rate = local.run_fio(
                direction, *options, *end,
                *local.fio_depth(depth, size, by_jobs))
            steps.append(step(name, size, size / rate, cached))
        return steps

    def run(self, lab: Lab, case: Case) -> List[Step]:
        """Write, then read in two ways."""
        with lab.place(case) as store:
            return self._measure(case, lab.storage_file(case), store)


class QemuImg:
    """qemu-img bench, on an image like that of the snapshots."""

    @staticmethod
    def why_not(_lab: Lab, case: Case) -> Optional[str]:
        """It is there when QEMU is, but takes no key."""
        return 'qemu-img bench takes no key of LUKS' if case.luks else None

    @staticmethod
    def _bench(lab: Lab, case: Case, disk: Disk, *args: str) -> float:
        """
        The seconds of a run.

        Of writes they are those of the process: qemu-img does not count the
        flush, which comes when it closes the image.
        """
        start = time.monotonic()
        done = subprocess.run(
            [lab.program(PATCHED, 'qemu-img'), 'bench', '-t',
             case.place.cache, *args, *disk.image_name()], check=False,
            stdin=subprocess.DEVNULL, capture_output=True, text=True)
        took = time.monotonic() - start
        told = re.search(r'Run completed in ([\d.]+) seconds', done.stdout)
        if done.returncode or not told:
            raise BenchError(f'qemu-img bench failed: {done.stderr.strip()}')
        return took if '-w' in args else float(told[1])

    def _measure(self, lab: Lab, case: Case, disk: Disk) -> List[Step]:
        steps = []
        runs: List[Tuple[str, int, int, List[str]]] = [
            ('write-8', DEPTH, MIB, ['-w']), ('read-5M', 1, LARGE_READ, []),
            ('read-8', DEPTH, MIB, [])]
        for name, depth, request, direction in runs:
            count = case.stream_bytes() // request
            cached = settle(lab.storage_file(case))
            # Where nothing is allocated, as snapshots have it
            took = self._bench(lab, case, disk, *direction, '-d', str(depth),
                               '-s', str(request), '-c', str(count),
                               '-o', str(case.occupied_bytes()))
            steps.append(step(name, count * request, took, cached))
        return steps

    def run(self, lab: Lab, case: Case) -> List[Step]:
        """Write, then read as the reader does, one or several at a time."""
        with lab.place(case) as store:
            disk = Disk(lab, case, store)
            disk.create()
            return self._measure(lab, case, disk)
