"""Shapes of penalties that test and bench share."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PenalizeCase:
    """``rows`` choices, ``penalized`` of them with penalties and ``history`` tokens each."""

    name: str
    rows: int
    vocab_size: int
    penalized: int
    history: int


TEST_CASES = (
    PenalizeCase("one token", 1, 1, 1, 3),
    PenalizeCase("ragged", 5, 4099, 3, 600),
    PenalizeCase("whole tiles", 3, 4096, 2, 50),
    PenalizeCase("nobody", 4, 257, 0, 0),
)

BENCH_CASES = (
    PenalizeCase("one", 1, 151_936, 1, 4096),
    PenalizeCase("64 of Qwen's", 64, 151_936, 64, 4096),
    PenalizeCase("256, few penalized", 256, 128_256, 16, 4096),
)
