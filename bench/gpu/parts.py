"""The suite's parts: their names, what each costs, and which module runs it.

Data only. A part is imported in the process that runs it and nowhere else: parts come and go with
their kernels, and one that cannot be imported must not take the others with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """One part. ``gpu.<module>.run(bench, **arguments)`` runs it."""

    name: str
    module: str
    minutes: float
    """About what it takes on an H100 with nothing compiled yet; its share of a call's budget."""
    says: str
    arguments: tuple[tuple[str, str], ...] = ()


def _engine(name: str, minutes: float) -> Part:
    says = f"gates, TTFT, TPOT, prefill, idle share of the engine at {name}'s shape"
    return Part(f"engine:{name}", "engine", minutes, says, (("model", name),))


PARTS: Sequence[Part] = (
    Part("tests", "tests", 6.0, "the tests that have a device form, on the device"),
    Part("ceilings", "ceilings", 0.4, "copy and read bandwidth, bf16 products, launch latency"),
    Part("kernels", "kernels", 3.0, "attention against bandwidth and against torch's attention"),
    Part("layers", "layers", 2.5, "norm, activation, rotation, page copies, sampling"),
    _engine("qwen3-0.6b", 1.5),
    _engine("llama-3.2-1b", 1.5),
    _engine("qwen3-8b", 2.5),
    _engine("llama-3.1-8b", 2.5),
    Part("peers", "peers", 5.5, "output tokens/s beside transformers' continuous batching"),
)

CALL_MINUTES = 7.5
"""The budget of a call that names its parts: for machines that limit what a command may take."""

ALL_MINUTES = 27.0
"""The budget of a call that runs every part."""

CALLS: Sequence[Sequence[str]] = (
    ("tests",),
    ("ceilings", "kernels", "layers"),
    ("engine:qwen3-8b", "engine:llama-3.1-8b", "engine:qwen3-0.6b"),
    ("engine:llama-3.2-1b", "peers"),
)
"""All parts in calls of at most eight minutes each."""


def find(names: str | None) -> list[Part]:
    """The parts of a comma-separated list, in the suite's order; all without one.

    "engine" stands for the four engine parts. *Raises* ``ValueError`` for an unknown name.
    """
    if names is None:
        return list(PARTS)
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    found = [part for part in PARTS if {part.name, part.name.partition(":")[0]} & wanted]
    known = {part.name for part in PARTS} | {part.name.partition(":")[0] for part in PARTS}
    if wanted - known:
        raise ValueError(
            f"unknown part {', '.join(sorted(wanted - known))}; "
            f"there are {', '.join(part.name for part in PARTS)}"
        )
    return found


def budgets(parts: Sequence[Part], total_s: float) -> Mapping[str, float]:
    """Seconds for each part: the total in proportion to the parts' costs."""
    costs = sum(part.minutes for part in parts)
    return {part.name: total_s * part.minutes / costs for part in parts}
