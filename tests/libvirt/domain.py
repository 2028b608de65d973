# SPDX-License-Identifier: GPL-2.0-or-later

"""A domain with the test guest and two disks, as virsh sees it."""

import contextlib
import json
from pathlib import Path
import random
import re
import socket
import subprocess
import time

from private_libvirt import LibvirtError, wait_until


# Seconds of silence after which the guest is given up
SILENCE = 90

KERNEL_COMMAND_LINE = ('console=ttyS1 quiet panic=-1 nokaslr mitigations=off '
                       'audit=0')

DISK_SIZE = 64 << 20
# The part of a disk that the test writes to
DISK_USED = 2 << 20

# Events that a revert cannot be asked for later: its QEMU is a new one.
# The guest's port is the first; the second has the kernel's messages.
DOMAIN = '''\
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <memory unit='MiB'>{ram}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>{cmdline}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact' check='none'>
    <model fallback='allow'>qemu64</model>
  </cpu>
  <on_poweroff>destroy</on_poweroff>
  <on_crash>preserve</on_crash>
  <devices>
    <emulator>{emulator}</emulator>
{disks}\
    <controller type='usb' model='none'/>
    <serial type='unix'>
      <source mode='bind' path='{port}'/>
      <target port='0'/>
    </serial>
    <serial type='file'>
      <source path='{kernel_log}'/>
      <target port='1'/>
    </serial>
    <memballoon model='none'/>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-trace'/>
    <qemu:arg value='vmstate_reader_*'/>
  </qemu:commandline>
</domain>
'''

DISK = '''\
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' discard='unmap'/>
      <source file='{path}'/>
      <target dev='{target}' bus='virtio'/>
    </disk>
'''


# A line of QEMU's log trace backend: process@time:event
EVENT = r'^(\d+)@(\d+\.\d+):(\w+) '


class GuestError(LibvirtError):
    """The guest answered "error ...", or not at all."""


class Port:
    """
    The line to the test program in the guest; see tests/guest/README.rst.

    Reverting may start another QEMU at the other end, or may not.
    """

    def __init__(self, path):
        self._path = path
        self._socket = None
        self._input = b''

    def connect(self):
        """(Re)connect; what was on its way is lost."""
        self.close()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

        def connected():
            try:
                self._socket.connect(str(self._path))
            except OSError:
                return False
            return True
        wait_until(connected, 20, "connecting to the guest's serial port")

    def close(self):
        """Let the next QEMU have the socket."""
        if self._socket:
            self._socket.close()
        self._socket = None
        self._input = b''

    def _line(self, seconds):
        end = time.monotonic() + seconds
        while b'\n' not in self._input:
            left = end - time.monotonic()
            if left <= 0:
                raise GuestError(f'the guest has been silent for {seconds} s')
            self._socket.settimeout(left)
            with contextlib.suppress(TimeoutError):
                data = self._socket.recv(4096)
                if not data:
                    raise GuestError('QEMU closed the serial port')
                self._input += data
        line, _, self._input = self._input.partition(b'\n')
        return line.decode(errors='replace').strip()

    def _answer(self, start, seconds):
        """The rest of the line that starts with @start."""
        while True:
            line = self._line(seconds)
            if line.startswith('error '):
                raise GuestError(f'the guest says: {line}')
            # What was asked of a guest that had stopped comes later
            if line.startswith(f'{start} '):
                return line[len(start) + 1:]

    def ready(self):
        """Wait for the guest to have booted; its memory's size."""
        return int(self._answer('ready', SILENCE))

    def ask(self, command, *args, seconds=SILENCE):
        """Have the guest's program do something, return its answer."""
        line = ' '.join([command, *map(str, args)])
        try:
            self._socket.sendall(line.encode() + b'\n')
            return self._answer(f'ok {command}', seconds)
        except OSError as err:
            raise GuestError(f'the guest does not hear "{line}": '
                             f'{err}') from err
        except GuestError as err:
            raise GuestError(f'{line}: {err}') from err


class Disk:
    """One image; the caller's storage.Image with a few more questions."""

    def __init__(self, image, target):
        self.image = image
        self.target = target

    def _info(self, *words):
        done = subprocess.run(
            [self.image.qemu_img, *words, '--output=json', self.image.path],
            check=True, text=True, capture_output=True,
            stdin=subprocess.DEVNULL)
        return json.loads(done.stdout)

    def snapshots(self):
        """Names of the snapshots in the image, in their order there."""
        found = self._info('info', '-U').get('snapshots', [])
        return [snapshot['name'] for snapshot in found]

    def allocated(self):
        """(Clusters with the disk's content, bytes that the file takes)."""
        found = self.image.check()
        return (found['allocated-clusters'],
                self.image.path.stat().st_blocks * 512)


