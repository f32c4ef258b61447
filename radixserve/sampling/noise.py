"""The noise of sampling: one uniform number per token, a pure function of (seed, position).

Being a hash rather than a generator with a state, it needs no order: whatever else is in the batch,
after a preemption, in another process or on another device, the token at ``position`` of a request
meets the same number. Integer arithmetic only, so it is the same everywhere.

The hash is SplitMix64's finalizer (Steele, Lea, Flood 2014), applied twice so that seeds 1, 2, 3
and positions 1, 2, 3 yield unrelated numbers: every input bit flips about half of the output bits.
"""

_MASK = (1 << 64) - 1
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15
_CHOICE_DOMAIN = 0xD1B54A32D192ED03
"""Keeps the seeds of choices apart from the numbers of positions."""


def uniform(seed: int, position: int) -> float:
    """A number in the open interval (0, 1), with 52 random bits."""
    mixed = _mix(_mix(seed + _GOLDEN_GAMMA) + (position + 1) * _GOLDEN_GAMMA)
    # Half a unit off the grid: never 0, and at 52 bits never rounded up to 1.
    return ((mixed >> 12) + 0.5) * 2.0**-52


def choice_seed(seed: int, index: int) -> int:
    """The seed of a request's choice ``index`` (of ``n``); choice 0 keeps the request's own."""
    if index == 0:
        return seed
    return _mix(_mix(seed ^ _CHOICE_DOMAIN) + index * _GOLDEN_GAMMA)


def _mix(value: int) -> int:
    """SplitMix64's finalizer: a bijection of 64-bit integers."""
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
