"""From texts that were put together to the block ids of a trace: equal ids for equal prefixes.

A generated prompt is a list of pieces, each a run of tokens with a name: a system prompt, a
document, a user's message. Two prompts agree as long as their pieces do. A block's id stands for
the block and all before it, as in a recorded trace.
"""

from dataclasses import dataclass
from typing import TypeAlias

from hit_rate_parts.trace import Trace, TraceRequest

Key: TypeAlias = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """``num_tokens`` tokens; pieces of one name are alike from their first token on."""

    name: Key
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a generated request sends, when, and what it is answered.

    A later prompt that has the reply, or more that begins with it, among its pieces repeats it.
    """

    time_s: float
    pieces: tuple[Piece, ...]
    reply: Piece

    @property
    def num_tokens(self) -> int:
        """How long the prompt is."""
        return sum(piece.num_tokens for piece in self.pieces)


class BlockNumbers:
    """Numbers blocks as they first come: equal numbers for equal prefixes."""

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._numbers: dict[Key, int] = {}

    def blocks(self, pieces: tuple[Piece, ...]) -> tuple[int, ...]:
        """The numbers of the blocks of a text, the last one partial if it ends so."""
        blocks: list[int] = []
        above = -1
        content: list[Key] = []
        num_free = self._block_tokens
        for piece in pieces:
            done = 0
            while done < piece.num_tokens:
                taken = min(num_free, piece.num_tokens - done)
                content.append((piece.name, done, taken))
                done += taken
                num_free -= taken
                if num_free == 0:
                    above = self._number(above, content)
                    blocks.append(above)
                    content, num_free = [], self._block_tokens
        if content:
            blocks.append(self._number(above, content))
        return tuple(blocks)

    def _number(self, above: int, content: list[Key]) -> int:
        return self._numbers.setdefault((above, *content), len(self._numbers))


def as_trace(name: str, prompts: list[Prompt], block_tokens: int) -> Trace:
    """Cut prompts into blocks, in order of time. *Cost*: O(blocks + pieces)."""
    numbers = BlockNumbers(block_tokens)
    ordered = sorted(prompts, key=lambda prompt: prompt.time_s)
    return Trace(
        name,
        block_tokens,
        tuple(
            TraceRequest(
                prompt.time_s,
                prompt.num_tokens,
                numbers.blocks(prompt.pieces),
                prompt.reply.num_tokens,
            )
            for prompt in ordered
        ),
    )
