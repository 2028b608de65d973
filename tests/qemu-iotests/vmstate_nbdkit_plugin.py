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
from pathlib import Path
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


def arrive(kind: str, offset: int = 0, size: int = 0) -> None:
    """Write a request down, and do what is planned for it"""
    with Path(paths['log']).open('a', encoding='ascii') as log:
        log.write(f'{kind} {offset} {size}\n')
    plan = Path(paths['plan'])
    words = plan.read_text('ascii').split() if plan.exists() else []
    if words[:1] != [kind]:
        return
    _, number, state = words
    left = int(number) - 1
    if left:
        plan.write_text(f'{kind} {left} {state}\n', 'ascii')
        return
    plan.unlink()
    if state == 'dead':
        os.kill(os.getpid(), signal.SIGKILL)
    Path(f'{paths["failing"]}-{kind}').touch()


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
