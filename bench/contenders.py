# SPDX-License-Identifier: GPL-2.0-or-later

"""Who is compared, by the names that cases use."""

from typing import Dict, List, Optional, Protocol

from cases import PATCHED, STOCK, Case
from ceilings import Fio, QemuImg
from lab import Lab, Step
from migrations import CHANNELS, Migration
from snapshots import Snapshots


class Contender(Protocol):
    """What can be run."""

    def why_not(self, lab: Lab, case: Case) -> Optional[str]:
        """Why the case cannot be run, in words; None when it can be."""

    def run(self, lab: Lab, case: Case) -> List[Step]:
        """What was measured in one run, step by step."""


CONTENDERS: Dict[str, Contender] = {
    STOCK: Snapshots(STOCK),
    PATCHED: Snapshots(PATCHED),
    'migrate': Migration([]),
    'mapped-ram': Migration(['mapped-ram']),
    'multifd': Migration(['mapped-ram', 'multifd'], direct_io=True,
                         multifd_channels=CHANNELS),
    'background': Migration(['background-snapshot'], live=True),
    'fio': Fio(),
    'qemu-img': QemuImg(),
}
