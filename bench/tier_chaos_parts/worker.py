"""A process that does nothing but store and load, until somebody kills it. No torch in it.

    python worker.py <directory> <seed>

Says "ready" before it opens the directory, so that a kill may hit the start as well. Every page
that it loads is judged; the status is ``WRONG`` if one is not the page asked for.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import logging

import numpy as np
import numpy.typing as npt

from radixserve.tiers.disk_tier import DiskTier
from radixserve.tiers.moves import SlotId
from tier_chaos_parts.universe import PAGE_BYTES, Universe, open_directory

PageBuffer = npt.NDArray[np.uint8]
"""uint8[NUM_SLOTS, PAGE_BYTES]."""

WRONG = 3
NUM_SLOTS = 8
JOBS_A_LIFE = 300
"""Then the directory is closed and opened again, in the same process."""


def main(path: Path, seed: int) -> int:
    """Run until killed; ``WRONG`` if a page was not what it should have been."""
    universe = Universe()
    rng = np.random.default_rng(seed)
    buffer = np.zeros((NUM_SLOTS, PAGE_BYTES), dtype=np.uint8)
    print("ready", flush=True)
    while True:
        tier = DiskTier(open_directory(path), buffer)
        wrong = live(universe, tier, buffer, rng)
        tier.close(60.0)
        if wrong:
            return WRONG


def live(universe: Universe, tier: DiskTier, buffer: PageBuffer, rng: np.random.Generator) -> int:
    """Some jobs; returns how many pages were wrong."""
    numbers: dict[SlotId, int] = {}
    free = [SlotId(slot) for slot in range(NUM_SLOTS)]
    num_wrong = 0
    for _ in range(JOBS_A_LIFE):
        if not free:
            tier.wait()
        for done in tier.take_done():
            number = numbers.pop(done.slot)
            free.append(done.slot)
            if done.kind == "read" and done.ok:
                num_wrong += not universe.is_right(number, buffer[done.slot])
        if not free:
            continue
        number = int(rng.integers(len(universe.keys)))
        key = universe.keys[number]
        match int(rng.integers(100)):
            case 0:
                tier.clear(str(rng.choice(universe.owners)))
            case 1 | 2 | 3 | 4:
                chain = universe.chains[int(rng.integers(len(universe.chains)))]
                tier.touch([universe.keys[page] for page in chain])
            case _:
                slot = free.pop()
                numbers[slot] = number
                if tier.contains(key.owner, key.name):
                    buffer[slot] = 0
                    tier.read(slot, key)
                else:
                    buffer[slot] = universe.pages[number]
                    tier.write(slot, key)
    return num_wrong


if __name__ == "__main__":
    # Each rejection is a warning, and there are thousands.
    logging.disable(logging.CRITICAL)
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
