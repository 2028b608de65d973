# SPDX-License-Identifier: GPL-2.0-or-later

"""
A libvirt daemon of the test's own, which no other daemon knows of.

A daemon that runs as root uses the machine's folders whatever it is told,
and would find the domains of the machine's own daemon there.  One that does
not run as root goes by HOME and XDG_*.  So this one never runs as root: when
the test does, daemon, virsh and QEMU are user nobody's.  Everything they make
is in one folder, which goes with them.
"""

import contextlib
import os
from pathlib import Path
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple


DRIVER = 'libvirt_driver_qemu.so'
PACKAGES = ('libvirt0', 'libvirt-clients', 'libvirt-daemon',
            'libvirt-daemon-driver-qemu')

# Only this driver, so that the daemon has to do with domains and nothing else
QEMU_CONF = '''\
stdio_handler = "file"
security_driver = "none"
namespaces = []
'''

DAEMON_CONF = '''\
unix_sock_dir = "{sockets}"
auth_unix_rw = "none"
log_outputs = "3:file:{log}"
'''

# A domain's sockets are up to 70 bytes below the folder, and 107 is the limit
LONGEST_FOLDER = 36

# What a call of virsh may take
VIRSH_SECONDS = 150


class LibvirtError(Exception):
    """Something of libvirt's did not work; the text is for the user."""


class MissingError(LibvirtError):
    """This machine cannot run the test; the text says why."""


class VirshError(LibvirtError):
    """virsh ended with an error."""

    def __init__(self, args, said):
        super().__init__(f'virsh {" ".join(map(str, args))} failed: {said}')
        self.said = said


def wait_until(happened, seconds, what, step=0.1):
    """Wait for @happened() to be true and return what it returned."""
    end = time.monotonic() + seconds
    while True:
        result = happened()
        if result:
            return result
        if time.monotonic() > end:
            raise LibvirtError(f'{what}: not within {seconds} s')
        time.sleep(step)


# Processes

def environment_of(pid):
    """What a process was started with; empty when that cannot be seen."""
    try:
        return Path(f'/proc/{pid}/environ').read_bytes().split(b'\0')
    except OSError:
        return []


def processes_at_home(home):
    """All processes that have the folder @home as their HOME."""
    mark = b'HOME=' + os.fsencode(home)
    return [int(name) for name in os.listdir('/proc')
            if name.isdecimal() and mark in environment_of(name)]


def kill_at_home(home):
    """
    End them all, daemons first; a test's own domains are not worth saving.

    A domain that libvirt started is nobody's child, but has its HOME.
    """
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL):
        for pid in processes_at_home(home):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        end = time.monotonic() + 5
        while processes_at_home(home) and time.monotonic() < end:
            time.sleep(0.05)


