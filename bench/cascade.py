"""When it pays to read what rows share once: the CPU's attention with and without a level.

    python bench/cascade.py [--rounds 5]        (about a minute, 1 GB)

Attention alone, of an 88M model's shape in bfloat16: 12 layers, 12 heads, 4 KV heads of 64.
Between two layers a matrix as large as a layer's weights is read, so that keys come from memory as
in a real step. Every row has 48 keys of its own behind those that all rows share.

1. A decode step's attention by rows and shared keys, with a level and without, taking turns. From
   the grid follow the constants of ``CascadeCosts``, by least squares: what a private read of a key
   takes, and how many such reads a level costs, by itself and for each of its tokens.
2. The growth from 512 to 4,096 shared keys with 16 rows, with the level and without. Wanted: at
   most a fifth.

Last line: one JSON object.
"""

# First of all, before anything loads torch: see bench/support/__init__.py.
from support.machine import print_machine

# isort: split

import argparse
import json
import statistics
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from tqdm import tqdm

from radixserve.attention.base import AttentionShape, ForwardBatch
from radixserve.attention.cpu_backend import CpuAttention
from radixserve.cascade import Cascade, Level

NUM_LAYERS = 12
SHAPE = AttentionShape(num_heads=12, num_kv_heads=4, head_dim=64, scale=0.125, page_size=16)
OWN_KEYS = 48
ROWS = (2, 4, 8, 16, 32)
SHARED_KEYS = (256, 512, 1024, 2048)
GROWTH_ROWS, GROWTH_KEYS = 16, (512, 4096)
WANTED_GROWTH = 0.2


@dataclass(frozen=True, slots=True)
class Setting:
    """One decode step: how many rows there are, behind how many shared keys."""

    rows: int
    shared_keys: int


def make_batch(setting: Setting) -> ForwardBatch:
    """With its level; every page run is contiguous, as a fresh pool gives them out."""
    page_size = SHAPE.page_size
    shared, own = setting.shared_keys // page_size, OWN_KEYS // page_size
    table = np.empty((setting.rows, shared + own), dtype=np.int32)
    table[:, :shared] = np.arange(shared)
    table[:, shared:] = shared + np.arange(setting.rows * own).reshape(-1, own)
    length = setting.shared_keys + OWN_KEYS
    nothing = torch.zeros(setting.rows, dtype=torch.int64)
    return ForwardBatch(
        input_ids=nothing,
        positions=nothing,
        slots=nothing,
        query_start=torch.arange(setting.rows + 1, dtype=torch.int32),
        context_lens=torch.full((setting.rows,), length, dtype=torch.int32),
        page_table=torch.from_numpy(table),
        query_start_host=tuple(range(setting.rows + 1)),
        context_lens_host=(length,) * setting.rows,
        logits_indices=nothing,
        cascade=Cascade((Level(0, setting.rows, 0, shared),)),
    )


class Model:
    """The keys and values of all layers, and what is read between two of them."""

    def __init__(self, max_keys: int) -> None:
        pages = -(-max_keys // SHAPE.page_size) + 1
        shape = (NUM_LAYERS, 2, pages, SHAPE.page_size, SHAPE.num_kv_heads, SHAPE.head_dim)
        self._layers = torch.randn(shape, dtype=torch.bfloat16)
        self._weights = torch.randn(NUM_LAYERS, 8192, 768, dtype=torch.bfloat16)
        self._attention = CpuAttention(SHAPE)

    def step_ms(self, batch: ForwardBatch) -> float:
        """Milliseconds of attention, the plan included, in one step."""
        hidden = torch.randn(batch.num_rows, 768, dtype=torch.bfloat16)
        size = (batch.num_rows, SHAPE.num_heads, SHAPE.head_dim)
        query = torch.randn(size, dtype=torch.bfloat16)
        begun = time.perf_counter()
        plan = self._attention.plan(batch)
        spent = time.perf_counter() - begun
        for layer, weights in zip(self._layers, self._weights, strict=True):
            torch.nn.functional.linear(hidden, weights)
            begun = time.perf_counter()
            self._attention.forward(query, layer[0], layer[1], batch, plan)
            spent += time.perf_counter() - begun
        return spent * 1e3


def fit(medians: dict[Setting, tuple[float, float]]) -> tuple[float, float, float]:
    """Milliseconds of a private read, reads that a level costs, and those that each token costs.

    ``without - with = read * ((rows - 1) * keys - level_keys - token_keys * rows)`` in each layer.
    """
    unknowns = [[(s.rows - 1) * s.shared_keys, -1.0, -s.rows] for s in medians]
    saved = [without - with_level for with_level, without in medians.values()]
    # Each equation in shares of the time it is about: small steps count as much as large ones.
    weights = np.array([1 / without for _, without in medians.values()])
    rows = np.array(unknowns) * weights[:, None]
    read, level, token = np.linalg.lstsq(rows, np.array(saved) * weights, rcond=None)[0]
    return float(read), float(level / read), float(token / read)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="measured steps (default: 5)")
    rounds = parser.parse_args().rounds
    facts = print_machine()
    torch.manual_seed(0)
    grid = [Setting(rows, keys) for rows in ROWS for keys in SHARED_KEYS]
    growth = [Setting(GROWTH_ROWS, keys) for keys in GROWTH_KEYS]
    settings = list(dict.fromkeys(grid + growth))
    model = Model(max(s.shared_keys + s.rows * OWN_KEYS for s in settings))
    medians = {}
    with torch.inference_mode():
        for setting in tqdm(settings, unit="setting"):
            batch = make_batch(setting)
            batches = batch, replace(batch, cascade=Cascade(()))
            times = [[model.step_ms(each) for each in batches] for _ in range(rounds + 1)][1:]
            with_level, without = (statistics.median(column) for column in zip(*times, strict=True))
            medians[setting] = with_level, without
    print("\nrows  shared keys  with a level  without   (ms of attention in a step)")
    for setting, (with_level, without) in medians.items():
        print(f"{setting.rows:4}  {setting.shared_keys:11}  {with_level:12.2f}  {without:7.2f}")
    read, level_keys, token_keys = fit({setting: medians[setting] for setting in grid})
    print(f"a private read of a key takes {read * 1e6 / NUM_LAYERS:.0f} ns a layer")
    print(f"CascadeCosts(level_keys={level_keys:.0f}, token_keys={token_keys:.0f})")
    short, long = (medians[setting] for setting in growth)
    grown = [after - before for before, after in zip(short, long, strict=True)]
    ratio = grown[0] / grown[1]
    print(
        f"{GROWTH_ROWS} rows, {GROWTH_KEYS[0]} to {GROWTH_KEYS[1]} shared keys: "
        f"+{grown[0]:.1f} ms with a level, +{grown[1]:.1f} without; "
        f"ratio {ratio:.2f}, wanted at most {WANTED_GROWTH}"
    )
    print(
        json.dumps(
            {
                "bench": "cascade",
                "machine": facts,
                "ms": {
                    f"{s.rows}x{s.shared_keys}": [round(ms, 3) for ms in pair]
                    for s, pair in medians.items()
                },
                "read_ns": round(read * 1e6 / NUM_LAYERS, 1),
                "level_keys": round(level_keys),
                "token_keys": round(token_keys, 1),
                "growth_ms": [round(ms, 2) for ms in grown],
                "growth_ratio": round(ratio, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
