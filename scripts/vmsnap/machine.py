# SPDX-License-Identifier: GPL-2.0-or-later

"""A VM with the test guest in it, on top of QEMU's own qemu.machine."""

import asyncio
from collections import deque
import contextlib
import dataclasses
import importlib
import logging
import os
from pathlib import Path
import subprocess
import sys
import threading
import time


TOP = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get('QFS_BUILD_DIR', TOP / 'build'))

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def add_qemu_python():
    """
    Let "import qemu.machine" find the modules in QEMU's source tree.

    QEMU_SOURCE in the environment names another tree than the fetched one.
    """
    trees = [os.environ.get('QEMU_SOURCE'), BUILD / 'src/stock',
             BUILD / 'src/patched']
    for tree in filter(None, trees):
        folder = Path(tree) / 'python'
        if (folder / 'qemu/machine/machine.py').is_file():
            sys.path.insert(0, str(folder))
            return
    raise ImportError("there is no QEMU source tree under build/src: run "
                      "scripts/setup, or set QEMU_SOURCE to one")


add_qemu_python()
qemu_machine = importlib.import_module('qemu.machine.machine')
qemu_qmp = importlib.import_module('qemu.qmp')

# Whatever they would warn about ends in an exception of ours
logging.getLogger('qemu').setLevel(logging.CRITICAL)
logging.getLogger('asyncio').setLevel(logging.CRITICAL)

# The one disk
NODE = 'disk0'

# The console is on the second port: the first is the test program's alone
KERNEL_COMMAND_LINE = ('console=ttyS1 quiet panic=-1 nokaslr mitigations=off '
                       'audit=0')

CPU_MODELS = {'kvm': 'kvm64', 'tcg': 'qemu64'}

# A stopped guest and an idle one use next to no CPU; a QEMU that also moves no
# data for so long will not do so later.
STALL_SECONDS = 120
STALL_CPU_SHARE = 0.02

# What a step may take: nobody's storage is slower than this and in use
SLOWEST_BYTES_PER_SECOND = 1 * MIB
STEP_BASE_SECONDS = 300


class VMError(Exception):
    """Something went wrong with a VM; the text is for the user."""


class GuestError(VMError):
    """The test program in the guest answered "error ..."."""


class VerifyError(GuestError):
    """Memory or disk of the guest are not what they must be."""


@dataclasses.dataclass
class VMConfig:
    """What VMs of one series of runs have in common."""

    # folder with vmlinuz and initramfs.img, made by tests/guest/make-guest
    guest: Path
    # folder for logs; the caller removes it
    log_dir: Path
    ram: int = 2 * GIB
    cache: str = 'none'
    aio: str = 'native'
    accel: str = 'tcg'
    disk_device: str = 'virtio-blk-pci'
    # how long the guest may be silent while it boots, in seconds
    boot_timeout: float = 90.0
    extra_args: tuple = ()


@dataclasses.dataclass
class Timing:
    """What a command took."""

    seconds: float
    cpu_seconds: float


class Stall(threading.Thread):
    """Kills a process that neither computes nor moves data any more."""

    def __init__(self, vm):
        super().__init__(daemon=True)
        self._vm = vm
        self._over = threading.Event()
        self.found = False

    def run(self):
        # The oldest sample is as old as a stall has to be
        samples = deque(maxlen=STALL_SECONDS + 1)
        while not self._over.wait(1):
            try:
                samples.append((self._vm.cpu_seconds(),
                                self._vm.bytes_moved()))
            except VMError:
                return
            if len(samples) == samples.maxlen and self._is_stall(*samples[0]):
                self.found = True
                self._vm.kill_process()
                return

    def _is_stall(self, cpu, moved):
        used = self._vm.cpu_seconds() - cpu
        return (moved == self._vm.bytes_moved()
                and used < STALL_CPU_SHARE * STALL_SECONDS)

    def stop(self):
        """End watching."""
        self._over.set()
        self.join()


