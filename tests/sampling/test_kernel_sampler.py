"""The sampler with kernels: the CPU's tokens, and never a wait for the device."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from radixserve.device.transfer import HostTransfer
from radixserve.sampling.host_chooser import HostChooser
from radixserve.sampling.kernel_chooser import KernelChooser
from radixserve.sampling.sampler import Sampler
from tests.sampling.making import make_row, make_sampler, sample

VOCAB = 600

_FUNCTIONS = {
    "item",
    "tolist",
    "numpy",
    "cpu",
    "nonzero",
    "argwhere",
    "unique",
    "masked_select",
    "equal",
    "allclose",
    "is_nonzero",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
    "__array__",
    "__contains__",
    "__iter__",
}
_OPERATIONS = ("_local_scalar_dense", "nonzero", "masked_select", "equal.default", "_unique")


class _NoFunctions(TorchFunctionMode):
    """Refuses what reads a tensor on the host."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        assert name not in _FUNCTIONS, f"{name} waits for the device"
        return function(*args, **(kwargs or {}))


# torch gives this class no types.
class _NoOperations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses operations whose outcome's shape depends on data, or that read it."""

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = str(operation)
        assert not any(word in name for word in _OPERATIONS), f"{name} waits for the device"
        if name.startswith(("aten.index.", "aten.index_put")):
            masks = [index for index in args[1] if index is not None]
            assert not any(index.dtype == torch.bool for index in masks), "a mask waits"
        return operation(*args, **(kwargs or {}))


def _no_operations() -> TorchDispatchMode:
    return _NoOperations()  # type: ignore[no-untyped-call]  # as above


class CountingTransfer(HostTransfer):
    """Counts the copies."""

    def __init__(self) -> None:
        self.num_puts = self.num_fetches = 0

    def put(self, *arrays: Any) -> tuple[torch.Tensor, ...]:
        self.num_puts += 1
        return super().put(*arrays)

    def fetch(self, *tensors: torch.Tensor) -> Any:
        self.num_fetches += 1
        return super().fetch(*tensors)


def logits_of(num_rows: int, *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return (torch.randn(num_rows, VOCAB, generator=generator) * 3).to(dtype)


def mixed_rows(count: int, seed: int = 1) -> list[Any]:
    choices = random.Random(seed)
    return [
        make_row(
            n % 7,
            seed=n * 7,
            position=n,
            temperature=choices.choice((0.0, 0.5, 1.0)),
            top_k=choices.choice((0, 5, 100)),
            top_p=choices.choice((0.5, 0.99, 1.0)),
            min_p=choices.choice((0.0, 0.1)),
            presence_penalty=choices.choice((0.0, 1.0)),
            repetition_penalty=choices.choice((1.0, 1.1)),
            logprobs=choices.choice((None, None, 0, 2)),
            prompt=[n, 3 * n],
            output=[n, n + 1],
            pending=choices.choice((None, 0, 1)),
            banned=(n,) if n % 3 == 0 else (),
            logit_bias={n + 2: 3.0} if n % 4 == 0 else {},
        )
        for n in range(count)
    ]


def test_a_launch_never_waits() -> None:
    transfer = CountingTransfer()
    sampler = Sampler(VOCAB, transfer, use_kernel=True)
    logits, previous = logits_of(7), torch.tensor([4, 5])
    logits[2] = torch.nan
    with _NoFunctions(), _no_operations():
        samples = sampler.launch(logits, mixed_rows(9), previous)
    assert len(samples.wait()) == 9
    assert transfer.num_puts <= 3
    assert transfer.num_fetches == 1


@pytest.mark.parametrize(
    "wait",
    [
        lambda t: t.tolist(),
        lambda t: int(t[0]),
        lambda t: t[t > 1],
        lambda t: t.nonzero(),
        lambda t: t.cpu(),
        lambda t: bool((t > 1).any()),
        lambda t: torch.equal(t, t),
    ],
)
def test_the_guard_against_waiting_guards(wait: Callable[[torch.Tensor], object]) -> None:
    with pytest.raises(AssertionError, match="wait"), _NoFunctions(), _no_operations():
        wait(torch.arange(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_tokens_are_the_cpus(dtype: torch.dtype) -> None:
    """No row stands so close to a border that rounding decides."""
    logits, previous = logits_of(7, dtype=dtype), torch.tensor([4, 5])
    before = logits.clone()
    samples = [
        make_sampler(VOCAB, use_kernel=use_kernel).launch(logits, mixed_rows(14), previous)
        for use_kernel in (False, True)
    ]
    assert torch.equal(samples[1].token_ids, samples[0].token_ids)
    assert samples[1].wait() == samples[0].wait()
    assert torch.equal(logits, before)


def test_a_token_never_depends_on_its_company() -> None:
    logits, previous, rows = logits_of(7), torch.tensor([4, 5]), mixed_rows(7)
    sampler = make_sampler(VOCAB, use_kernel=True)
    together = sampler.launch(logits, rows, previous).wait()
    assert [sampler.launch(logits, [row], previous).wait()[0] for row in rows] == together


@pytest.mark.parametrize("use_kernel", [False, True])
def test_ids_are_valid_where_there_was_nothing_to_choose(use_kernel: bool) -> None:
    logits = logits_of(4)
    logits[0, 3], logits[1, 500], logits[2] = torch.inf, torch.nan, -torch.inf
    ways: tuple[dict[str, Any], ...] = (
        {"temperature": 0.0},
        {"temperature": 1.0},
        {"top_k": 9, "top_p": 0.5},
    )
    for params in ways:
        rows = [make_row(n, seed=n, **params) for n in range(4)]
        rows.append(make_row(3, banned=range(VOCAB), **params))
        samples = make_sampler(VOCAB, use_kernel=use_kernel).launch(logits, rows)
        assert [token is None for token in samples.wait()] == [True, True, True, False, True]
        assert ((samples.token_ids >= 0) & (samples.token_ids < VOCAB)).all()
        alone = sample(VOCAB, logits, rows[3:4], use_kernel=use_kernel)
        assert samples.wait()[3] == alone[0], "and the sound row is not disturbed"


@pytest.mark.parametrize("temperature", [1e-300, 1e-40])
def test_freezing_is_greedy(temperature: float) -> None:
    logits = logits_of(3)
    rows = [make_row(n, seed=n, temperature=temperature, top_k=3) for n in range(3)]
    tokens = make_sampler(VOCAB, use_kernel=True).launch(logits, rows).token_ids
    assert torch.equal(tokens, logits.argmax(dim=-1))


def test_no_rows() -> None:
    samples = make_sampler(VOCAB, use_kernel=True).launch(logits_of(1)[:0], [])
    assert samples.wait() == []
    assert samples.token_ids.shape == (0,)


def test_the_host_chooses_on_a_cpu_unless_told() -> None:
    choosers = [Sampler(VOCAB, HostTransfer(), use)._chooser for use in (None, False, True)]
    assert [type(chooser) for chooser in choosers] == [HostChooser, HostChooser, KernelChooser]


@pytest.mark.parametrize("use_kernel", [False, True])
def test_warming_up_leaves_nothing_behind(use_kernel: bool) -> None:
    sampler = make_sampler(VOCAB, use_kernel=use_kernel)
    sampler.warm_up(logits_of(2))
    rows = [make_row(n, repetition_penalty=1.1, prompt=[3]) for n in range(2)]
    expected = sample(VOCAB, logits_of(2), rows, use_kernel=use_kernel)
    assert sampler.launch(logits_of(2), rows).wait() == expected
