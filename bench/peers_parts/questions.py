"""What is asked of the engines, and what radixserve should reach."""

from dataclasses import dataclass

from peers_parts.peer import Figure, Measured
from peers_parts.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One workload and one figure of it, higher is better."""

    key: str
    workload: Workload
    figure: str
    """What the figure is, with its unit."""
    value: Figure
    wanted: dict[str, float]
    """By peer: how many times its figure radixserve's should be."""
    wanted_share: float | None = None
    """Of the limit: of the floor of a decode step, or of the machine's matmul rate."""
    is_prefill: bool = False
    is_int8: bool = False
    has_server: bool = False
    """Whether llama.cpp's own server is asked, too."""

    @property
    def title(self) -> str:
        precision = "int8 and q8_0" if self.is_int8 else "bfloat16"
        return f"{self.workload.name} ({precision})"


def _prefill_rate(workload: Workload) -> Figure:
    def rate(measured: Measured) -> float:
        # With one token to generate, the whole run is the prefill.
        return workload.num_distinct / (measured.prefill_s or measured.total_s)

    return rate


SHARED = Workload(16, 1024, 32, 32)
SINGLE = Workload(1, 0, 128, 128)
PRIVATE = Workload(32, 0, 128, 64)
PREFILL = Workload(1, 0, 4096, 1)

QUESTIONS = (
    Question(
        key="shared",
        workload=SHARED,
        figure="output tokens/s, prefill counted",
        value=lambda measured: measured.rate,
        wanted={"transformers": 10.0, "llama.cpp": 6.0},
        wanted_share=0.5,
        has_server=True,
    ),
    Question(
        key="single",
        workload=SINGLE,
        figure="decode tokens/s",
        value=lambda measured: measured.decode_rate,
        wanted={"llama.cpp": 1.5},
    ),
    Question(
        key="single-int8",
        workload=SINGLE,
        figure="decode tokens/s",
        value=lambda measured: measured.decode_rate,
        wanted={"llama.cpp": 1.5},
        is_int8=True,
    ),
    Question(
        key="private",
        workload=PRIVATE,
        figure="output tokens/s, prefill counted",
        value=lambda measured: measured.rate,
        wanted={"transformers": 4.0, "llama.cpp": 4.0},
        has_server=True,
    ),
    Question(
        key="prefill",
        workload=PREFILL,
        figure="prompt tokens/s",
        value=_prefill_rate(PREFILL),
        wanted={"transformers": 1.0, "llama.cpp": 1.0},
        wanted_share=0.5,
        is_prefill=True,
    ),
)
