# A server of images for tests of internal snapshots
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import subprocess
from typing import Any

import iotests
from vmstate_iotests import Node
from vmstate_job_iotests import wait_until


class NbdServer:
    """nbdkit with one file, as long as the context lasts"""

    def __init__(self, image: str):
        self.image = image
        self.socket = os.path.join(iotests.sock_dir, 'vmstate-nbdkit')
        self.process: Any = None

    def __enter__(self) -> 'NbdServer':
        # pylint: disable=consider-using-with
        self.process = subprocess.Popen(
            ['nbdkit', '-f', '-U', self.socket, 'file', self.image],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        wait_until(lambda: os.path.exists(self.socket), 'nbdkit serves')
        return self

    def __exit__(self, *_: Any) -> None:
        # When a test fails, the VM is still there: nbdkit would wait for it
        self.process.kill()
        self.process.wait()
        iotests.try_remove(self.socket)

    def node(self) -> Node:
        return {'driver': 'nbd',
                'server': {'type': 'unix', 'path': self.socket}}
