# A server of images for tests of internal snapshots
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import subprocess
from typing import Any, List

import iotests
from vmstate_iotests import Node
from vmstate_job_iotests import wait_until


# Fails when it is told to; NbdServer has nbdkit's own "file"
PLUGIN = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                      'vmstate_nbdkit_plugin.py')


class NbdServer:
    """
    nbdkit with one file

    What it says stays in @messages until the next one starts.
    """

    def __init__(self, image: str):
        self.image = image
        self.socket = os.path.join(iotests.sock_dir, 'vmstate-nbdkit')
        self.messages = os.path.join(iotests.test_dir,
                                     'vmstate-nbdkit-messages')
        self.pidfile = os.path.join(iotests.test_dir, 'vmstate-nbdkit-pid')
        self.process: Any = None

    def __enter__(self) -> 'NbdServer':
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def plugin(self) -> List[str]:
        """What nbdkit serves, and what it does about it"""
        return ['file', self.image]

    def start(self) -> None:
        self.clean()
        with open(self.messages, 'wb') as messages:
            # pylint: disable=consider-using-with
            self.process = subprocess.Popen(
                ['nbdkit', '-f', '-U', self.socket, '-P', self.pidfile,
                 *self.plugin()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=messages)
        # The socket is there before anybody listens; this file is not
        wait_until(self.serves, 'nbdkit serves')

    def serves(self) -> bool:
        assert self.process.poll() is None, self.words()
        return os.path.exists(self.pidfile)

    def words(self) -> str:
        with open(self.messages, encoding='utf-8') as messages:
            return messages.read()

    def kill(self) -> None:
        """As if a cable was pulled"""
        self.process.kill()
        self.process.wait()
        self.process = None

    def stop(self) -> None:
        # When a test fails, the VM is still there: nbdkit would wait for it
        if self.process:
            self.kill()
        self.clean()

    def clean(self) -> None:
        for path in (self.socket, self.pidfile):
            iotests.try_remove(path)

    def node(self, **options: Any) -> Node:
        return {'driver': 'nbd',
                'server': {'type': 'unix', 'path': self.socket}, **options}
