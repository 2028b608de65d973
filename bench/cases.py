# SPDX-License-Identifier: GPL-2.0-or-later

"""
What is measured: cases, and sets of them that have a name.

A case says what the storage, the image and the guest are like, and who is
compared.  README.rst describes each of them.
"""

import dataclasses
from typing import Dict, Iterator, List, Tuple


KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

# Who can be compared; contenders.py has them
STOCK, PATCHED = 'stock', 'patched'
MIGRATIONS = ('migrate', 'mapped-ram', 'multifd', 'background')
CEILINGS = ('fio', 'qemu-img')
COMPARED = (STOCK, PATCHED, *CEILINGS)
EVERYBODY = (STOCK, PATCHED, *MIGRATIONS, *CEILINGS)

# The condition of a file of the host before it becomes an image, or fio's
CONDITIONS = ('sparse', 'unwritten', 'overwritten')

# What has no meaning for a file of the host
NETWORK_CACHE = ('none', 'threads')


@dataclasses.dataclass(frozen=True)
class Place:
    """
    Storage.

    @kind: "local", "nbd" or "rotating"
    @cache, @aio: QEMU's, of a local file
    @delay: seconds that each request takes besides (nbd)
    @rate: bytes a second (nbd), 0 for no limit
    """

    kind: str = 'local'
    cache: str = 'none'
    aio: str = 'native'
    delay: float = 0
    rate: int = 0


@dataclasses.dataclass(frozen=True)
class Case:
    """
    One thing to measure.

    @ram: of the guest, in bytes
    @zero: per cent of its pages that are zero
    @snapshots: how many are taken in a row, with a revert after each
    @cluster: of the image, in bytes
    @luks: "", "below" (file, luks, qcow2) or "inside" qcow2
    @image: "empty"; "full": 90 % are allocated; "fragmented": where there is
        room, it is in pieces of 1 MiB
    @condition: of the file
    """

    # They are all that one can choose
    # pylint: disable=too-many-instance-attributes
    name: str
    place: Place = Place()
    ram: int = 2 * GIB
    zero: int = 0
    snapshots: int = 1
    cluster: int = 64 * KIB
    luks: str = ''
    image: str = 'empty'
    condition: str = 'sparse'
    contenders: Tuple[str, ...] = COMPARED

    def stream_bytes(self) -> int:
        """How much a snapshot has to store, about: whole MiB."""
        stored = self.ram * (100 - self.zero) // 100
        return max(stored // MIB, 64) * MIB

    def occupied_bytes(self) -> int:
        """How much of the guest's disk is in use when the guest starts."""
        if self.image == 'full':
            return 9 * self.ram
        if self.image == 'fragmented':
            # As much room as the snapshots need, and the same again between
            return 2 * self.stored_bytes() // MIB * MIB
        return 0

    def disk_bytes(self) -> int:
        """The size of the guest's disk."""
        if self.image == 'full':
            return 10 * self.ram
        return self.occupied_bytes() + max(8 * GIB, 4 * self.ram)

    def stored_bytes(self) -> int:
        """The most that the image takes on its storage, about."""
        return (self.snapshots + 1) * self.stream_bytes() + GIB // 2


def local(cache: str, aio: str) -> Place:
    """A file on a disk of the host."""
    return Place(cache=cache, aio=aio)


def local_cases() -> Iterator[Case]:
    """Each cache mode with each kind of asynchronous I/O."""
    for cache, aio in (('none', 'native'), ('none', 'io_uring'),
                       ('none', 'threads'), ('writeback', 'threads'),
                       ('writeback', 'io_uring')):
        yield Case(f'local-{cache}-{aio}', local(cache, aio),
                   contenders=EVERYBODY)
    for condition in CONDITIONS[1:]:
        yield Case(f'local-{condition}', condition=condition,
                   contenders=(PATCHED, 'fio'))


def network_cases() -> Iterator[Case]:
    """Latency and bandwidth of a network."""
    for delay in (0.0005, 0.002, 0.01):
        # Stock takes minutes a GiB there
        yield Case(f'network-{delay * 1000:g}ms', Place('nbd', delay=delay),
                   ram=GIB if delay < 0.01 else GIB // 2)
    for megabytes in (125, 1000):
        yield Case(f'network-{megabytes}MBps',
                   Place('nbd', rate=megabytes * 1000 * 1000))
    yield Case('network-150MBps-8G', Place('nbd', rate=150 * 1000 * 1000),
               ram=8 * GIB, contenders=(PATCHED, 'qemu-img'))


def rotating_cases() -> Iterator[Case]:
    """A disk that turns."""
    yield Case('rotating', Place('rotating'), ram=GIB)
    yield Case('rotating-second', Place('rotating'), ram=GIB, snapshots=2,
               contenders=(STOCK, PATCHED))


def image_cases() -> Iterator[Case]:
    """What images are like inside."""
    for cluster in (4 * KIB, 64 * KIB, 2 * MIB):
        yield Case(f'cluster-{cluster // KIB}K', cluster=cluster)
    for luks in ('below', 'inside'):
        yield Case(f'luks-{luks}', luks=luks)
    for image in ('full', 'fragmented'):
        yield Case(f'image-{image}', image=image)


def guest_cases() -> Iterator[Case]:
    """What guests hold, and how many snapshots they have."""
    for zero in (0, 50, 98):
        yield Case(f'guest-{zero}-zero', zero=zero, contenders=EVERYBODY)
    yield Case('guest-second', snapshots=2, contenders=(STOCK, PATCHED))
    yield Case('guest-tenth', ram=GIB, snapshots=10,
               contenders=(STOCK, PATCHED))


def ram_cases() -> Iterator[Case]:
    """From small guests to large ones."""
    for size in (GIB // 2, GIB, 2 * GIB, 4 * GIB, 8 * GIB, 16 * GIB):
        yield Case(f'ram-{size // MIB}M', ram=size,
                   contenders=(STOCK, PATCHED))


def quick_cases() -> Iterator[Case]:
    """Every contender, kind of storage and layer once, with a small guest."""
    small = 160 * MIB
    yield Case('quick', ram=small, snapshots=2, contenders=EVERYBODY)
    yield Case('quick-network', Place('nbd', delay=0.0005), ram=small,
               zero=50, contenders=(PATCHED, *CEILINGS))
    yield Case('quick-rotating', Place('rotating'), ram=small, zero=98,
               contenders=(PATCHED, *CEILINGS))
    yield Case('quick-luks', local('writeback', 'threads'), ram=small,
               zero=50, luks='below', contenders=(STOCK, PATCHED))


def make_sets() -> Dict[str, List[Case]]:
    """All sets by name."""
    sets = {
        'quick': list(quick_cases()),
        'local': list(local_cases()),
        'network': list(network_cases()),
        'rotating': list(rotating_cases()),
        'images': list(image_cases()),
        'guests': list(guest_cases()),
        'ram': list(ram_cases()),
    }
    sets['all'] = [case for name, cases in sets.items() if name != 'quick'
                   for case in cases]
    return sets


SETS = make_sets()


def choose(names: List[str]) -> List[Case]:
    """
    The cases of sets and single cases called @names, each of them once.

    KeyError names what there is not.
    """
    by_name = {case.name: [case] for cases in SETS.values() for case in cases}
    chosen: Dict[str, Case] = {}
    for name in names:
        found = SETS[name] if name in SETS else by_name[name]
        chosen.update((case.name, case) for case in found)
    return list(chosen.values())
