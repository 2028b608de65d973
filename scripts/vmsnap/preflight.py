# SPDX-License-Identifier: GPL-2.0-or-later

"""The host: what would fail after a long set-up, and what figures are of."""

import grp
import os
from pathlib import Path
import platform
import re
import subprocess

from vmsnap import storage
from vmsnap.command import BUILD, CommandError


MIB, GIB = 1 << 20, 1 << 30

# Sources, objects and programs of both trees
BUILD_SPACE = 3 * GIB
# What a QEMU process takes on top of its guest's memory
QEMU_MEMORY = 512 * MIB

KVM = '/dev/kvm'


# Space

def existing(path):
    """@path, or the nearest folder above it that is there."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def used_space(folder):
    """Bytes that the files in @folder have; none when it is not there."""
    done = subprocess.run(['du', '-sk', folder], check=False, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return int((done.stdout.split() or [0])[0]) * 1024


def build_space():
    """Bytes that set-up has yet to write, about."""
    if all((BUILD / name / 'qemu-system-x86_64').is_file()
           for name in ('stock', 'patched')):
        return 0
    return max(BUILD_SPACE - used_space(BUILD / 'src'), 0)


def require_space(folder, needed, what, remedy):
    """Raise CommandError when @needed bytes do not fit."""
    free = storage.free_space(existing(folder))
    if free < needed:
        raise CommandError(f'{folder} has {free / GIB:.1f} GiB free and '
                           f'{needed / GIB:.1f} are needed for {what}: '
                           f'{remedy}')


def check_space(folder, images, build):
    """
    Raise CommandError when the disks are too small.

    @images: bytes that will be in @folder
    @build: bytes that set-up will write
    """
    what = 'images'
    devices = {existing(path).stat().st_dev for path in (folder, BUILD)}
    if build and len(devices) == 1:
        what = 'images and for building QEMU'
        images += build
    require_space(folder, images, what,
                  'name another folder with --dir, or use a smaller --ram')
    require_space(BUILD, build, 'building QEMU',
                  'free some space and run again')


# Memory

def host_memory(key):
    """An entry of /proc/meminfo in bytes."""
    text = Path('/proc/meminfo').read_text(encoding='ascii')
    return int(re.search(rf'^{key}:\s+(\d+)', text, re.M)[1]) * 1024


def cpu_model():
    """What the host's processor calls itself."""
    text = Path('/proc/cpuinfo').read_text(encoding='utf-8')
    found = re.search(r'^model name\s*:\s*(.+)$', text, re.M)
    return found[1] if found else platform.machine()


def describe_host(folder):
    """What figures depend on that are taken with images in @folder."""
    return {
        'cpu': cpu_model(), 'cpus': os.cpu_count(),
        'memory': host_memory('MemTotal'), 'kernel': platform.release(),
        'file_system': storage.file_system(folder),
    }


def check_memory(ram):
    """Raise CommandError when a guest of @ram bytes would not fit."""
    available = host_memory('MemAvailable')
    if available < ram + QEMU_MEMORY:
        raise CommandError(f'this machine has {available / GIB:.1f} GiB of '
                           'memory available, too little for a guest of '
                           f'{ram / GIB:.1f}: use a smaller --ram')


# KVM

def who_may_open_kvm():
    """What to be, in words."""
    info = os.stat(KVM)
    if info.st_mode & 0o060 != 0o060:
        return 'be root'
    try:
        group = grp.getgrgid(info.st_gid).gr_name
    except KeyError:
        group = info.st_gid
    return f'be root, or in the group {group}, which owns it'


def kvm_problem():
    """Why /dev/kvm cannot be opened, in words; None when it can be."""
    try:
        os.close(os.open(KVM, os.O_RDWR))
    except FileNotFoundError:
        return f'there is no {KVM} on this machine'
    except PermissionError:
        # Root is refused only by what it runs in
        how = ('give it to this container' if os.geteuid() == 0 else
               who_may_open_kvm())
        return f'no permission to open {KVM} ({how})'
    except OSError as err:
        return f'{KVM} cannot be opened ({err.strerror})'
    return None