class Domain:
    """
    A domain of a private_libvirt.Daemon.

    @guest: folder with the guest's kernel and initramfs
    @disks: two Disk; the first is the one that the guest writes to
    """

    def __init__(self, daemon, name, emulator, guest, disks, ram):
        self.daemon = daemon
        self.name = name
        self.emulator = emulator
        self.disks = disks
        self._guest = guest
        self._ram = ram
        top = daemon.home.folder / daemon.name
        self.port = Port(top / f'{name}.port')
        self.log = top / 'c/libvirt/qemu/log' / f'{name}.log'
        self._kernel_log = top / f'{name}-kernel.log'
        self._top = top

    # virsh

    def virsh(self, command, *args):
        """A virsh command about this domain."""
        return self.daemon.virsh(command, self.name, *args)

    def hmp(self, line):
        """A command of the human monitor."""
        return self.virsh('qemu-monitor-command', '--hmp', line)

    def qmp(self, command, **arguments):
        """A QMP command's return value."""
        text = json.dumps({'execute': command, 'arguments': arguments})
        return json.loads(self.virsh('qemu-monitor-command', text))['return']

    def define(self):
        """Make it known to the daemon."""
        disks = ''.join(DISK.format(path=disk.image.path, target=disk.target)
                        for disk in self.disks)
        text = DOMAIN.format(
            name=self.name, ram=self._ram, disks=disks,
            emulator=self.emulator, port=self._top / f'{self.name}.port',
            kernel=self._guest / 'vmlinuz', cmdline=KERNEL_COMMAND_LINE,
            initrd=self._guest / 'initramfs.img',
            kernel_log=self._kernel_log)
        self.daemon.virsh('define', self.write('domain.xml', text))

    def write(self, name, text):
        """A file for virsh to read."""
        return self.daemon.home.make(f'{self.daemon.name}/{name}', text)

    def boot(self):
        """Start it and wait for the guest; return its memory's size."""
        self.virsh('start')
        # In time: the guest's kernel takes seconds
        self.port.connect()
        try:
            return self.port.ready()
        except GuestError as err:
            raise GuestError(f'booting: {err}; log: {self.log_tail()}'
                             ) from err

    def destroy(self):
        """Pull the plug."""
        self.port.close()
        if self.state()[0] != 'shut off':
            self.virsh('destroy')

    def state(self):
        """(state, reason), as in ('running', 'booted')."""
        said = self.virsh('domstate', '--reason')
        match = re.fullmatch(r'(.*) \((.*)\)', said)
        if not match:
            raise LibvirtError(f'domstate --reason says "{said}"')
        return match.groups()

    def pid(self):
        """QEMU's process; None when it does not run."""
        # The name alone would be that of the bystander, too
        marks = [f'guest={self.name},'.encode(), f'{self._top}/'.encode()]
        for pid in self.daemon.home.processes():
            with contextlib.suppress(OSError):
                words = Path(f'/proc/{pid}/cmdline').read_bytes()
                if all(mark in words for mark in marks):
                    return pid
        return None

    def log_text(self):
        """Its log, as far as it goes."""
        with contextlib.suppress(OSError):
            return self.log.read_text(encoding='utf-8', errors='replace')
        return ''

    def log_tail(self):
        """The end of that in one line."""
        return ' / '.join(self.log_text().splitlines()[-4:]) or '(empty)'

    def events(self, since):
        """
        (process, trace event) of those logged after the time @since.

        By time: libvirt may begin the log anew whenever it starts a QEMU.
        """
        found = re.findall(EVENT, self.log_text(), re.M)
        return [(int(pid), event) for pid, stamp, event in found
                if float(stamp) >= since]

    def log_size(self):
        """How long it is, to look at what comes later."""
        with contextlib.suppress(OSError):
            return self.log.stat().st_size
        return 0

    def wait_for_event(self, name, position, go_on):
        """
        Wait for an event to be logged after @position; return the process.

        This looks often, and does not look at what was there before.
        @go_on is called now and then, and raises to give up.
        """
        calls = 0
        while True:
            calls += 1
            if calls % 100 == 0:
                go_on()
            size = self.log_size()
            if size < position:
                position = 0
            if size > position:
                with self.log.open('rb') as log:
                    log.seek(position)
                    text = log.read(size - position).decode(errors='replace')
                for pid, _, event in re.findall(EVENT, text, re.M):
                    if event == name:
                        return int(pid)
                # The last line may not be whole
                position += len(text.rpartition('\n')[0].encode())
            time.sleep(0.001)

    # Snapshots

    def snapshots(self):
        """Names of the snapshots that libvirt knows, oldest first."""
        said = self.virsh('snapshot-list', '--name', '--topological')
        return said.split()

    def snapshot_info(self, name):
        """What snapshot-info says, as a dict."""
        said = self.virsh('snapshot-info', name)
        return {key.strip(): value.strip() for key, _, value in
                (line.partition(':') for line in said.splitlines())}

    # The second disk is the host's: the guest's program has only one

    def write_second(self, path):
        """Put the content of a file into the second disk."""
        device = f'/machine/peripheral/{self._alias()}/virtio-backend'
        self.hmp(f'qemu-io -d {device} "write -s {path} 0 {DISK_USED}"')
        self.hmp(f'qemu-io -d {device} flush')

    def _blocks(self):
        return self.qmp('query-block')

    def _alias(self):
        return f'virtio-disk{len(self.disks) - 1}'

    def compare_second(self, path):
        """Raise when the running QEMU sees something else there."""
        [block] = [found for found in self._blocks()
                   if self._alias() in found.get('qdev', '')]
        node = block['inserted']['node-name']
        address = self._top / 'nbd'
        self.qmp('nbd-server-start',
                 addr={'type': 'unix', 'data': {'path': str(address)}})
        try:
            self.qmp('nbd-server-add', device=node, name='second')
            done = subprocess.run(
                [self.disks[1].image.qemu_img, 'compare', '-f', 'raw', '-F',
                 'raw', f'nbd+unix:///second?socket={address}', path],
                check=False, text=True, stdin=subprocess.DEVNULL,
                capture_output=True)
        finally:
            self.qmp('nbd-server-stop')
        if done.returncode:
            raise LibvirtError('the second disk is not what it must be: '
                               f'{(done.stdout + done.stderr).strip()}')


def pattern_file(path, seed):
    """Write what belongs to @seed, of a disk's size; return the path."""
    with open(path, 'wb') as out:
        out.write(random.Random(seed).randbytes(DISK_USED))
        # The rest of the disk is never written
        out.truncate(DISK_SIZE)
    return path
