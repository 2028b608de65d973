# SPDX-License-Identifier: GPL-2.0-or-later

"""
Storage to take snapshots on: a local file, a network's, a rotating disk's.

Each is a context manager that is there while it is entered.  It tells QEMU how
to open it (blockdev()) and fio how to measure it (fio_options()).  What is on
it is gone afterwards, except of a LocalFile.
"""

import importlib
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile
import time
from types import TracebackType
from typing import Any, Dict, List, Optional, Type


TOP = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get('QFS_BUILD_DIR', TOP / 'build'))
MODELS = BUILD / 'bench/models'
ROTATING_DISK_PLUGIN = MODELS / 'nbdkit-rotating-disk-plugin.so'
LATENCY_FILTER = MODELS / 'nbdkit-latency-filter.so'

sys.path.append(str(TOP / 'scripts'))
local = importlib.import_module('vmsnap.storage')

# Requests that are served at a time; more than anybody here has in flight
THREADS = 64

# A server that has neither started nor failed by then never will
PATIENCE_SECONDS = 30

# Of the bucket of nbdkit's rate filter: no smaller than a request, or it is
# slower than its rate, and no larger: after a pause a bucketful is free
BUCKET_BYTES = 8 << 20


class StorageError(Exception):
    """Storage cannot be set up; the text says why."""


class Storage:
    """What all kinds have in common; see the head of this file."""

    def __enter__(self) -> 'Storage':
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: Optional[Type[BaseException]],
                 error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.stop()

    def start(self) -> None:
        """Have it ready for use."""

    def stop(self) -> None:
        """Leave nothing behind; also after a start that failed."""

    def blockdev(self) -> Dict[str, Any]:
        """The protocol node for QEMU, as "blockdev-add" takes it."""
        raise NotImplementedError

    def fio_options(self) -> List[str]:
        """What makes fio work on the same storage in the same way."""
        raise NotImplementedError


class LocalFile(Storage):
    """
    The file @path, which the caller makes and removes.

    @cache and @aio are QEMU's.
    """

    def __init__(self, path: Path, cache: str = 'none', aio: str = 'native'):
        self._path = path
        self._cache = cache
        self._aio = aio

    def blockdev(self) -> Dict[str, Any]:
        direct, no_flush, _ = local.CACHE_MODES[self._cache]
        return {'driver': 'file', 'filename': str(self._path),
                'aio': self._aio,
                'cache': {'direct': direct, 'no-flush': no_flush}}

    def fio_options(self) -> List[str]:
        target: List[str] = local.fio_target(self._path, self._cache,
                                             self._aio)
        return target


def may_run_at_once() -> bool:
    """Whether this process may start others with a real-time priority."""
    probe = subprocess.run(['chrt', '-f', '1', 'true'], check=False,
                           capture_output=True)
    return probe.returncode == 0


class Server(Storage):
    """
    An nbdkit of our own behind a Unix socket in a folder that only we see.

    It ends with the thread that started it.  A device does not wait for a CPU,
    so it runs with a real-time priority where that is allowed.
    """

    def __init__(self, *arguments: str):
        self._arguments = arguments
        self._folder: Optional[Path] = None
        self._process: Optional['subprocess.Popen[bytes]'] = None

    def _path(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / name

    @property
    def socket(self) -> Path:
        """The socket that the server listens on."""
        return self._path('socket')

    def start(self) -> None:
        # Not $TMPDIR, which may be too long for a socket's name
        self._folder = Path(tempfile.mkdtemp(prefix='qfs-', dir='/tmp'))
        command = ['nbdkit', '--foreground', '--exit-with-parent',
                   '--threads', str(THREADS), '--unix', str(self.socket),
                   '--pidfile', str(self._path('pid')), *self._arguments]
        if may_run_at_once():
            command = ['chrt', '-f', '1', *command]
        with open(self._path('log'), 'wb') as log:
            try:
                # It outlives the block: stop() ends it
                # pylint: disable-next=consider-using-with
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            except OSError as err:
                raise StorageError(
                    f'cannot run {command[0]}: {err.strerror}') from err
        self._wait(self._process)

    def _wait(self, process: 'subprocess.Popen[bytes]') -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        # Written when it listens
        while not self._path('pid').exists():
            if process.poll() is not None or time.monotonic() > end:
                said = self._path('log').read_text('utf-8').splitlines()
                raise StorageError('nbdkit did not start: '
                                   f'{said[0] if said else "no reason given"}')
            time.sleep(0.01)

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._folder:
            shutil.rmtree(self._folder)
            self._folder = None

    def blockdev(self) -> Dict[str, Any]:
        return {'driver': 'nbd',
                'server': {'type': 'unix', 'path': str(self.socket)}}

    def fio_options(self) -> List[str]:
        return ['--ioengine=nbd',
                f'--uri=nbd+unix:///?socket={self.socket}']


class Nbd(Server):
    """
    A file on a server: @path, or memory of @size bytes.

    @delay: seconds that each request takes besides; those in flight at a time
        wait at a time
    @rate: bytes a second in each direction
    """

    def __init__(self, size: int, path: Optional[Path] = None,
                 delay: float = 0, rate: int = 0):
        filters: List[str] = []
        options: List[str] = []
        if rate:
            # In front of the latency: what waits for its turn does not travel
            filters.append('--filter=rate')
            options += [f'rate={8 * rate}',
                        f'burstiness={BUCKET_BYTES / rate:.6f}']
        if delay:
            filters.append(f'--filter={LATENCY_FILTER}')
            options.append(f'latency={delay * 1e6:.0f}us')
        store = ['file', str(path)] if path else ['memory', str(size)]
        super().__init__(*filters, *store, *options)
        self._file = path
        self._size = size

    def start(self) -> None:
        if self._file:
            with open(self._file, 'ab') as file:
                file.truncate(self._size)
        super().start()


class RotatingDisk(Server):
    """
    A disk that turns: see models/README.rst.

    @size: bytes of the export
    @path: where to keep the data; None: memory
    @parameters: of the plugin, with "_" for "-"
    """

    def __init__(self, size: int, path: Optional[Path] = None,
                 **parameters: str):
        if path:
            parameters['file'] = str(path)
        super().__init__(str(ROTATING_DISK_PLUGIN), f'size={size}',
                         *(f'{name.replace("_", "-")}={value}'
                           for name, value in parameters.items()))
