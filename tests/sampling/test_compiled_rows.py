"""Tokens chosen by kernels compiled for the processor are those that torch's operations choose."""

from typing import Any

import pytest
import torch

from radixserve.device.transfer import HostTransfer
from radixserve.sampling import compiled_rows
from radixserve.sampling.compiled_rows import CompiledRows
from radixserve.sampling.host_chooser import HostChooser, TorchRows
from radixserve.sampling.sampler import Sampler
from radixserve_kernels.sample.cpu import find_greatest
from tests.sampling.making import make_row

pytestmark = pytest.mark.usefixtures("two_threads")

VOCAB = 1000
WAYS: tuple[dict[str, Any], ...] = (
    {"temperature": 1.0},
    {"temperature": 0.0},
    {"temperature": 0.7, "min_p": 0.02},
    {"temperature": 1.3, "top_p": 0.9},
    {"temperature": 1.0, "top_k": 20},
    {"temperature": 0.6, "top_k": 20, "top_p": 0.95},
    {"temperature": 1.0, "top_p": 0.999},
    {"temperature": 2.0, "top_k": 400, "top_p": 0.97, "min_p": 0.01},
    {"temperature": 1.0, "top_p": 1e-9},
    {"temperature": 1e-30, "top_k": 50},
    {"temperature": 100.0, "top_p": 0.5},
    {"temperature": 1.0, "top_k": VOCAB - 1},
    {"temperature": 1.0, "repetition_penalty": 1.5, "logit_bias": {3: 20.0}},
)


def logits_of(num_rows: int, dtype: torch.dtype, spread: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return (torch.randn(num_rows, VOCAB, generator=generator) * spread).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("spread", [0.3, 3.0, 12.0])
def test_the_tokens_are_torchs(dtype: torch.dtype, spread: float) -> None:
    """Rows of every kind side by side; coarse logits have many equals."""
    num_rows = 5 * len(WAYS)
    for logits in (logits_of(num_rows, dtype, spread), logits_of(num_rows, dtype, spread).round()):
        before = logits.clone()
        rows = [
            make_row((7 * n) % num_rows, seed=n, position=n + 3, **WAYS[n % len(WAYS)])
            for n in range(num_rows)
        ]
        expected = HostChooser(VOCAB).choose(logits, rows, None)
        chosen = HostChooser(VOCAB, CompiledRows()).choose(logits, rows, None)
        assert chosen.is_sound.all()
        assert chosen.token_ids.tolist() == expected.token_ids.tolist()
        assert torch.equal(logits, before)


@pytest.mark.parametrize("way", WAYS[:6])
@pytest.mark.parametrize("bad", [torch.nan, -torch.nan, torch.inf])
def test_a_broken_row_is_told_from_sound_ones(way: dict[str, Any], bad: float) -> None:
    for dtype in (torch.bfloat16, torch.float32):
        logits = logits_of(4, dtype, 3.0)
        logits[1, 777] = bad
        logits[2] = -torch.inf
        rows = [make_row(n, seed=n, **way) for n in range(4)]
        chosen = CompiledRows().choose(logits, [3, 2, 1, 0], rows)
        assert chosen.is_sound.tolist() == [True, False, False, True]
        assert all(0 <= token < VOCAB for token in chosen.token_ids.tolist())


def test_what_is_forbidden_is_never_drawn() -> None:
    logits = torch.full((1, VOCAB), -torch.inf)
    logits[0, [5, 300, 999]] = torch.tensor([1.0, 2.0, 1.5])
    for way in WAYS[:-1]:
        rows = [make_row(0, seed=seed, **way) for seed in range(40)]
        chosen = CompiledRows().choose(logits, [0] * 40, rows)
        tokens = set(chosen.token_ids.tolist())
        assert tokens <= {5, 300, 999}
        if way == {"temperature": 1.0}:
            assert tokens == {5, 300, 999}


def test_the_first_of_equals_is_the_greatest_also_among_zeros() -> None:
    logits = torch.full((3, VOCAB), -1.0)
    logits[0, 300], logits[0, 600] = -0.0, 0.0
    logits[1, 300], logits[1, 600] = 0.0, -0.0
    logits[2, 513], logits[2, 514], logits[2, 700] = 4.0, 4.0, 4.0
    # One is drawn, so that the kernel looks for the others' greatest.
    rows = [make_row(n, temperature=0.0) for n in range(2)]
    rows.append(make_row(2, temperature=1.0, top_k=1))
    chosen = CompiledRows().choose(logits, [0, 1, 2], rows)
    assert chosen.token_ids.tolist() == [300, 300, 513]


def test_a_rows_token_does_not_depend_on_its_company() -> None:
    logits = logits_of(2 * len(WAYS), torch.bfloat16, 2.0)
    rows = [make_row(n, seed=n, **WAYS[n % len(WAYS)]) for n in range(len(logits))]
    rows = [row for n, row in enumerate(rows) if n % len(WAYS) != len(WAYS) - 1]
    chooser = CompiledRows()
    places = [row.logits_row for row in rows]
    together = chooser.choose(logits, places, rows).token_ids.tolist()
    alone = [chooser.choose(logits, [row.logits_row], [row]).token_ids.item() for row in rows]
    assert alone == together


def test_torchs_way_is_the_default() -> None:
    assert isinstance(HostChooser(VOCAB)._row_chooser, TorchRows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_greedy_rows_take_the_lowest_of_the_greatest_however_many_there_are(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = logits_of(6, dtype, 3.0).round()
    logits[3] = -1.0
    logits[3, 400:] = 0.0
    logits[3, 300] = -0.0
    logits[4] = torch.nan
    expected = logits.float().argmax(dim=-1).tolist()
    expected[3] = 300
    rows = [make_row(n, temperature=0.0) for n in range(6)]
    for few in (logits.numel(), logits.numel() - 1):
        monkeypatch.setattr(compiled_rows, "FEW_LOGITS", few)
        chosen = CompiledRows().choose(logits, range(6), rows)
        assert chosen.is_sound.tolist() == [True, True, True, True, False, True]
        token_ids = chosen.token_ids.tolist()
        assert 0 <= token_ids.pop(4) < VOCAB
        assert token_ids == [*expected[:4], expected[5]]


def test_few_greedy_rows_are_no_work_for_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_rows, "greatest", None)
    CompiledRows().choose(logits_of(1, torch.float32, 1.0), [0], [make_row(0, temperature=0.0)])


def test_warming_up_builds_what_greedy_rows_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the model's logits, and from the float32 ones that penalties leave."""
    found = set()

    def find(logits: torch.Tensor) -> Any:
        found.add(logits.dtype)
        return find_greatest(logits)

    monkeypatch.setattr(compiled_rows, "find_greatest", find)
    sampler = Sampler(VOCAB, HostTransfer(), use_kernel=False, is_compiled=True)
    sampler.warm_up(logits_of(1, torch.bfloat16, 3.0))
    assert found == {torch.bfloat16, torch.float32}
