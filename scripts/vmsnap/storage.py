# SPDX-License-Identifier: GPL-2.0-or-later

"""Disk images, and what the storage under them can do without QEMU."""

import errno
import json
import os
from pathlib import Path
import shutil
import subprocess
import tempfile


MIB = 1 << 20

# What QEMU's cache= stands for:
# (cache.direct, cache.no-flush, write cache shown to the guest)
CACHE_MODES = {
    'none': (True, False, True),
    'directsync': (True, False, False),
    'writeback': (False, False, True),
    'writethrough': (False, False, False),
    'unsafe': (False, True, True),
}

AIO_MODES = ('native', 'io_uring', 'threads')

# fio's engine that drives the kernel in the way that QEMU's aio= does
FIO_ENGINES = {
    'native': 'libaio',
    'io_uring': 'io_uring',
    'threads': 'psync',
}


class StorageError(Exception):
    """An image or its storage cannot be used; the text says why."""


def is_direct(cache):
    """Whether the cache mode by-passes the host's page cache."""
    return CACHE_MODES[cache][0]


def run_tool(*command):
    """Run a program, return what it prints."""
    try:
        done = subprocess.run([str(word) for word in command], check=True,
                              stdin=subprocess.DEVNULL, capture_output=True,
                              text=True)
    except OSError as err:
        raise StorageError(f'cannot run {command[0]}: {err.strerror}') from err
    except subprocess.CalledProcessError as err:
        said = (err.stderr or err.stdout).strip().splitlines()
        raise StorageError(f'{Path(command[0]).name} failed: '
                           f'{said[-1] if said else err.returncode}') from err
    return done.stdout


# Folders

def file_system(folder):
    """The type of the file system that @folder is on."""
    found = run_tool('df', '--output=fstype', folder).split()[-1]
    if found != '-':
        return found
    # In a chroot, which does not see the mount; this goes by the magic number
    return run_tool('stat', '-f', '-c', '%T', folder).strip()


def free_space(folder):
    """Bytes that can still be written in @folder."""
    return shutil.disk_usage(folder).free


def check_direct_io(folder):
    """Raise StorageError when files in @folder cannot be opened O_DIRECT."""
    handle, name = tempfile.mkstemp(dir=folder)
    os.close(handle)
    try:
        os.close(os.open(name, os.O_RDWR | os.O_DIRECT))
    except OSError as err:
        if err.errno == errno.EINVAL:
            raise StorageError(
                f'the file system of {folder} ({file_system(folder)}) has no '
                'O_DIRECT: name another folder with --dir, or use '
                '--cache writeback') from err
        raise
    finally:
        os.unlink(name)


# Images

def check_image(qemu_img, *image):
    """
    What qemu-img check finds, as its JSON; raise when it is not clean.

    @image: the words that let qemu-img open it, the last one its name

    Leaked clusters count: nothing here may leave any behind.
    """
    done = subprocess.run([qemu_img, 'check', '--output=json', *image],
                          check=False, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True)
    name = Path(image[-1]).name
    try:
        found = json.loads(done.stdout)
    except ValueError as err:
        raise StorageError(f'qemu-img check of {name} failed: '
                           f'{done.stderr.strip()}') from err
    bad = {key: found[key] for key in
           ('corruptions', 'leaks', 'check-errors') if found.get(key)}
    if bad or done.returncode:
        raise StorageError(f'{name} is not clean: {bad}')
    return found


class Image:
    """A qcow2 image and the qemu-img that belongs to the QEMU using it."""

    def __init__(self, path, qemu_img):
        self.path = Path(path)
        self.qemu_img = Path(qemu_img)

    def create(self, size, **options):
        """Make it anew, sparse; @options are those of qemu-img create -o."""
        words = ['-o', ','.join(f'{k}={v}' for k, v in options.items())]
        run_tool(self.qemu_img, 'create', '-q', '-f', 'qcow2',
                 *(words if options else []), self.path, size)

    def check(self):
        """What qemu-img check finds; raise when it is not clean."""
        return check_image(self.qemu_img, self.path)

    def remove(self):
        """Delete the file; not being there is no error."""
        self.path.unlink(missing_ok=True)

    def blockdev(self, node, cache, aio):
        """The value of -blockdev for a node called @node."""
        direct, no_flush, _ = CACHE_MODES[cache]
        modes = {'direct': direct, 'no-flush': no_flush}
        return json.dumps({
            'driver': 'qcow2', 'node-name': node, 'discard': 'unmap',
            'cache': modes,
            'file': {'driver': 'file', 'filename': str(self.path),
                     'node-name': f'{node}-file', 'aio': aio,
                     'discard': 'unmap', 'cache': modes},
        })


# The ceiling

def fio_depth(depth, size, by_jobs):
    """fio's options for @depth requests at a time on @size bytes."""
    if not by_jobs:
        return [f'--iodepth={depth}', f'--size={size}']
    # A thread pool's depth is its number of threads
    share = max(size // depth // MIB, 1) * MIB
    return [f'--numjobs={depth}', '--thread', '--group_reporting',
            f'--size={share}', f'--offset_increment={share}']


def fio_target(path, cache, aio):
    """fio's options for a file that is used as QEMU uses an image."""
    return [f'--filename={path}', '--fallocate=none',
            '--ioengine=' + FIO_ENGINES[aio],
            f'--direct={int(is_direct(cache))}']


def fio_job(*options, wrapper=()):
    """What fio says of a job, as its JSON; @wrapper: words before "fio"."""
    out = run_tool(*wrapper, 'fio', '--name=job', '--output-format=json',
                   *options)
    # A warning may come before the JSON text
    return json.loads(out[out.index('{'):])['jobs'][0]


def run_fio(direction, *options):
    """Bytes a second of requests of 1 MiB, one after the other."""
    job = fio_job('--bs=1M', f'--rw={direction}', *options)
    return job[direction]['bw_bytes']


class Fio:
    """
    The storage's own speed, seen by fio with QEMU's cache and AIO modes.

    The file is made sparse and is not preallocated, as a qcow2 image is.
    """

    def __init__(self, folder, cache, aio):
        self._folder = Path(folder)
        self._cache = cache
        self._aio = aio
        self._fsync = not CACHE_MODES[cache][1]

    @staticmethod
    def available():
        """Whether fio is installed."""
        return shutil.which('fio') is not None

    def _run(self, path, direction, depth, size):
        end = ['--end_fsync=1'] if direction == 'write' and self._fsync else []
        return run_fio(direction, *fio_target(path, self._cache, self._aio),
                       *fio_depth(depth, size, self._aio == 'threads'),
                       *end) / MIB

    def measure(self, size):
        """MiB/s of writing @size bytes and of reading them again."""
        size = max(size // MIB, 8) * MIB
        handle, path = tempfile.mkstemp(prefix='fio-', dir=self._folder)
        try:
            os.truncate(handle, size)
            os.close(handle)
            return {
                'write_depth8': self._run(path, 'write', 8, size),
                'read_depth1': self._run(path, 'read', 1, size),
                'read_depth8': self._run(path, 'read', 8, size),
            }
        finally:
            os.unlink(path)
