"""Choosing tokens, as two kernels for processors: the meaning is ``reference.py``'s.

    scale_rows     the greatest logit of each row, and (logits - greatest) / temperature
    draw_tokens    from that, and its exponentials, which the caller makes in between, a token

A row is one thread's, and nothing depends on other rows. Where neither top-k nor top-p drops
anything, a token is drawn like this:

    weights    |--- block ---|--- block ---|- ... -|     summed block by block, in float64
    target = u * total                  ^ inside this block: token by token

Otherwise first a histogram of the row, by distance from its greatest logit, tells how far down its
ranking what is kept may end; what lies above is collected, sorted, and cut down. Collected is a
little more than may be kept, so that no row needs another try. A token of weight 0 is never drawn.

*Cost*: two passes over the logits, and one over the weights, or two and a histogram (1.5 ns a
token), and sorting what is kept. Beside that a call, which takes arrays, costs 4 us.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import literally, prange

from radixserve_kernels.checks import (
    FLOATS,
    check_contiguous,
    check_dtype,
    check_on_cpu,
    check_shape,
)
from radixserve_kernels.cpu.compiling import inner, inner_in_order, kernel, serial_kernel
from radixserve_kernels.cpu.integers import store_int64
from radixserve_kernels.cpu.numbers import FLOAT32, KINDS, load, load_input, store
from radixserve_kernels.cpu.ordered_bits import MINUS_INFINITY, PLUS_INFINITY, ordered_bits

BLOCK = 256
"""Tokens summed together."""

BINS = 512
BINS_PER_UNIT = np.float32(16.0)
"""The histogram's bins: the last holds what is less than e**-32 of the greatest's weight."""

MARGIN = 1e-4
"""So much more weight than top-p asks for is collected: the histogram's weights are rounded."""


@inner
def _greatest_of(logits, first, last, kind):
    literally(kind)
    greatest, least = np.int32(-0x80000000), np.int32(0x7FFFFFFF)
    for index in range(first, last):
        place = ordered_bits(load_input(logits, index, kind))
        greatest = max(greatest, place)
        least = min(least, place)
    return greatest, least


@inner
def _first_of(logits, first, vocab_size, kind):
    """The lowest id of a row's greatest logit; -1 if it is not finite or the row holds a NaN."""
    literally(kind)
    greatest, least, found = np.int32(-0x80000000), np.int32(0x7FFFFFFF), 0
    for block in range(0, vocab_size, BLOCK):
        last = first + min(block + BLOCK, vocab_size)
        best, worst = _greatest_of(logits, first + block, last, kind)
        if best > greatest:
            greatest, found = best, block
        least = min(least, worst)
    if not (MINUS_INFINITY < greatest < PLUS_INFINITY and least >= MINUS_INFINITY):
        return -1
    if greatest == 0:
        # It equals what is in its order just before it, in whatever block.
        greatest, found = np.int32(-1), 0
    while ordered_bits(load_input(logits, first + found, kind)) < greatest:
        found += 1
    return found


@cache
def make_find_greatest(kind: int) -> Callable[..., None]:
    def find_greatest(token_ids: int, logits: int, num_rows: int, vocab_size: int) -> None:
        for row in range(num_rows):
            store_int64(token_ids, row, _first_of(logits, row * vocab_size, vocab_size, kind))

    return serial_kernel(find_greatest)


# A product with the inverse of the temperature would be another number.
@inner_in_order
def _scale_row(scaled, to, logits, first, vocab_size, best, temperature, kind):
    literally(kind)
    if temperature == np.float32(1.0):
        for index in range(vocab_size):
            distance = load_input(logits, first + index, kind) - best
            store(scaled, to + index, FLOAT32, distance)
    else:
        for index in range(vocab_size):
            distance = load_input(logits, first + index, kind) - best
            store(scaled, to + index, FLOAT32, distance / temperature)


@cache
def make_scale_rows(kind: int) -> Callable[..., None]:
    def scale_rows(token_ids, scaled, logits, logits_rows, temperatures, places, vocab_size):
        for row in prange(len(token_ids)):
            first = logits_rows[row] * vocab_size
            token = _first_of(logits, first, vocab_size, kind)
            token_ids[row] = token
            if places[row] < 0:
                continue
            to = places[row] * vocab_size
            if token < 0:
                for index in range(vocab_size):
                    store(scaled, to + index, FLOAT32, np.float32(0.0))
            else:
                best = load(logits, first + token, kind)
                _scale_row(scaled, to, logits, first, vocab_size, best, temperatures[row], kind)

    return kernel(scale_rows)


