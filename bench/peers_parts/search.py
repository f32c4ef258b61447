"""The best of some settings, found one at a time: cheaper than all combinations, and as good unless
two settings help only together.
"""

from collections.abc import Callable, Mapping, Sequence

Setting = bool | int
Choice = tuple[Setting, ...]


def best_settings(
    options: Mapping[str, Sequence[Setting]], rate: Callable[[Mapping[str, Setting]], float]
) -> tuple[dict[str, Setting], dict[Choice, float]]:
    """The settings from which no change of a single one is better, found from the first value of
    each; and the rate of every combination that was tried. None is tried twice.

    *Cost*: a handful of calls of ``rate``; never more than there are combinations.
    """
    names = list(options)
    tried: dict[Choice, float] = {}

    def rate_of(choice: Choice) -> float:
        if choice not in tried:
            tried[choice] = rate(dict(zip(names, choice, strict=True)))
        return tried[choice]

    best: Choice = tuple(options[name][0] for name in names)
    while True:
        before = best
        for place, name in enumerate(names):
            others = [(*best[:place], value, *best[place + 1 :]) for value in options[name]]
            best = max([best, *others], key=rate_of)
        if best == before:
            return dict(zip(names, best, strict=True)), tried
