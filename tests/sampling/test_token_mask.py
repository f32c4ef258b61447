"""Masks on logits: what remains is chosen from as if there were nothing else."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from radixserve.sampling import host_chooser, kernel_chooser
from radixserve.sampling.host_chooser import TorchRows
from radixserve.sampling.kernel_chooser import KernelChooser
from radixserve.sampling.row import SampleRow
from radixserve.sampling.token_mask import forbid, forbid_on_host, pack
from radixserve.types import SampledToken
from tests.sampling.making import draw, kept_tokens, make_row, make_sampler, place_of, sample

VOCAB = 203
WAYS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 5},
    {"temperature": 1.3, "top_p": 0.8},
    {"temperature": 1.0, "min_p": 0.1},
    {"temperature": 1.0, "top_k": 150, "top_p": 0.95, "min_p": 0.01},
    {"temperature": 0.0, "logit_bias": {7: 30.0, 8: 20.0}},
    {"temperature": 1.0, "repetition_penalty": 1.5, "presence_penalty": 1.0},
]


class Known:
    """A mask that is there."""

    def __init__(
        self, token_ids: Sequence[int] | npt.NDArray[np.int64], vocab_size: int = VOCAB
    ) -> None:
        bits = np.zeros(-(-vocab_size // 32) * 32, dtype=np.bool_)
        bits[np.array(token_ids, dtype=np.int64)] = True
        self._words = np.packbits(bits, bitorder="little").view(np.uint32)
        self.num_waits = 0

    def wait(self) -> npt.NDArray[np.uint32]:
        self.num_waits += 1
        return self._words


def masked(row: SampleRow, mask: Known | None) -> SampleRow:
    return row._replace(mask=mask)


def some_tokens(seed: int, count: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).choice(VOCAB, count, replace=False)


def ids(sampled: list[SampledToken | None]) -> list[int | None]:
    return [None if token is None else token.token_id for token in sampled]


@pytest.mark.parametrize("vocab_size", [1, 8, 31, 32, 33, 203, 256])
def test_forbid(vocab_size: int) -> None:
    rng = np.random.default_rng(vocab_size)
    kept = [np.flatnonzero(rng.random(vocab_size) < share) for share in (0.0, 0.5, 1.0)]
    logits = torch.randn(3, vocab_size)
    packed = pack([Known(tokens, vocab_size) for tokens in kept])
    result, on_host = logits.clone(), logits.clone()
    forbid(result, torch.from_numpy(packed))
    forbid_on_host(on_host, packed)
    assert torch.equal(result, on_host)
    for row, tokens in enumerate(kept):
        expected = torch.full((vocab_size,), -torch.inf)
        expected[torch.from_numpy(tokens)] = logits[row][torch.from_numpy(tokens)]
        assert torch.equal(result[row], expected)


def test_what_is_no_number_is_never_hidden() -> None:
    """A model that gives it is broken, whichever token it is."""
    logits = torch.tensor([[torch.nan, 1.0, torch.inf, torch.inf, 2.0]])
    packed = pack([Known([1, 3], 5)])
    on_host = logits.clone()
    forbid(logits, torch.from_numpy(packed))
    forbid_on_host(on_host, packed)
    expected = torch.tensor([[torch.nan, 1.0, -torch.inf, torch.inf, -torch.inf]])
    for found in (logits, on_host):
        assert torch.equal(found.nan_to_num(nan=77.0), expected.nan_to_num(nan=77.0))


def test_packed_masks_are_copies() -> None:
    """A constraint writes its next mask where the last one was."""
    mask = Known([3])
    packed = pack([mask])
    mask.wait()[:] = 0
    assert packed[0, 0] == 8


@pytest.mark.parametrize("use_kernel", [False, True])
@pytest.mark.parametrize("count", [1, 2, 40])
def test_tokens_are_drawn_from_what_is_left(use_kernel: bool, count: int) -> None:
    """Against the plainest sampler, which gets only logits that are left."""
    torch.manual_seed(count)
    logits = torch.randn(len(WAYS), VOCAB) * 3
    rows, expected = [], []
    for number, way in enumerate(WAYS):
        tokens = some_tokens(10 * count + number, count)
        row = make_row(number, seed=number, position=5, prompt=(1, 2), output=(7, 8, 9), **way)
        rows.append(masked(row, Known(tokens)))
        left = torch.full((VOCAB,), -torch.inf)
        left[tokens] = logits[number][tokens]
        for token, bias in row.params.logit_bias.items():
            left[token] += bias
        if row.params.presence_penalty:
            for token in (1, 2, 7, 8, 9):
                left[token] *= 1 / 1.5 if left[token] > 0 else 1.5
            left[[7, 8, 9]] -= 1.0
        if not row.params.temperature:
            expected.append(int(left.argmax()))
        else:
            expected.append(draw(kept_tokens(left, row.params), row))
    assert ids(sample(VOCAB, logits, rows, use_kernel=use_kernel)) == expected


@pytest.mark.parametrize("use_kernel", [False, True])
def test_nothing_left(use_kernel: bool) -> None:
    """Others are unaffected."""
    logits = torch.randn(3, VOCAB)
    rows = [
        masked(make_row(0, temperature=1.0), Known([])),
        masked(make_row(1, temperature=0.0), Known([])),
        masked(make_row(2, temperature=0.0), Known([9])),
        make_row(2, temperature=0.0),
    ]
    expected = [None, None, 9, int(logits[2].argmax())]
    assert ids(sample(VOCAB, logits, rows, use_kernel=use_kernel)) == expected


@pytest.mark.parametrize("use_kernel", [False, True])
def test_neighbours_keep_their_tokens_and_their_ways(
    use_kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows in any order, several of one row of logits; the unmasked ones go through the same hands
    as without the others."""
    seen: list[list[int]] = []
    if use_kernel:
        choose = KernelChooser._choose_unmasked

        def noted(self: KernelChooser, logits: Any, rows: Any, previous: Any) -> Any:
            seen.append([row.seed for row in rows])
            return choose(self, logits, rows, previous)

        monkeypatch.setattr(KernelChooser, "_choose_unmasked", noted)
    else:
        choose_rows = TorchRows.choose

        def noted_too(self: TorchRows, logits: Any, places: Any, rows: Any) -> Any:
            seen.append([row.seed for row in rows])
            return choose_rows(self, logits, places, rows)

        monkeypatch.setattr(TorchRows, "choose", noted_too)
    torch.manual_seed(0)
    logits = torch.randn(4, VOCAB) * 2
    ways = [*WAYS, *WAYS]
    free = [make_row(n % 4, seed=n, position=3, **way) for n, way in enumerate(ways)]
    alone = ids(sample(VOCAB, logits, free, use_kernel=use_kernel))
    before, seen[:] = list(seen), []
    rows = [
        masked(row, Known(some_tokens(n, 30))) if n % 3 == 1 else row for n, row in enumerate(free)
    ]
    together = ids(sample(VOCAB, logits, rows, use_kernel=use_kernel))
    unmasked = [n for n in range(len(ways)) if n % 3 != 1]
    assert [together[n] for n in unmasked] == [alone[n] for n in unmasked]
    assert any(together[n] != alone[n] for n in range(1, len(ways), 3))
    assert before
    assert seen[: len(before)] == [[n for n in some if n in unmasked] for some in before]


