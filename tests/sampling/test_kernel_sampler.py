"""The sampler with kernels: the CPU's tokens, and never a wait for the device."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from radixserve.device.transfer import HostTransfer, make_transfer
from radixserve.sampling import kernel_chooser
from radixserve.sampling.host_chooser import HostChooser
from radixserve.sampling.kernel_chooser import KernelChooser
from radixserve.sampling.sampler import Sampler
from radixserve.types import SampledToken
from tests.kernels.judging import DEVICE
from tests.sampling.making import make_row, make_sampler, place_of, sample

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


def _concerns_the_device(args: Any) -> bool:
    """Whether a tensor of the device is among the arguments. (Staging memory is the host's.)"""
    flat = [part for arg in args for part in (arg if isinstance(arg, (list, tuple)) else [arg])]
    return any(isinstance(x, torch.Tensor) and x.device.type == DEVICE.type for x in flat)


class _NoFunctions(TorchFunctionMode):
    """Refuses what reads a tensor of the device on the host."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        waits = name in _FUNCTIONS and _concerns_the_device(args)
        assert not waits, f"{name} waits for the device"
        return function(*args, **(kwargs or {}))


# torch gives this class no types.
class _NoOperations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses operations whose outcome's shape depends on data, or that read it."""

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = str(operation)
        waits = any(word in name for word in _OPERATIONS) and _concerns_the_device(args)
        assert not waits, f"{name} waits for the device"
        if name.startswith(("aten.index.", "aten.index_put")):
            masks = [index for index in args[1] if index is not None]
            assert not any(index.dtype == torch.bool for index in masks), "a mask waits"
        return operation(*args, **(kwargs or {}))


def _no_operations() -> TorchDispatchMode:
    return _NoOperations()  # type: ignore[no-untyped-call]  # as above


class CountingTransfer:
    """Counts the copies to and from the kernels' device."""

    device = DEVICE

    def __init__(self) -> None:
        self._transfer = make_transfer(DEVICE)
        self.num_puts = self.num_fetches = self.num_fetched_tensors = 0

    def put(self, *arrays: Any) -> tuple[torch.Tensor, ...]:
        self.num_puts += 1
        return self._transfer.put(*arrays)

    def fetch(self, *tensors: torch.Tensor) -> Any:
        self.num_fetches += 1
        self.num_fetched_tensors += len(tensors)
        return self._transfer.fetch(*tensors)


def logits_of(
    num_rows: int, *, dtype: torch.dtype = torch.float32, use_kernel: bool = True
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    logits = (torch.randn(num_rows, VOCAB, generator=generator) * 3).to(dtype)
    return logits.to(place_of(use_kernel=use_kernel))


def sampled_before(*, use_kernel: bool = True) -> torch.Tensor:
    """What the rows' ``pending`` index."""
    return torch.tensor([4, 5], device=place_of(use_kernel=use_kernel))


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


def assert_alike(
    found: list[SampledToken | None], expected: list[SampledToken | None], *, has_ties: bool = False
) -> None:
    """The same tokens; log-probabilities but for the rounding of torch's sums, which depends on the
    device and on how many rows there are. Which of equal logits is named first is not defined."""
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is None or theirs is None:
            continue
        assert ours.token_id == theirs.token_id
        assert (ours.logprob is None) == (theirs.logprob is None)
        if ours.logprob is None or theirs.logprob is None:
            continue
        assert ours.logprob.token_id == theirs.logprob.token_id
        assert ours.logprob.logprob == pytest.approx(theirs.logprob.logprob, abs=1e-5)
        top, expected_top = dict(ours.logprob.top), dict(theirs.logprob.top)
        assert list(top.values()) == pytest.approx(list(expected_top.values()), abs=1e-5)
        assert has_ties or list(top) == list(expected_top)


def test_a_launch_never_waits() -> None:
    transfer = CountingTransfer()
    sampler = Sampler(VOCAB, transfer, use_kernel=True)
    logits, previous = logits_of(7), sampled_before()
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
        wait(torch.arange(3, device=DEVICE))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_tokens_are_the_cpus(dtype: torch.dtype) -> None:
    """No row stands so close to a border that rounding decides."""
    samples = []
    for use_kernel in (False, True):
        logits = logits_of(7, dtype=dtype, use_kernel=use_kernel)
        before = logits.clone()
        sampler = make_sampler(VOCAB, use_kernel=use_kernel)
        previous = sampled_before(use_kernel=use_kernel)
        samples.append(sampler.launch(logits, mixed_rows(14), previous))
        assert torch.equal(logits, before)
    assert torch.equal(samples[1].token_ids.cpu(), samples[0].token_ids)
    assert_alike(samples[1].wait(), samples[0].wait(), has_ties=dtype != torch.float32)


def test_a_token_never_depends_on_its_company() -> None:
    logits, previous, rows = logits_of(7), sampled_before(), mixed_rows(7)
    sampler = make_sampler(VOCAB, use_kernel=True)
    together = sampler.launch(logits, rows, previous).wait()
    alone = [sampler.launch(logits, [row], previous).wait()[0] for row in rows]
    assert_alike(alone, together)


@pytest.mark.parametrize("use_kernel", [False, True])
def test_ids_are_valid_where_there_was_nothing_to_choose(use_kernel: bool) -> None:
    logits = logits_of(4, use_kernel=use_kernel)
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


def test_who_chooses() -> None:
    choosers = [Sampler(VOCAB, HostTransfer(), use_kernel=use)._chooser for use in (False, True)]
    assert [type(chooser) for chooser in choosers] == [HostChooser, KernelChooser]


def test_a_plain_step_fetches_one_tensor() -> None:
    transfer = CountingTransfer()
    sampler, logits = Sampler(VOCAB, transfer, use_kernel=True), logits_of(2)
    sampler.launch(logits, [make_row(n, temperature=0.0) for n in range(2)])
    assert transfer.num_fetched_tensors == 1
    sampler.launch(logits, [make_row(n, temperature=0.0, logprobs=1) for n in range(2)])
    assert transfer.num_fetched_tensors == 1 + 4


def largest_float_tensor(launch: Callable[[], object]) -> int:
    """Elements of the largest float32 tensor that is made to be filled on the device."""
    largest = 0

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # as above
        def __torch_dispatch__(
            self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal largest
            made = operation(*args, **(kwargs or {}))
            is_new = operation is torch.ops.aten.empty.memory_format
            if is_new and made.dtype == torch.float32 and made.device.type == DEVICE.type:
                largest = max(largest, made.numel())
            return made

    with Watch():  # type: ignore[no-untyped-call]  # as above
        launch()
    return largest


def test_adjusting_takes_slices_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several rows of logits and prompts about to fork: the same tokens, of bounded memory."""
    logits, previous = logits_of(7), sampled_before()
    rows = [row for row in mixed_rows(14) if row.params.logprobs is None] * 3
    assert len(rows) > 9
    whole = make_sampler(VOCAB, use_kernel=True).launch(logits, rows, previous).wait()
    monkeypatch.setattr(kernel_chooser, "MAX_ADJUSTED_LOGITS", 4 * VOCAB + 9)
    transfer = CountingTransfer()
    sampler = Sampler(VOCAB, transfer, use_kernel=True)
    found = []

    def launch() -> None:
        with _NoFunctions(), _no_operations():
            found.append(sampler.launch(logits, rows, previous))

    assert largest_float_tensor(launch) == 4 * VOCAB
    assert found[0].wait() == whole
    assert transfer.num_puts == 2 * -(-len(rows) // 4)
    assert sampler.launch(logits, rows, previous).wait() == whole, "nothing was counted twice"


def test_a_slice_is_a_row_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, previous, rows = logits_of(7), sampled_before(), mixed_rows(3)
    whole = make_sampler(VOCAB, use_kernel=True).launch(logits, rows, previous).wait()
    monkeypatch.setattr(kernel_chooser, "MAX_ADJUSTED_LOGITS", 1)
    sliced = make_sampler(VOCAB, use_kernel=True).launch(logits, rows, previous).wait()
    assert_alike(sliced, whole)


def test_the_pool_grows_once_for_all_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_chooser, "MAX_ADJUSTED_LOGITS", 6 * VOCAB)
    sampler = make_sampler(VOCAB, use_kernel=True)
    rows = [make_row(n % 2, presence_penalty=1.0, output=[n]) for n in range(17)]
    sampler.launch(logits_of(2), [*rows, make_row(logit_bias={1: 1.0})])
    chooser = sampler._chooser
    assert isinstance(chooser, KernelChooser)
    nothing = torch.empty(0, dtype=torch.int64, device=DEVICE)
    assert len(chooser.penalties.tally_pool.apply(None, *[nothing] * 5)) == 17


@pytest.mark.parametrize("use_kernel", [False, True])
def test_warming_up_leaves_nothing_behind(use_kernel: bool) -> None:
    sampler = make_sampler(VOCAB, use_kernel=use_kernel)
    logits = logits_of(2, use_kernel=use_kernel)
    sampler.warm_up(logits)
    rows = [make_row(n, repetition_penalty=1.1, prompt=[3]) for n in range(2)]
    expected = sample(VOCAB, logits, rows, use_kernel=use_kernel)
    assert sampler.launch(logits, rows).wait() == expected
