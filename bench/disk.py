# SPDX-License-Identifier: GPL-2.0-or-later

"""The qcow2 image of a case, on whatever the case has it on."""

import json
import time
from typing import Any, Dict, List

from cases import MIB, PATCHED, Case
from lab import BenchError, Lab, local
import storage


NODE = 'disk0'
KEY = 'key0'

# The key of LUKS takes a second or two to check otherwise, each time
LUKS_ITERATIONS_MS = 10

# Room in a fragmented image.  A smaller piece would not be used: qcow2 looks
# for one that has room for a whole request.
HOLE = MIB

# Nobody's storage takes longer to make an image
PATIENCE_SECONDS = 600


class Disk:
    """
    The image of @case on @store.

    It has all that machine.VM and qemu-img need to open it.
    """

    def __init__(self, lab: Lab, case: Case, store: storage.Storage):
        self._lab = lab
        self._case = case
        self._store = store

    # How to open it

    def objects(self) -> List[str]:
        """Options of QEMU that have to come before the image."""
        if not self._case.luks:
            return []
        return ['-object', f'secret,id={KEY},data=a-secret-of-the-benchmark']

    def _cache(self) -> Dict[str, bool]:
        direct, no_flush, _ = local.CACHE_MODES[self._case.place.cache]
        return {'direct': direct, 'no-flush': no_flush}

    def _protocol(self) -> Dict[str, Any]:
        node = {**self._store.blockdev(), 'node-name': f'{NODE}-file'}
        if self._case.place.kind == 'local':
            node['discard'] = 'unmap'
        return node

    def _below(self) -> Dict[str, Any]:
        """What qcow2 is on."""
        if self._case.luks != 'below':
            return self._protocol()
        return {'driver': 'luks', 'node-name': f'{NODE}-luks',
                'key-secret': KEY, 'discard': 'unmap', 'cache': self._cache(),
                'file': self._protocol()}

    def _qcow2(self) -> Dict[str, Any]:
        node = {'driver': 'qcow2', 'node-name': NODE, 'discard': 'unmap',
                'cache': self._cache(), 'file': self._below()}
        if self._case.luks == 'inside':
            node['encrypt'] = {'format': 'luks', 'key-secret': KEY}
        return node

    def blockdev(self, *_who_opens_it: str) -> str:
        """The value of -blockdev."""
        return json.dumps(self._qcow2())

    def image_name(self) -> List[str]:
        """The words that let qemu-img open it."""
        objects = [word.replace('-object', '--object')
                   for word in self.objects()]
        return [*objects, f'json:{self.blockdev()}']

    # Making it

    def create(self) -> None:
        """Make it anew, in the way that the case wants it."""
        with self._lab.maker(*self.objects()) as vm:
            vm.cmd('blockdev-add', self._protocol())
            if self._case.luks == 'below':
                self._create_node(vm, {
                    'driver': 'luks', 'file': f'{NODE}-file',
                    'size': 0 if self._case.place.kind == 'local' else
                    self._case.disk_bytes() + self._case.stored_bytes(),
                    'key-secret': KEY, 'iter-time': LUKS_ITERATIONS_MS})
                vm.cmd('blockdev-add', {**self._below(),
                                        'file': f'{NODE}-file'})
            self._create_qcow2(vm)
            if self._case.image != 'empty':
                self._occupy(vm)

    @staticmethod
    def _create_node(vm: Any, options: Dict[str, Any]) -> None:
        vm.cmd('blockdev-create', {'job-id': 'create', 'options': options})
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            [job] = vm.cmd('query-jobs')
            if job['status'] == 'concluded':
                vm.cmd('job-dismiss', id='create')
                if 'error' in job:
                    raise BenchError(f'an image cannot be made: '
                                     f'{job["error"]}')
                return
            time.sleep(0.01)
        raise BenchError('making an image took too long')

    def _create_qcow2(self, vm: Any) -> None:
        options: Dict[str, Any] = {
            'driver': 'qcow2', 'file': self._below()['node-name'],
            'size': self._case.occupied_bytes() or self._case.disk_bytes(),
            'cluster-size': self._case.cluster}
        if self._case.occupied_bytes():
            options['preallocation'] = 'metadata'
        if self._case.luks == 'inside':
            options['encrypt'] = {'format': 'luks', 'key-secret': KEY,
                                  'iter-time': LUKS_ITERATIONS_MS}
        self._create_node(vm, options)

    def _occupy(self, vm: Any) -> None:
        """What is allocated already stays; the rest of the disk is added."""
        vm.cmd('blockdev-add', {**self._qcow2(),
                                'file': self._below()['node-name']})
        vm.cmd('block_resize', {'node-name': NODE,
                                'size': self._case.disk_bytes()})
        if self._case.image != 'fragmented':
            return
        for offset in range(0, self._case.occupied_bytes(), 2 * HOLE):
            vm.cmd('human-monitor-command', command_line=f'qemu-io {NODE} '
                   f'"discard {offset} {HOLE}"')

    def check(self) -> None:
        """Raise when the image is not clean."""
        local.check_image(self._lab.program(PATCHED, 'qemu-img'),
                          *self.image_name())
