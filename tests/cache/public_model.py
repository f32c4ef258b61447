"""Public prefixes as plain tuples: what is public of some tokens, now or ever."""

from typing import NamedTuple

Tokens = tuple[int, ...]

PUBLIC = "*"
"""The owner of public tokens, beside namespaces' names."""


class Path(NamedTuple):
    """One node of a tree, with all that lies above it."""

    owner: str
    tokens: Tokens
    table: list[int]
    num_public: int
    """How many of the tokens lie in public nodes."""
    is_locked: bool


def common_prefix(a: Tokens, b: Tokens) -> int:
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def _beginnings(prefixes: list[Tokens]) -> set[Tokens]:
    return {one[:end] for one in prefixes for end in range(1, len(one) + 1)}


class PublicModel:
    """What is named, and whatever was."""

    def __init__(self) -> None:
        self.named: list[Tokens] = []
        self.ever: set[Tokens] = set()
        self.epoch = 0
        """How often that has changed."""

    def name(self, prefixes: list[Tokens]) -> bool:
        """Whether that made a difference."""
        before, after = _beginnings(self.named), _beginnings(prefixes)
        self.named = prefixes
        self.ever |= after
        self.epoch += before != after
        return before != after

    def length(self, tokens: Tokens) -> int:
        return max((common_prefix(one, tokens) for one in self.named), default=0)

    def longest_match(self, namespace: str, tokens: Tokens, paths: list[Path]) -> int:
        """How much of ``tokens`` a namespace ought to find, from all nodes that there are."""
        num_public = self.length(tokens)
        best = 0
        for path in paths:
            common = common_prefix(path.tokens, tokens)
            if path.owner == PUBLIC:
                best = max(best, min(common, num_public))
            elif path.owner == namespace and self.length(path.tokens) == path.num_public:
                best = max(best, common)
        return best
