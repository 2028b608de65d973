# SPDX-License-Identifier: GPL-2.0-or-later

"""What the programs that measure share: options, set-up, how they end."""

import argparse
import contextlib
import importlib
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import tempfile

from vmsnap import storage
from vmsnap.status import Status


TOP = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get('QFS_BUILD_DIR', TOP / 'build'))

# What ends a program before its time, and what to call it
SIGNALS = {signal.SIGINT: 'Ctrl-C', signal.SIGTERM: 'SIGTERM',
           signal.SIGHUP: 'SIGHUP'}


class CommandError(Exception):
    """The program cannot go on; the text says why in one sentence."""


class ScriptError(CommandError):
    """One of the project's scripts failed, and has said why itself."""


class Interrupted(Exception):
    """Somebody wants the program to end."""


# The command line

class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence."""

    def error(self, message):
        self.refuse(f'{message} ({self.prog} --help lists the options)')

    def refuse(self, message):
        """End with a sentence that needs no hint."""
        self.exit(2, f'error: {message}\n')


def count(text):
    """A number of at least one."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f'{text} is no whole number of 1 or more')
    return int(text)


def folder_name(text):
    """A folder: nothing at all would be the one that one happens to be in."""
    if not text:
        raise argparse.ArgumentTypeError('a folder is needed')
    return Path(text)


def add_options(parser, folder):
    """Add the options that all programs have; @folder is where images go."""
    parser.add_argument('--cache', choices=list(storage.CACHE_MODES),
                        default='none', help='cache mode (default none)')
    parser.add_argument('--aio', choices=storage.AIO_MODES,
                        help='how QEMU does asynchronous I/O (default native,'
                             ' or threads where the cache mode excludes it)')
    parser.add_argument('--dir', type=folder_name, metavar='DIR',
                        default=BUILD / folder,
                        help=f'folder for images (default build/{folder})')
    parser.add_argument('--json', type=Path, metavar='FILE',
                        help='also write all figures to FILE')


def parse(parser):
    """The command line, checked as far as that is possible now."""
    options = parser.parse_args()
    direct = storage.is_direct(options.cache)
    if options.aio is None:
        options.aio = 'native' if direct else 'threads'
    if options.aio == 'native' and not direct:
        parser.refuse(f'--aio native needs O_DIRECT, which --cache '
                      f'{options.cache} does not use: take --aio io_uring or '
                      'threads, or --cache none')
    if options.json:
        try:
            check_writable(options.json)
        except OSError as err:
            parser.refuse(f'--json: {options.json} cannot be written '
                          f'({err.strerror})')
    return options


def check_writable(path):
    """Raise OSError when @path cannot be written; leave it as it is."""
    existed = path.exists()
    with path.open('a', encoding='utf-8'):
        pass
    if not existed:
        path.unlink()


# Set-up

def run_script(*command):
    """Run one of the project's scripts, return what it prints."""
    try:
        done = subprocess.run([str(word) for word in command], check=False,
                              stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, text=True)
    except OSError as err:
        raise CommandError(f'cannot run {command[0]}: {err.strerror}') from err
    name = Path(command[0]).name
    if done.returncode == 1:
        raise ScriptError(f'{name} failed, its own message says why')
    if done.returncode:
        raise CommandError(f'{name} ended with code {done.returncode}')
    return done.stdout.strip()


def set_up(*options):
    """Build what is not built."""
    run_script(TOP / 'scripts' / 'setup', *options)


def make_guest():
    """The folder with the guest's kernel and initramfs."""
    return Path(run_script(TOP / 'tests' / 'guest' / 'make-guest'))


def import_machine():
    """vmsnap.machine, which stands on modules that set_up() fetches."""
    try:
        return importlib.import_module('vmsnap.machine')
    except ImportError as err:
        raise CommandError(str(err)) from err


def remove_leftovers(folder, name):
    """What a killed program could not remove itself."""
    for left in folder.glob(f'{name}-*-*'):
        owner = left.name.split('-')[1]
        if owner.isdecimal() and not Path('/proc', owner).exists():
            shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def work_folder(folder, name):
    """A folder for the program @name that is gone afterwards."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder, name)
        path = tempfile.mkdtemp(prefix=f'{name}-{os.getpid()}-', dir=folder)
    except OSError as err:
        raise CommandError(f'no image can be written in {folder} '
                           f'({err.strerror}): name another folder with '
                           '--dir') from err
    try:
        yield Path(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)


# The end

def interrupt(number, _frame):
    """Unwind, so that everything is cleaned up, and do not unwind that."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(f'stopped by {SIGNALS[number]}, the images are removed: '
                      'run again to go on')


def expected_errors():
    """What ends in a sentence instead of a trace."""
    machine = sys.modules.get('vmsnap.machine')
    kinds = (CommandError, Interrupted, storage.StorageError, OSError)
    return kinds + (machine.VMError,) if machine else kinds


def explain(error):
    """The last line of a program that failed."""
    machine = sys.modules.get('vmsnap.machine')
    if machine and isinstance(error, machine.VerifyError):
        return f'VERIFICATION FAILED: {error}'
    return f'error: {error}'


def write_json(path, record):
    """What was measured, for a program."""
    text = json.dumps(record, indent=2, ensure_ascii=False) + '\n'
    path.write_text(text, encoding='utf-8')


def run(name, work, options):
    """
    Call @work, which fills a dict; return the exit code.

    The dict goes to --json also when something failed, with the reason.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors='replace')
    for number in SIGNALS:
        signal.signal(number, interrupt)
    # See scripts/lib.sh
    os.environ.setdefault('QFS_RUN', f'scripts/{name} (process {os.getpid()})')
    status, record, failure = Status(), {}, None
    try:
        work(options, status, record)
    except expected_errors() as error:
        record['error'] = str(error)
        failure = error
    try:
        if options.json:
            write_json(options.json, record)
    except OSError as error:
        failure = failure or error
    if failure is None:
        return 0
    stopped = isinstance(failure, Interrupted)
    if stopped and sys.stderr.isatty():
        # Not behind the progress and the terminal's ^C
        status.note('')
    if not isinstance(failure, ScriptError):
        status.note(explain(failure))
    return 130 if stopped else 1
