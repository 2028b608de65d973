# A plugin of nbdkit (nbdkit-python-plugin(3)): a file that is served, until a
# request of which the number is known beforehand
#
# nbdkit's eval plugin runs a script for each request.  If that prints and ends
# while nbdkit is in poll(2), Linux (seen with 6.18) may tell of the end alone,
# and nbdkit 1.32 drops what was printed: once in many thousand requests.
#
# nbdkit calls config, open, close, get_size, pread, pwrite and flush, for one
# request at a time.  One that ends with an exception fails with EIO.
#
# SPDX-License-Identifier: GPL-2.0-or-later

import errno
import os
import signal
from typing import Dict


API_VERSION = 2

# image: what is served
# log: gets a line for each request, "KIND OFFSET SIZE"
# plan: what to do at which request, "KIND NUMBER failing|dead"; there may be
#       none
# failing: together with "-KIND", the file that makes requests of KIND fail
paths: Dict[str, str] = {}


def config(key: str, value: str) -> None:
    paths[key] = value


# The name is nbdkit's
# pylint: disable-next=redefined-builtin
def open(_readonly: bool) -> int:
    return os.open(paths['image'], os.O_RDWR)


def close(file: int) -> None:
    os.close(file)


def get_size(file: int) -> int:
    return os.fstat(file).st_size


def read_text(path: str) -> str:
    """Nothing if there is no such file"""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY), encoding='ascii') as file:
            return file.read()
    except FileNotFoundError:
        return ''


def write_text(path: str, text: str, flags: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o644)
    with os.fdopen(file, 'w', encoding='ascii') as stream:
        stream.write(text)


def arrive(kind: str, offset: int = 0, size: int = 0) -> None:
    """Write a request down, and do what is planned for it"""
    write_text(paths['log'], f'{kind} {offset} {size}\n', os.O_APPEND)
    plan = read_text(paths['plan']).split()
    if not plan or plan[0] != kind:
        return
    left = int(plan[1]) - 1
    if left:
        write_text(paths['plan'], f'{kind} {left} {plan[2]}\n', os.O_TRUNC)
        return
    os.unlink(paths['plan'])
    if plan[2] == 'dead':
        os.kill(os.getpid(), signal.SIGKILL)
    write_text(f'{paths["failing"]}-{kind}', '', os.O_TRUNC)


def pread(file: int, buf: memoryview, offset: int, _flags: int) -> None:
    arrive('pread', offset, len(buf))
    if os.preadv(file, [buf], offset) != len(buf):
        raise OSError(errno.EIO, 'the file ends early', paths['image'])


def pwrite(file: int, buf: memoryview, offset: int, _flags: int) -> None:
    arrive('pwrite', offset, len(buf))
    if os.pwrite(file, buf, offset) != len(buf):
        raise OSError(errno.EIO, 'not all was written', paths['image'])


def flush(_file: int, _flags: int) -> None:
    # nbdkit's error filter does not know flushes
    if os.path.exists(f'{paths["failing"]}-flush'):
        raise OSError(errno.EIO, 'flushing fails', paths['image'])
    arrive('flush')