@pytest.mark.parametrize("use_kernel", [False, True])
def test_many_rows_are_taken_a_slice_at_a_time(
    use_kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_chooser, "MAX_PROCESSED_LOGITS", 2 * VOCAB)
    monkeypatch.setattr(kernel_chooser, "MAX_ADJUSTED_LOGITS", 2 * VOCAB)
    logits = torch.randn(1, VOCAB)
    rows = [masked(make_row(0, temperature=1.0, seed=n), Known([n, 2 * n])) for n in range(7)]
    sampled = ids(sample(VOCAB, logits, rows, use_kernel=use_kernel))
    assert all(token in {n, 2 * n} for n, token in enumerate(sampled))


@pytest.mark.parametrize("use_kernel", [False, True])
def test_masks_are_waited_for_last(use_kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """When everybody else's tokens are chosen, or on their way."""
    order: list[str] = []

    class Late(Known):
        def wait(self) -> npt.NDArray[np.uint32]:
            order.append("mask")
            return super().wait()

    chooser: Any = KernelChooser if use_kernel else TorchRows
    name = "_choose_unmasked" if use_kernel else "choose"
    unmasked = getattr(chooser, name)

    def noted(self: Any, *args: Any) -> Any:
        result = unmasked(self, *args)
        order.append("others")
        return result

    sampler = make_sampler(VOCAB, use_kernel=use_kernel)
    logits = torch.randn(2, VOCAB).to(place_of(use_kernel=use_kernel))
    monkeypatch.setattr(chooser, name, noted)
    rows = [masked(make_row(0, temperature=1.0), Late([4])), make_row(1, temperature=1.0)]
    assert ids(sampler.launch(logits, rows).wait())[0] == 4
    assert order[:2] == ["others", "mask"]
    assert order.count("mask") == 1
