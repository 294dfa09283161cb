# SPDX-License-Identifier: BSD-3-Clause
"""Reading back what nbdload's dependent writers left on a set of disks, and judging whether it is one consistent cut.

A set of images, one for each disk, is a consistent cut if there is for each chain a number M such that
  - the images hold exactly the records 1 ... M of the chain: in each slot the newest of them that belongs there, nothing else;
  - no record in the set depends on one that is not: the numbers that it carries are at most the M of their chains;
and it was taken in time if every record acknowledged before the snapshot was asked for is in the set, and none that was sent after the
reply came.
"""
import struct
import zlib
from dataclasses import dataclass

HEAD = struct.Struct('<QIIIIQ')
MAGIC = 0x3144524f43455243


@dataclass
class Layout:
    """How the load was run: what nbdload was given."""
    disks: int
    chains: int
    slots: int = 64
    block: int = 4096

    @property
    def length(self):
        """Bytes of each disk that hold records."""
        return self.slots * self.chains * self.block

    def place(self, chain, number):
        """(disk, slot) of a record."""
        return (number - 1 + chain) % self.disks, (number - 1) // self.disks % self.slots

    def newest(self, chain, disk, slot, last):
        """The newest of the records 1 ... last that belongs into a slot; 0: none."""
        lap = self.disks * self.slots
        first = slot * self.disks + (disk - chain) % self.disks + 1
        return 0 if first > last else first + (last - first) // lap * lap


@dataclass
class Cut:
    """What a set of images holds: the last record of each chain, and all that is wrong with it."""
    last: list
    problems: list

    @property
    def consistent(self):
        return not self.problems


def _parse(layout, disk, data, problems):
    """Records of one disk: {(chain, slot): (number, numbers of the records it depends on)}."""
    found = {}
    zero = bytes(layout.block)
    for slot in range(layout.slots):
        for chain in range(layout.chains):
            at = (slot * layout.chains + chain) * layout.block
            block = data[at:at + layout.block]
            if block == zero:
                continue
            where = f'disk {disk}, slot {slot} of chain {chain}'
            magic, r_chain, r_chains, r_disk, r_disks, number = HEAD.unpack_from(block)
            crc, = struct.unpack_from('<I', block, layout.block - 4)
            if magic != MAGIC or zlib.crc32(block[:-4]) != crc:
                problems.append(f'{where}: not a whole record (torn or foreign data)')
                continue
            if (r_chain, r_chains, r_disk, r_disks) != (chain, layout.chains, disk, layout.disks) or \
                    layout.place(chain, number) != (disk, slot):
                problems.append(f'{where}: record {number} of chain {r_chain} for disk {r_disk} does not belong there')
                continue
            found[chain, slot] = number, struct.unpack_from(f'<{layout.chains}Q', block, HEAD.size)
    return found


def read_cut(layout, contents):
    """Judges the contents (bytes, at least layout.length of each disk) of a set of images."""
    problems = []
    disks = []
    for disk, data in enumerate(contents):
        if len(data) < layout.length:
            problems.append(f'disk {disk}: {len(data)} bytes, {layout.length} expected')
            data = data.ljust(layout.length, b'\0')
        disks.append(_parse(layout, disk, data, problems))
    last = [0] * layout.chains
    for found in disks:
        for (chain, _), (number, _) in found.items():
            last[chain] = max(last[chain], number)
    for disk, found in enumerate(disks):
        for chain in range(layout.chains):
            for slot in range(layout.slots):
                want = layout.newest(chain, disk, slot, last[chain])
                have = found.get((chain, slot), (0,))[0]
                if have != want:
                    problems.append(f'chain {chain}: record {last[chain]} is there, but disk {disk}, slot {slot} holds '
                                    f'record {have} and not {want}')
        for (chain, _), (number, depends) in found.items():
            for other, needed in enumerate(depends):
                if needed > last[other]:
                    problems.append(f'record {number} of chain {chain} on disk {disk} depends on record {needed} of chain '
                                    f'{other}, which is not there (last: {last[other]})')
    return Cut(last, problems)


def check_in_time(cut, window):
    """Adds to the problems of a cut what does not fit the window that nbdload had around the snapshot."""
    for chain, (low, last, high) in enumerate(zip(window['completed'], cut.last, window['submitted'])):
        if last < low:
            cut.problems.append(f'chain {chain}: record {low} was acknowledged before the snapshot, the images end at {last}')
        if last > high:
            cut.problems.append(f'chain {chain}: the images hold record {last}, the last one sent by the reply was {high}')
    return cut