@inner
def _sum(weights, min_p):
    total = 0.0
    # By its own length, which is never negative: so the loop is vectorised.
    for index in range(len(weights)):
        weight = weights[index]
        total += np.float64(weight if weight >= min_p else np.float32(0.0))
    return total


@inner
def _draw_whole(weights, min_p, uniform):
    num_blocks = (len(weights) + BLOCK - 1) // BLOCK
    sums = np.empty(num_blocks, dtype=np.float64)
    total = 0.0
    for block in range(num_blocks):
        sums[block] = _sum(weights[block * BLOCK : (block + 1) * BLOCK], min_p)
        total += sums[block]
    target = uniform * total
    before = 0.0
    found = 0
    is_inside = False
    for block in range(num_blocks):
        if sums[block] > 0.0:
            # Where rounding puts the target at the very end, the last that has any weight.
            found = block
            is_inside = before + sums[block] > target
            if is_inside:
                break
            before += sums[block]
    token = found * BLOCK
    until = before if is_inside else -1.0
    for index in range(found * BLOCK, min((found + 1) * BLOCK, len(weights))):
        weight = weights[index]
        if weight >= min_p and weight > 0.0:
            token = index
            if until >= 0.0:
                until += np.float64(weight)
                if until > target:
                    break
    return token


@inner
def _bin_of(scaled):
    return int(min(-scaled * BINS_PER_UNIT, np.float32(BINS - 1)))


@inner
def _draw_ranked(scaled, weights, top_k, top_p, min_p, uniform):
    vocab_size = len(scaled)
    counts = np.zeros(BINS, dtype=np.int64)
    masses = np.zeros(BINS, dtype=np.float64)
    for index in range(vocab_size):
        place = _bin_of(scaled[index])
        counts[place] += 1
        masses[place] += np.float64(weights[index])
    has_top_k = top_k < vocab_size
    # What top-p is a share of; with top-k, the sum over the k best.
    whole = masses.sum()
    enough = (1.0 + MARGIN) * top_p * whole
    num_candidates, mass, deepest = 0, 0.0, 0
    for place in range(BINS):
        num_candidates += counts[place]
        mass += masses[place]
        deepest = place
        if num_candidates >= top_k if has_top_k else mass >= enough:
            break
    ids = np.empty(num_candidates, dtype=np.int64)
    distances = np.empty(num_candidates, dtype=np.float32)
    number = 0
    for index in range(vocab_size):
        if _bin_of(scaled[index]) <= deepest:
            ids[number] = index
            distances[number] = -scaled[index]
            number += 1
    # Stable: equals stay in the order of ids.
    order = np.argsort(distances, kind="mergesort")
    num_ranked = min(top_k, num_candidates)
    ranked = np.empty(num_ranked, dtype=np.float64)
    for rank in range(num_ranked):
        ranked[rank] = np.exp(-np.float64(distances[order[rank]]))
    if has_top_k:
        whole = ranked.sum()
    kept = np.zeros(num_candidates, dtype=np.float64)
    total = 0.0
    for rank in range(num_ranked):
        # Rounding must not let top-p 1 drop anything.
        in_top_p = top_p >= 1.0 or total < top_p * whole
        if rank > 0 and not (in_top_p and ranked[rank] >= min_p):
            break
        kept[order[rank]] = ranked[rank]
        total += ranked[rank]
    target = uniform * total
    until = 0.0
    token = ids[order[0]]
    for number in range(num_candidates):
        if kept[number] > 0.0:
            token = ids[number]
            until += kept[number]
            if until > target:
                break
    return token


@kernel
def _draw(out, scaled, weights, top_k, top_p, min_p, uniforms):
    for row in prange(len(out)):
        if top_k[row] < scaled.shape[1] or top_p[row] < 1.0:
            out[row] = _draw_ranked(
                scaled[row], weights[row], top_k[row], top_p[row], min_p[row], uniforms[row]
            )
        else:
            out[row] = _draw_whole(weights[row], np.float32(min_p[row]), uniforms[row])


