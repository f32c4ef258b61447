"""Which kind of ``Linear`` each weight of a model on a CPU becomes, by measuring.

    weight ──▶ small: plain, or quantised with a fixed crossing; nothing is measured
           ──▶ its shape is new: measure, remember
           ──▶ make what was found best for its shape

What a library is good at differs between processors, versions and shapes, so nothing is assumed:
plain, compiled and packed products race at a few numbers of rows, over copies of the weight that
no cache holds all of, as in a step the other layers' weights come in between; the winner then runs
against itself with its rows padded to 16 and 32. For a quantised weight, the number of rows is
looked for from which unpacking beats the kernel: there arithmetic is what takes the time, not
memory. An alternative has to win by a margin, so that noise does not choose.

In bfloat16 the compiled product takes 2 to 20 hundredths less than the packed one at 1 to 32 rows,
and 5 to 16 more where rows are many and it is torch's plain one; whole steps take 14 less at one
stream, 5 at 4, 3 at 16, and a prompt of 4,096 as long as before. And a decode step whose products
are all compiled is one call (``decode_calls.py``). So packed ones have to win by a lot. Where a
look-up uses the table as well, packing would copy it, and they do not race.

*Cost*, measured on 2 cores: 10 to 80 ms for each distinct shape of at most 4,096 x 2,048 (there are
four of these), 50 to 270 ms for an output layer of 16,384 x 768, in float32 up to 0.7 s; where a
kernel has never been compiled on this machine, 1.5 to 2.5 s for each kind of weight; memory for
32 MiB of copies of a weight and as much of its packed form, or for one packed form that is larger,
until its shape is decided.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from radixserve.errors import ConfigError
from radixserve.model.linear import (
    Linear,
    PackedLinear,
    PaddedLinear,
    PlainLinear,
    can_pack,
)
from radixserve.model.linear_compiled import CompiledLinear, fits_product, match_threads
from radixserve.model.linear_int4 import Int4Linear, fits_int4
from radixserve.model.linear_int8 import Int8Linear, Scratch
from radixserve.model.linear_timing import race

logger = logging.getLogger(__name__)

NOT_QUANTISED = "none"

_LEAST_ELEMENTS = 2**18
"""Smaller weights stay in a core's cache; there the calls are what takes the time."""
_COPIES_BYTES = 32 << 20
"""Of a weight and of its packed form each, while they race: together more than common caches."""
_ROWS = (1, 8, 64, 512)
"""At which they are compared: decoding alone, with some others, with many, and a chunk."""
_MARGIN = 0.95
"""An alternative must take at most this much of the time."""
_ONE_CALL_MARGIN = 0.8
"""The same for one that takes the place of a compiled product: where all of a model's are compiled
its decode steps are one call (``decode_calls.py``), which is worth more than either is faster."""
_PADDING_MARGIN = 0.85
"""The same for padding: more arithmetic that is faster, where it is, is so by a lot."""
_TILES = (16, 32)
"""Numbers of rows that padding may fill up to; each is tried with three quarters of it."""
_CROSSINGS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256)
"""Numbers of rows up to which a compiled kernel may be used."""
_UNMEASURED_CROSSING = 8


@dataclass(frozen=True, slots=True)
class _Choice:
    """What was found best for weights of one shape."""

    make: Callable[[torch.Tensor, torch.Tensor | None], Linear]
    words: str


