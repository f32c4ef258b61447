"""Figures against capacity: one line a policy, one panel a workload and figure, the bound drawn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from hit_rate_parts.policies import BOUND


class Plotted(Protocol):
    """What every result has."""

    @property
    def workload(self) -> str: ...
    @property
    def policy(self) -> str: ...
    @property
    def capacity_blocks(self) -> int: ...
    @property
    def block_tokens(self) -> int: ...


R = TypeVar("R", bound=Plotted)


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture: for each policy its points, (capacity in blocks, value)."""

    title: str
    x_label: str
    y_label: str
    lines: dict[str, list[tuple[int, float]]]


def panel(results: Sequence[R], y_label: str, value: Callable[[R], float]) -> Panel:
    """A figure of one workload's results."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for result in sorted(results, key=lambda one: one.capacity_blocks):
        lines.setdefault(result.policy, []).append((result.capacity_blocks, value(result)))
    first = results[0]
    return Panel(first.workload, f"capacity, blocks of {first.block_tokens} tokens", y_label, lines)


def plot(panels: Sequence[Panel], path: Path) -> None:
    """Write a picture in the format that the file's name says. *Raises* ``ImportError`` without
    matplotlib."""
    import matplotlib  # noqa: PLC0415  a bench without --plot runs without it

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, grid = pyplot.subplots(
        rows, columns, figsize=(5 * columns, 3.8 * rows), squeeze=False, layout="constrained"
    )
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, one in zip(grid.flat, panels, strict=False):
        for policy, points in one.lines.items():
            capacities = [capacity for capacity, _ in points]
            values = [value for _, value in points]
            if policy == BOUND:
                axes.plot(capacities, values, "k--", label="belady (the bound)")
            else:
                axes.plot(capacities, values, marker="o", label=policy)
        axes.set_xscale("log", base=2)
        axes.set_title(one.title)
        axes.set_xlabel(one.x_label)
        axes.set_ylabel(one.y_label)
        axes.grid(alpha=0.3)
    grid.flat[0].legend()
    figure.savefig(path)
    pyplot.close(figure)