def find_greatest(logits: torch.Tensor) -> npt.NDArray[np.int64]:
    """Each row's greatest logit: int64[S], the lowest id that has it, or -1 if it is not finite or
    the row holds a NaN. ``logits``: fp16, bf16 or fp32 [S, V], contiguous.

    By one thread: another that sleeps is woken in 100 us, in which this one reads a million logits.
    *Raises* ``ValueError`` for a tensor that does not fit.
    """
    check_shape("logits", logits, ("S", "V"))
    check_dtype("logits", logits, FLOATS)
    check_contiguous("logits", logits)
    check_on_cpu(logits=logits)
    token_ids = np.empty(len(logits), dtype=np.int64)
    find = make_find_greatest(KINDS[logits.dtype])
    find(token_ids.ctypes.data, logits.data_ptr(), *logits.shape)
    return token_ids


def scale_rows(
    logits: torch.Tensor,
    logits_rows: npt.NDArray[np.int64],
    temperatures: npt.NDArray[np.float32],
    places: npt.NDArray[np.int64],
    scaled: torch.Tensor,
) -> npt.NDArray[np.int64]:
    """Find each row's greatest logit: int64[R], the lowest id that has it, or -1 if it is not
    finite or the row holds a NaN.

    Of a row whose place is not negative, row ``places[row]`` of ``scaled``, float32[D, V], becomes
    its logits less the greatest, divided by its temperature, which is above 0; or zeros, if the
    result is -1. ``logits``: fp16, bf16 or fp32 [S, V]; ``logits_rows``, ``temperatures`` and
    ``places``: [R]. All contiguous. *Mutates* ``scaled``. *Raises* ``ValueError`` for tensors that
    do not fit.
    """
    check_shape("logits", logits, ("S", "V"))
    check_dtype("logits", logits, FLOATS)
    check_contiguous("logits", logits)
    check_shape("scaled", scaled, ("D", logits.shape[1]))
    check_dtype("scaled", scaled, (torch.float32,))
    check_contiguous("scaled", scaled)
    check_on_cpu(logits=logits, scaled=scaled)
    num_rows = len(logits_rows)
    _check_rows("logits_rows", logits_rows, np.int64, num_rows)
    _check_rows("temperatures", temperatures, np.float32, num_rows)
    _check_rows("places", places, np.int64, num_rows)
    token_ids = np.empty(num_rows, dtype=np.int64)
    run = make_scale_rows(KINDS[logits.dtype])
    run(
        token_ids,
        scaled.data_ptr(),
        logits.data_ptr(),
        logits_rows,
        temperatures,
        places,
        logits.shape[1],
    )
    return token_ids


def draw_tokens(
    scaled: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32],
    top_k: npt.NDArray[np.int64],
    top_p: npt.NDArray[np.float64],
    min_p: npt.NDArray[np.float64],
    uniforms: npt.NDArray[np.float64],
) -> npt.NDArray[np.int64]:
    """Draw a token for every row from what its parameters keep. Returns int64[R].

    ``scaled``: float32[R, V], the logits less their row's greatest, so that this is 0, divided by
    the temperature: no NaN, and minus infinity where a token may not be drawn. ``weights``: the
    exponentials of ``scaled``, float32[R, V]. The others [R]: ``top_k`` from 1 to V, which drops
    nothing; ``top_p`` above 0, and 1 drops nothing; ``min_p`` from 0 to 1; ``uniforms`` between 0
    and 1. All of them contiguous. *Raises* ``ValueError`` for shapes and dtypes that do not fit.
    """
    if scaled.ndim != 2 or weights.shape != scaled.shape:
        raise ValueError(
            f"scaled and weights: expected the same shape [R, V], got {scaled.shape} and "
            f"{weights.shape}"
        )
    num_rows = len(scaled)
    _check_rows("scaled", scaled, np.float32, num_rows)
    _check_rows("weights", weights, np.float32, num_rows)
    _check_rows("top_k", top_k, np.int64, num_rows)
    _check_rows("top_p", top_p, np.float64, num_rows)
    _check_rows("min_p", min_p, np.float64, num_rows)
    _check_rows("uniforms", uniforms, np.float64, num_rows)
    out = np.empty(num_rows, dtype=np.int64)
    _draw(out, scaled, weights, top_k, top_p, min_p, uniforms)
    return out


def _check_rows(name: str, array: npt.NDArray[Any], dtype: type, num_rows: int) -> None:
    if array.dtype != dtype or len(array) != num_rows or not array.flags.c_contiguous:
        raise ValueError(
            f"{name}: expected {dtype.__name__} for {num_rows} rows, contiguous; got "
            f"{array.dtype}{list(array.shape)}"
        )