def start_guardian(home, folders):
    """
    Have a process clean up when this one was killed and cannot.

    Returns what has to be closed for it to do so.
    """
    reader, writer = os.pipe()
    # In a session of its own: who ends the test ends its process group
    command = [sys.executable, str(Path(__file__).resolve()), str(reader),
               str(home), *map(str, folders)]
    # Closed on both sides once it runs; it is reaped in Home.remove()
    process = subprocess.Popen(command, pass_fds=[reader],
                               start_new_session=True, cwd='/',
                               stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    os.close(reader)
    return process, writer


def guard(reader, home, folders):
    """The guardian: sleep until the test is gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.read(int(reader), 1)
    kill_at_home(home)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


# Who runs it, and where

class Home:
    """
    The folder and the user that daemons, virsh and domains of a test have.

    @big: a folder for images; where it cannot be used, they go into the other
    """

    def __init__(self, big):
        base = tempfile.gettempdir()
        if len(base) > LONGEST_FOLDER - 12:
            base = '/tmp'
        self.folder = Path(tempfile.mkdtemp(prefix='qfs-', dir=base))
        self._folders = [self.folder]
        self._guardian = None
        self._user = {}
        try:
            self._choose_user()
            self.images = self._images_folder(big)
            self._guardian = start_guardian(self.folder, self._folders)
        except BaseException:
            self.remove()
            raise

    def _choose_user(self):
        if os.geteuid():
            return
        nobody = pwd.getpwnam('nobody')
        self._user = {'user': nobody.pw_uid, 'group': nobody.pw_gid,
                      'extra_groups': []}
        os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
        try:
            self.run(['true'])
        except (OSError, subprocess.SubprocessError) as err:
            raise MissingError('a private libvirt daemon must not run as '
                               'root, and this root cannot become nobody '
                               f'({err})') from err

    def _images_folder(self, big):
        big.mkdir(parents=True, exist_ok=True)
        images = Path(tempfile.mkdtemp(prefix='images-', dir=big))
        self._folders.append(images)
        self.give(images)
        if self.can('-w', images):
            return images
        images.rmdir()
        self._folders.pop()
        return self.folder

    def give(self, path):
        """Make a file or folder the user's."""
        if self._user:
            os.chown(path, self._user['user'], self._user['group'])

    def can(self, how, path):
        """What test(1) says, to the user."""
        return self.run(['test', how, path], check=False).returncode == 0

    def usable(self, path, how='-r'):
        """@path, or a copy of it where the user cannot get at it."""
        path = Path(path).resolve()
        if self.can(how, path):
            return path
        copy = self.folder / 'copies' / path.name
        if not copy.exists():
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
            copy.chmod(0o755)
        return copy

    def make(self, name, text=None):
        """A folder, or a file with a text, that belongs to the user."""
        path = self.folder / name
        for folder in reversed(path.relative_to(self.folder).parents):
            if not (self.folder / folder).exists():
                (self.folder / folder).mkdir()
                self.give(self.folder / folder)
        if text is None:
            path.mkdir(exist_ok=True)
        else:
            path.write_text(text, encoding='utf-8')
        self.give(path)
        return path

    def environment(self, sub, **more):
        """
        All that the processes of the daemon @sub get to see.

        HOME is the same for all: it marks the processes that are ours.
        """
        top = self.folder / sub
        return {'HOME': str(self.folder), 'LC_ALL': 'C.UTF-8', 'TZ': 'UTC',
                'PATH': f'{self.folder}/bin:/usr/bin:/bin:/usr/sbin:/sbin',
                'TMPDIR': str(self.folder), 'LIBVIRT_AUTOSTART': '0',
                'DBUS_SYSTEM_BUS_ADDRESS': 'unix:path=/nonexistent',
                'DBUS_SESSION_BUS_ADDRESS': 'unix:path=/nonexistent',
                'XDG_RUNTIME_DIR': f'{top}/run', 'XDG_CACHE_HOME': f'{top}/c',
                'XDG_CONFIG_HOME': f'{top}/e', 'XDG_DATA_HOME': f'{top}/d',
                **more}

    def run(self, command, check=True, **options):
        """Run a program as the user."""
        options = {'env': self.environment('x'), 'timeout': VIRSH_SECONDS,
                   'cwd': self.folder, 'text': True,
                   'stdin': subprocess.DEVNULL, 'capture_output': True,
                   **self._user, **options}
        return subprocess.run([str(word) for word in command], check=check,
                              **options)

    def start(self, command, **options):
        """Start a program as the user; it does not get Ctrl-C."""
        options = {'cwd': self.folder, 'text': True,
                   'stdin': subprocess.DEVNULL, 'start_new_session': True,
                   **self._user, **options}
        return subprocess.Popen([str(word) for word in command], **options)

    def processes(self):
        """All processes of the test that are the user's."""
        return processes_at_home(self.folder)

    def remove(self):
        """End them and remove the folders; the guardian sees to that, too."""
        kill_at_home(self.folder)
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
        if self._guardian:
            process, writer = self._guardian
            self._guardian = None
            os.close(writer)
            process.wait()

    def leftovers(self):
        """What is still there after remove()."""
        return self.processes() + [str(folder) for folder in self._folders
                                   if folder.exists()]


# The programs

class Programs(NamedTuple):
    """
    What is used of a libvirt.

    @libraries: folder of its libraries
    """
    daemon: Path
    virsh: Path
    driver: Path
    libraries: Path

    def usable_by(self, home):
        """The same, where the user of @home can get at them."""
        libraries = home.make('lib')
        for path in self.libraries.glob('libvirt*.so.0'):
            (libraries / path.name).symlink_to(home.usable(path))
        return Programs(home.usable(self.daemon, '-x'),
                        home.usable(self.virsh, '-x'),
                        home.usable(self.driver), libraries)


def fetched_programs(fetch, at_least=None):
    """
    Those of Debian's packages, unpacked and not installed.

    To install them would start a daemon for the whole machine.

    @at_least: version, from the suite's backports if need be
    """
    command = [str(fetch), *PACKAGES]
    if at_least:
        command[1:1] = ['--at-least', at_least]
    try:
        done = subprocess.run(command, check=True, text=True,
                              stdin=subprocess.DEVNULL, capture_output=True)
    except OSError as err:
        raise LibvirtError(f'cannot run {fetch}: {err.strerror}') from err
    except subprocess.CalledProcessError as err:
        said = err.stderr.strip().splitlines() or ['it does not say why']
        raise LibvirtError(f'cannot fetch libvirt: {said[-1]}') from err
    top = Path(done.stdout.strip())
    drivers = list(top.glob(f'usr/lib/*/libvirt/connection-driver/{DRIVER}'))
    if not drivers:
        raise LibvirtError(f'the packages of libvirt have no {DRIVER}: '
                           f'look at {top}')
    return Programs(top / 'usr/sbin/libvirtd', top / 'usr/bin/virsh',
                    drivers[0], drivers[0].parents[2])


# The daemon

class Daemon:
    """
    A daemon in a Home, called @name there; use it as a context manager.

    @programs: Programs that the user of the Home can use
    """

    def __init__(self, home, name, programs):
        self.home = home
        self.name = name
        self._program = programs.daemon
        self._virsh = programs.virsh
        drivers = home.make(f'{name}/drivers')
        (drivers / DRIVER).symlink_to(programs.driver)
        sockets = home.make(f'{name}/run/libvirt')
        self.log = home.folder / name / 'daemon.log'
        home.make(f'{name}/e/libvirt/qemu.conf', QEMU_CONF)
        self._conf = home.make(
            f'{name}/daemon.conf',
            DAEMON_CONF.format(sockets=sockets, log=self.log))
        self.socket = sockets / 'libvirt-sock'
        self._environment = home.environment(
            name, LIBVIRT_DRIVER_DIR=str(drivers),
            LD_LIBRARY_PATH=str(programs.libraries))
        self.process = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, exc_type, exc_val, exc_tb):
        self.stop()

    def start(self):
        """Start it, and wait until it can be talked to."""
        output = self.home.make(f'{self.name}/daemon.out', '')
        with output.open('a', encoding='utf-8') as out:
            self.process = self.home.start(
                [self._program, '--config', self._conf],
                env=self._environment, stdout=out, stderr=out)
        wait_until(self._answers, 60, 'starting the libvirt daemon')

    def _answers(self):
        if self.process.poll() is not None:
            words = [path.read_text(errors='replace').strip()
                     for path in (self.log.with_suffix('.out'), self.log)
                     if path.exists()]
            raise LibvirtError(
                f'{self._program} ended with code {self.process.returncode}: '
                f'{" / ".join(filter(None, words))[-600:] or "(nothing)"}')
        if not self.socket.exists():
            return False
        try:
            return self.virsh('uri')
        except VirshError:
            return False

    def stop(self):
        """End it; its domains go on."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def command(self, *args):
        """The words of a call of virsh."""
        # With the socket named, there is no other daemon to be found
        return [self._virsh, '--connect',
                f'qemu+unix:///session?socket={self.socket}', '--quiet', *args]

    def virsh(self, *args):
        """What virsh prints; raise VirshError when it fails."""
        try:
            done = self.home.run(self.command(*args), check=False,
                                 env=self._environment)
        except subprocess.TimeoutExpired as err:
            raise LibvirtError(f'virsh {args[0]} has not ended within '
                               f'{VIRSH_SECONDS} s') from err
        if done.returncode:
            raise VirshError(args, (done.stderr or done.stdout).strip())
        return done.stdout.strip()

    def virsh_start(self, *args):
        """The same in the background, as a process."""
        return self.home.start(self.command(*args), env=self._environment,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def version(self):
        """The daemon's, as a tuple of numbers."""
        done = self.home.run([self._program, '--version'],
                             env=self._environment)
        return tuple(map(int, done.stdout.split()[-1].split('.')))

    def writes_to(self):
        """Files and sockets that it and its domains have open to write to."""
        found = set()
        for pid in self.home.processes():
            for name in Path(f'/proc/{pid}/fd').glob('*'):
                with contextlib.suppress(OSError):
                    target = os.readlink(name)
                    flags = Path(f'/proc/{pid}/fdinfo/{name.name}').read_text(
                        encoding='ascii').split('flags:')[1].split()[0]
                    if target.startswith('/') and int(flags, 8) & 3:
                        found.add(target)
        return found

    def listens_at(self):
        """Names of the sockets of the daemon and its domains."""
        inodes = set()
        for pid in self.home.processes():
            for name in Path(f'/proc/{pid}/fd').glob('*'):
                with contextlib.suppress(OSError):
                    inodes.add(os.readlink(name)[8:-1])
        # Of an accepted connection the other end has the name, too
        with open('/proc/net/unix', encoding='utf-8') as lines:
            fields = [line.split() for line in lines]
        return {line[7] for line in fields if len(line) > 7
                and line[6] in inodes}


if __name__ == '__main__':
    guard(sys.argv[1], sys.argv[2], sys.argv[3:])