class LinearMaker:
    """Makes the products of one model on a CPU, each as soon as its weight is read."""

    def __init__(
        self, dtype: torch.dtype, quantization: str = NOT_QUANTISED, *, compiled: bool = False
    ) -> None:
        """``compiled``: kernels may be compiled in this process, which they are as they are needed.

        *Mutates*, if so, the number of threads that this thread's compiled kernels use.
        """
        self._dtype = dtype
        self._quantization = quantization
        self._can_pack = can_pack(dtype)
        self._compiled = compiled and dtype in (torch.float32, torch.bfloat16)
        if self._compiled:
            match_threads()
        self._scratch = Scratch(dtype)
        self._choices: dict[tuple[int, int, str, bool], _Choice] = {}
        self._num_bytes = 0

    def make(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        *,
        is_head: bool = False,
        is_shared: bool = False,
    ) -> Linear:
        """What multiplies by ``weight`` [out, in] of the maker's dtype; ``bias`` [out]. The weight
        is kept only where it is multiplied by as it is.

        ``is_head``: it is the output layer, which stays in 8 bits where others go to 4: its
        rounding moves every logit at once. ``is_shared``: others keep the weight, so a product
        that reads it as it is saves memory, if it is as fast or nearly.
        """
        num_outputs, num_inputs = weight.shape
        kind = self._quantization
        if kind == "int4" and (is_head or not fits_int4(weight.shape)):
            kind = "int8"
        key = (num_outputs, num_inputs, kind, is_shared)
        if key not in self._choices:
            with torch.inference_mode():
                self._choices[key] = self._choose(weight, kind, is_shared=is_shared)
        made = self._choices[key].make(weight, bias)
        self._num_bytes += made.num_bytes
        return made

    def log(self) -> None:
        """Say what was chosen, in one line."""
        found = [f"{out}x{ins} {choice.words}" for (out, ins, *_), choice in self._choices.items()]
        logger.info("products (%.2f GiB): %s", self._num_bytes / 2**30, "; ".join(found))

    def _choose(self, weight: torch.Tensor, kind: str, *, is_shared: bool) -> _Choice:
        is_measured = weight.numel() >= _LEAST_ELEMENTS
        if kind != NOT_QUANTISED:
            return self._choose_crossing(weight, kind, is_measured=is_measured)
        if is_measured:
            return self._choose_order(weight, is_shared=is_shared)
        return _Choice(PlainLinear, "plain")

    def _choose_order(self, weight: torch.Tensor, *, is_shared: bool) -> _Choice:
        num_copies = max(1, _COPIES_BYTES // weight.nbytes)
        copies = [weight, *(weight.clone() for _ in range(num_copies - 1))]
        plain: list[Linear] = [PlainLinear(copy) for copy in copies]
        best, choice, best_share = plain, _Choice(PlainLinear, "plain"), 1.0
        for other in self._others(copies, is_shared=is_shared):
            linears = [other.make(copy, None) for copy in copies]
            share = self._share(linears, plain, weight)
            margin = _ONE_CALL_MARGIN if isinstance(best[0], CompiledLinear) else _MARGIN
            if share < best_share * margin:
                words = f"{other.words} ({share:.0%} of plain's time)"
                best, choice, best_share = linears, _Choice(other.make, words), share
        table = self._padding(best[:2], weight)
        if table:
            make = partial(_make_padded, choice.make, table)
            choice = _Choice(make, f"{choice.words}, padded rows")
        return choice

    def _others(self, copies: Sequence[torch.Tensor], *, is_shared: bool) -> Iterator[_Choice]:
        """What takes part in the race besides the plain product."""
        weight = copies[0]
        can_compile = self._can_compile(weight)
        if can_compile:
            ways = [CompiledLinear(copy, kernel_rows=_CROSSINGS[-1]) for copy in copies]
            rows = self._crossing([(way.by_kernel, way.by_library) for way in ways], weight)
            yield _Choice(partial(CompiledLinear, kernel_rows=rows), f"compiled up to {rows} rows")
        if self._can_pack and not (can_compile and is_shared):
            yield _Choice(PackedLinear, "packed")

    def _share(
        self, linears: Sequence[Linear], plain: Sequence[Linear], weight: torch.Tensor
    ) -> float:
        """What part of the plain products' time these take, on average over ``_ROWS``."""
        shares = []
        for count in _ROWS:
            x = self._rows(count, weight)
            # With more rows, arithmetic takes the time: fewer runs tell as much.
            runs = max(1, len(plain) // count)
            plain_s, other_s = race(_runs(plain[:runs], x), _runs(linears[:runs], x))
            shares.append(other_s / plain_s)
        return sum(shares) / len(shares)

    def _padding(self, linears: Sequence[Linear], weight: torch.Tensor) -> tuple[int, ...]:
        """As what to run each number of rows; empty: none is worth padding."""
        table: list[int] = []
        for tile in _TILES:
            count = tile * 3 // 4
            x = self._rows(count, weight)
            whole = tuple(range(count)) + (tile,) * (tile + 1 - count)
            padded = [PaddedLinear(linear, whole) for linear in linears]
            plain_s, padded_s = race(_runs(linears, x), _runs(padded, x))
            if padded_s < plain_s * _PADDING_MARGIN:
                # Fewer rows than were tried gain less: they are left as they are.
                table += whole[len(table) :]
        return tuple(table)

    def _choose_crossing(self, weight: torch.Tensor, kind: str, *, is_measured: bool) -> _Choice:
        quantised = Int4Linear if kind == "int4" else Int8Linear
        rows = _UNMEASURED_CROSSING
        if not self._can_compile(weight):
            return _Choice(
                partial(quantised, scratch=self._scratch, kernel_rows=0), f"{kind}, always unpacked"
            )
        if is_measured:
            linear = quantised(weight, None, self._scratch, kernel_rows=1)
            rows = self._crossing([(linear.by_kernel, linear.by_unpacking)], weight)
        return _Choice(
            partial(quantised, scratch=self._scratch, kernel_rows=rows),
            f"{kind} (unpacked from {rows + 1} rows on)",
        )

    def _crossing(
        self,
        ways: Sequence[tuple[Callable[[torch.Tensor], object], Callable[[torch.Tensor], object]]],
        weight: torch.Tensor,
    ) -> int:
        """The most rows at which the first way is faster than the second, of each of some weights
        alike; 0: none. Each row costs the first more, so it is searched by halves."""
        low, high = 0, len(_CROSSINGS)
        while low < high:
            middle = (low + high) // 2
            x = self._rows(_CROSSINGS[middle], weight)
            kernel_s, other_s = race(
                [partial(kernel, x) for kernel, _ in ways], [partial(other, x) for _, other in ways]
            )
            if kernel_s <= other_s:
                low = middle + 1
            else:
                high = middle
        return _CROSSINGS[low - 1] if low else 0

    def _can_compile(self, weight: torch.Tensor) -> bool:
        return self._compiled and fits_product(weight.shape)

    def _rows(self, count: int, weight: torch.Tensor) -> torch.Tensor:
        return torch.ones((count, weight.shape[1]), dtype=self._dtype)


def _runs(linears: Sequence[Linear], x: torch.Tensor) -> list[Callable[[], object]]:
    return [partial(linear, x) for linear in linears]


def _make_padded(
    make: Callable[[torch.Tensor, torch.Tensor | None], Linear],
    rows: tuple[int, ...],
    weight: torch.Tensor,
    bias: torch.Tensor | None,
) -> Linear:
    return PaddedLinear(make(weight, bias), rows)


def check_quantization(quantization: str, dtype: torch.dtype, device: torch.device) -> None:
    """*Raises* ``ConfigError`` if this device or type has no such products."""
    if quantization == NOT_QUANTISED:
        return
    if device.type != "cpu":
        raise ConfigError(
            f"quantization {quantization!r} is for CPUs, and the model runs on {device.type}; "
            "leave it out, or use device 'cpu'"
        )
    if dtype not in (torch.float32, torch.bfloat16):
        raise ConfigError(
            f"quantization {quantization!r} multiplies float32 or bfloat16, not {dtype}; "
            "set dtype to one of them"
        )