class VM(qemu_machine.QEMUMachine):
    """
    A QEMU process with the test guest; use it as a context manager.

    @binary: the QEMU to run
    @image: a storage.Image for the guest's only disk
    @label: how to call this VM in messages
    @paused: wait for "cont" instead of starting the guest
    @progress: called with a text about the progress of long guest commands
    @trace: (file with names of trace events, file to log them to)
    """

    def __init__(self, binary, image, config, label,
                 paused=False, progress=None, trace=None):
        # The process must not get the terminal's Ctrl-C, which is for us, and
        # must not outlive us.
        super().__init__(str(binary), name=label.replace(' ', '-'),
                         wrapper=('setpriv', '--pdeathsig', 'KILL', 'setsid'),
                         base_temp_dir=str(config.log_dir),
                         log_dir=str(config.log_dir))
        self.label = label
        self.config = config
        self._progress = progress or (lambda text: None)
        self._input = b''
        self._jobs = 0
        self._stalled = False
        self._ended = None
        self.set_console()
        self.add_args(*self._machine_args(), *self._disk_args(image),
                      *self._guest_args(), *config.extra_args)
        if paused:
            self.add_args('-S')
        if trace:
            self.add_args('-trace', f'events={trace[0]},file={trace[1]}')

    # The command line

    def _machine_args(self):
        config = self.config
        return ['-nodefaults', '-machine', 'q35', '-accel', config.accel,
                '-cpu', CPU_MODELS[config.accel], '-smp', '1',
                '-m', f'{config.ram // MIB}M']

    def _disk_args(self, image):
        config = self.config
        # Also what the writethrough modes differ by
        write_cache = 'off' if config.cache in ('directsync',
                                                'writethrough') else 'on'
        device = f'drive={NODE},write-cache={write_cache}'
        args = ['-blockdev', image.blockdev(NODE, config.cache, config.aio)]
        if config.disk_device == 'scsi-hd':
            args += ['-device', 'virtio-scsi-pci']
        return args + ['-device', f'{config.disk_device},{device}']

    def _guest_args(self):
        guest = self.config.guest
        return ['-kernel', str(guest / 'vmlinuz'),
                '-initrd', str(guest / 'initramfs.img'),
                '-append', KERNEL_COMMAND_LINE,
                '-serial', f'file:{self._kernel_log()}']

    def _kernel_log(self):
        return os.path.join(self.log_dir, f'{self._name}-kernel.log')

    # Life and death

    def __exit__(self, exc_type, exc_val, exc_tb):
        self.shutdown(hard=exc_type is not None)

    def start(self):
        """Start the process."""
        try:
            self.launch()
        except qemu_machine.VMLaunchFailure as err:
            raise VMError(f'{self.label}: QEMU did not start: '
                          f'{tail(err.output)}') from err

    def boot(self):
        """Start, wait until the guest listens; return its memory's size."""
        self.start()
        try:
            return int(self._answer(self.config.boot_timeout, 'booting'))
        except TimeoutError as err:
            raise VMError(
                f'{self.label}: the guest gave no sign of life for '
                f'{self.config.boot_timeout:.0f} s under '
                f'{self.config.accel.upper()}; its kernel said: '
                f'{tail(read_text(self._kernel_log()))}') from err

    def quit(self):
        """End the process in an orderly way."""
        with self._explained('quit'):
            self.shutdown(timeout=120)

    def kill_process(self):
        """Only the process: whoever talks to it notices, and cleans up."""
        if self.is_running():
            self._subp.kill()

    def _obituary(self, doing):
        if self._stalled:
            return VMError(f'{self.label}: QEMU hung while {doing}: no CPU '
                           f'time and no I/O for {STALL_SECONDS} s')
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._subp.wait(timeout=5)
        code = self.exitcode()
        how = f'was killed by signal {-code}' if code and code < 0 else \
            f'ended with code {code}' if code is not None else \
            'closed its monitor'
        return VMError(f'{self.label}: QEMU {how} while {doing}; its last '
                       f'words: {tail(read_text(self._qemu_log_path))}')

    @contextlib.contextmanager
    def _explained(self, doing):
        """Turn what the libraries raise into a sentence."""
        try:
            yield
        except qemu_qmp.ExecuteError as err:
            raise VMError(f'{self.label}: {doing} failed: {err}') from err
        except TimeoutError as err:
            raise VMError(f'{self.label}: QEMU did not finish {doing} within '
                          f'{self.step_limit():.0f} s') from err
        except (qemu_qmp.QMPError, EOFError, ConnectionError,
                qemu_machine.QEMUMachineError) as err:
            raise self._obituary(doing) from err

    @contextlib.contextmanager
    def _watched(self, doing):
        """The same for commands that may take long."""
        stall = Stall(self)
        stall.start()
        self._qmp.settimeout(self.step_limit())
        try:
            with self._explained(doing):
                yield
        except VMError as err:
            if stall.found:
                self._stalled = True
                raise self._obituary(doing) from err
            raise
        finally:
            stall.stop()

    def step_limit(self):
        """The longest that a step may take, in seconds."""
        return STEP_BASE_SECONDS + self.config.ram / SLOWEST_BYTES_PER_SECOND

    # What the process uses

    def _proc(self, name):
        try:
            return Path(f'/proc/{self._subp.pid}/{name}').read_text()
        except (OSError, qemu_machine.QEMUMachineError) as err:
            raise VMError(f'{self.label}: QEMU has ended') from err

    def cpu_seconds(self):
        """CPU time of all threads so far, also of those that have ended."""
        # The second field, the name in brackets, may contain blanks
        fields = self._proc('stat').rpartition(')')[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')

    def bytes_moved(self):
        """Bytes read from and written to storage so far."""
        return sum(int(line.split()[1])
                   for line in self._proc('io').splitlines()
                   if line.startswith(('read_bytes', 'write_bytes')))

    def _status_bytes(self, key):
        for line in self._proc('status').splitlines():
            if line.startswith(key + ':'):
                return int(line.split()[1]) * KIB
        return 0

    def resident_peak(self):
        """The most memory that the process has had, in bytes."""
        return self._status_bytes('VmHWM')

    def reset_peak(self):
        """Let the peak be what the process has now; return that, in bytes."""
        Path(f'/proc/{self._subp.pid}/clear_refs').write_text('5')
        return self._status_bytes('VmRSS')

    @contextlib.contextmanager
    def timed(self, timings):
        """Add to a list what is done meanwhile takes."""
        cpu, start = self.cpu_seconds(), time.monotonic()
        yield
        timings.append(Timing(time.monotonic() - start,
                              self.cpu_seconds() - cpu))

    # The guest's test program

    def _read_line(self, deadline, doing):
        while b'\n' not in self._input:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.console_socket.settimeout(min(left, 1.0))
            try:
                data = self.console_socket.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                data = b''
            if not data:
                raise self._obituary(doing)
            self._input += data
        line, _, self._input = self._input.partition(b'\n')
        return line.decode(errors='replace').strip()

    def _answer(self, silence, doing):
        """
        The rest of the line that ends a command.

        @silence: seconds between two lines after which the guest is given up
        """
        while True:
            line = self._read_line(time.monotonic() + silence, doing)
            word, _, rest = line.partition(' ')
            if word == 'progress':
                self._progress(f'{rest} %')
            elif word == 'error':
                kind = VerifyError if 'verify' in rest else GuestError
                raise kind(f'{self.label}: {rest}')
            elif word in ('ok', 'ready'):
                return rest

    def agent(self, command, *args):
        """Have the guest's test program do something, return its answer."""
        line = ' '.join([command, *(str(arg) for arg in args)])
        try:
            self.console_socket.sendall(line.encode() + b'\n')
            answer = self._answer(STALL_SECONDS, f'the guest does {line}')
        except TimeoutError as err:
            raise VMError(f'{self.label}: the guest has been silent for '
                          f'{STALL_SECONDS} s in "{line}"') from err
        except ConnectionError as err:
            raise self._obituary(f'the guest does {line}') from err
        return answer.partition(' ')[2]

    # The monitor

    def command(self, name, **args):
        """A QMP command that is quick; underscores become dashes."""
        self._qmp.settimeout(STEP_BASE_SECONDS)
        with self._explained(name):
            return self.cmd(name, **args)

    def job(self, name, **args):
        """Run a QMP command that starts a job, to the job's end."""
        self._jobs += 1
        job_id = f'job{self._jobs}'
        timings = []
        with self._watched(name):
            with self.timed(timings):
                self.cmd(name, job_id=job_id, **args)
                self._wait_concluded(job_id)
            self._dismiss(name, job_id)
        return timings[0]

    def _wait_concluded(self, job_id):
        match = {'data': {'id': job_id, 'status': 'concluded'}}
        deadline = time.monotonic() + self.step_limit()
        while time.monotonic() < deadline:
            # Nothing wakes a reader of events when the process dies
            with contextlib.suppress(asyncio.TimeoutError):
                self.event_wait('JOB_STATUS_CHANGE', timeout=1.0, match=match)
                return
            if not self.is_running():
                raise EOFError
        raise TimeoutError

    def _dismiss(self, name, job_id):
        jobs = [job for job in self.cmd('query-jobs') if job['id'] == job_id]
        self.cmd('job-dismiss', id=job_id)
        if 'error' in jobs[0]:
            raise VMError(f'{self.label}: {name} failed: {jobs[0]["error"]}')

    def hmp(self, line):
        """Run a human monitor command; it says nothing when all is well."""
        timings = []
        with self._watched(line), self.timed(timings):
            said = self.cmd('human-monitor-command', command_line=line)
        if said.strip():
            raise VMError(f'{self.label}: {line} failed: {said.strip()}')
        return timings[0]

    # Snapshots

    def snapshot_save(self, tag):
        """Take a snapshot through QMP."""
        return self.job('snapshot-save', tag=tag, vmstate=NODE, devices=[NODE])

    def snapshot_load(self, tag):
        """Revert to a snapshot through QMP."""
        return self.job('snapshot-load', tag=tag, vmstate=NODE, devices=[NODE])

    def snapshot_delete(self, tag):
        """Delete a snapshot through QMP."""
        return self.job('snapshot-delete', tag=tag, devices=[NODE])

    def savevm(self, tag):
        """Take a snapshot through the human monitor."""
        return self.hmp(f'savevm {tag}')

    def loadvm(self, tag):
        """Revert to a snapshot through the human monitor."""
        return self.hmp(f'loadvm {tag}')

    def vmstate_size(self, tag):
        """Bytes of machine state that a snapshot holds."""
        for node in self.command('query-named-block-nodes', flat=True):
            for snapshot in node['image'].get('snapshots', []):
                if snapshot['name'] == tag and node['node-name'] == NODE:
                    return snapshot['vm-state-size']
        raise VMError(f'{self.label}: there is no snapshot {tag}')


# Little helpers

def tail(text, lines=5):
    """The end of a log in one line."""
    kept = [line.strip() for line in (text or '').splitlines() if line.strip()]
    return ' / '.join(kept[-lines:]) or '(nothing)'


def read_text(path):
    """A log file; none is like an empty one."""
    try:
        return Path(path).read_text(errors='replace')
    except (OSError, TypeError):
        return ''


def qemu_version(binary):
    """The version that a QEMU reports."""
    try:
        done = subprocess.run([binary, '--version'], check=True, text=True,
                              stdin=subprocess.DEVNULL, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as err:
        raise VMError(f'cannot run {binary}: {err}') from err
    return done.stdout.splitlines()[0].rpartition('version ')[2]
