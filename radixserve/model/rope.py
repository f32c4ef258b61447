"""Rotary positions: the table of cosines and sines, and the rotation of queries and keys.

Dimension ``i`` of a head is paired with dimension ``i + D/2`` and the pair is turned by the angle
``position * inv_freq[i]``:

    out[i]       = x[i]       * cos - x[i + D/2] * sin
    out[i + D/2] = x[i + D/2] * cos + x[i]       * sin

With x rolled by half a head and the first half of the sines negated that is
``x * cos + roll(x) * sin``: three operations for all heads of queries and keys at once.

Scaled variants differ in ``inv_freq`` only, and yarn also in the length of the turned vectors.
``dynamic`` equals the unscaled embedding up to ``max_position_embeddings``, which is as far as
``RopeParameters.longest_context`` lets a context go.
*Source*: arXiv 2104.09864 (RoPE), 2309.00071 (YaRN); transformers, ``modeling_rope_utils.py``.
"""

import math
from dataclasses import dataclass

import torch

from radixserve.model.rope_parameters import RopeParameters

_POSITIONS_AT_A_TIME = 1 << 16


@dataclass(frozen=True, slots=True)
class Rotation:
    """The angles of one step's tokens, shared by all layers."""

    cos: torch.Tensor
    """[T, 1, D]"""
    sin: torch.Tensor
    """[T, 1, D], the first half negated."""


class RopeTable:
    """Cosines and sines of every position below ``num_positions``.

    Computed in float32 on the CPU whatever the device, so that all devices turn by the same angles,
    and kept in ``dtype``: ``num_positions * head_dim`` numbers.
    """

    __slots__ = ("_half", "angles")

    def __init__(
        self,
        parameters: RopeParameters,
        head_dim: int,
        num_positions: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        inv_freq, scale = inverse_frequencies(parameters, head_dim)
        self._half = head_dim // 2
        self.angles = torch.empty(num_positions, head_dim, dtype=dtype, device=device)
        """[num_positions, D]: the cosines of the D/2 pairs, then their sines."""
        # In runs, so that a table for a million positions needs no second one while it is made.
        for start in range(0, num_positions, _POSITIONS_AT_A_TIME):
            end = min(start + _POSITIONS_AT_A_TIME, num_positions)
            angles = torch.outer(torch.arange(start, end, dtype=torch.float32), inv_freq)
            self.angles[start:end, : self._half] = angles.cos().mul_(scale)
            self.angles[start:end, self._half :] = angles.sin().mul_(scale)

    @property
    def num_positions(self) -> int:
        return len(self.angles)

    def at(self, positions: torch.Tensor) -> Rotation:
        """The rotation of each token: ``positions`` int64[T], each below ``num_positions``."""
        both = self.angles.index_select(0, positions).unsqueeze(1)
        cos, sin = both[..., : self._half], both[..., self._half :]
        return Rotation(torch.cat((cos, cos), dim=-1), torch.cat((sin.neg(), sin), dim=-1))


def rotate(x: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Turn every head of ``x`` [T, heads, D], which may be strided. Returns a new tensor."""
    rolled = x.roll(x.shape[-1] // 2, dims=-1)
    return (x * rotation.cos).addcmul_(rolled, rotation.sin)


def inverse_frequencies(parameters: RopeParameters, head_dim: int) -> tuple[torch.Tensor, float]:
    """Radians per token of each pair of dimensions, float32[D/2], and the factor on cos and sin."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    inv_freq = 1.0 / parameters.theta**exponents
    if parameters.rope_type == "linear":
        return inv_freq / parameters.factor, 1.0
    if parameters.rope_type == "llama3":
        return _llama3(inv_freq, parameters), 1.0
    if parameters.rope_type == "yarn":
        return _yarn(inv_freq, parameters, head_dim), _yarn_attention_factor(parameters)
    return inv_freq, 1.0


def _llama3(inv_freq: torch.Tensor, parameters: RopeParameters) -> torch.Tensor:
    """Slow turns (long waves) are stretched by ``factor``, fast ones kept, the rest blended."""
    turns = parameters.original_max_position_embeddings * inv_freq / (2 * math.pi)
    low, high = parameters.low_freq_factor, parameters.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return inv_freq * (kept + (1.0 - kept) / parameters.factor)


def _yarn(inv_freq: torch.Tensor, parameters: RopeParameters, head_dim: int) -> torch.Tensor:
    """Like llama3, but blending over a range of dimensions instead of wavelengths."""

    def dimension_that_turns(times: float) -> float:
        wavelength = parameters.original_max_position_embeddings / (times * 2 * math.pi)
        return head_dim * math.log(wavelength) / (2 * math.log(parameters.theta))

    low = dimension_that_turns(parameters.beta_fast)
    high = dimension_that_turns(parameters.beta_slow)
    if parameters.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    stretched = ((torch.arange(head_dim // 2) - low) / (high - low)).clamp(0.0, 1.0)
    return inv_freq * (1.0 - stretched) + inv_freq / parameters.factor * stretched


def _yarn_attention_factor(parameters: RopeParameters) -> float:
    if parameters.attention_factor is not None:
        return parameters.attention_factor

    def magnitude(weight: float) -> float:
        return 0.1 * weight * math.log(parameters.factor) + 1.0 if parameters.factor > 1 else 1.0

    if parameters.mscale and parameters.mscale_all_dim:
        return magnitude(parameters.mscale) / magnitude(parameters.mscale_all_dim)
    return magnitude(1.0)
