"""An answer as a sequence of blocks that open, grow and close, never two at once.

    reasoning ──▶ text ──▶ call ──▶ call          (any order; one block per run of a kind)

Anthropic's messages and OpenAI's responses are both made of such blocks, and differ in how they
tell of them. What a block is, is decided by the parser (``text/answer.py``).

White space alone makes no block: it waits for text of its own kind to go before, and is dropped
where a block of another kind comes first. Models put line ends around thinking and calls, and an
empty text between two calls means something to clients.

Cost: O(text).
"""

import uuid
from dataclasses import dataclass, field
from typing import Literal

from radixserve.text.answer import (
    AnswerParser,
    AnswerPart,
    ContentText,
    ReasoningText,
    ToolCallArguments,
    ToolCallStart,
)

BlockKind = Literal["reasoning", "text", "call"]


@dataclass(slots=True, eq=False)
class Block:
    """One block. Mutable: grows until it is closed."""

    kind: BlockKind
    index: int
    """Among the answer's blocks."""
    name: str = ""
    """The tool, if it is a call."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:24])
    """Unguessable; dialects put their prefixes before it."""
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Reasoning, text, or a call's arguments."""
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True)
class Opened:
    """A block begins, empty."""

    block: Block


@dataclass(frozen=True, slots=True)
class Grown:
    """A block has more text."""

    block: Block
    text: str


@dataclass(frozen=True, slots=True)
class Closed:
    """A block is complete."""

    block: Block


BlockEvent = Opened | Grown | Closed


class AnswerBlocks:
    """The blocks of one choice so far. Mutable, owned by its reply."""

    def __init__(self, parser: AnswerParser) -> None:
        self.blocks: list[Block] = []
        self.reasoning_tokens = 0
        """Tokens that came while the model was thinking, its delimiters roughly included: text
        lags behind tokens."""
        self._parser = parser
        self._open: Block | None = None
        self._is_reasoning = False
        self._held: tuple[BlockKind, str] = ("text", "")

    @property
    def has_calls(self) -> bool:
        return any(block.kind == "call" for block in self.blocks)

    def add(self, text: str, num_tokens: int) -> list[BlockEvent]:
        """What the next piece of the answer changes. *Mutates* the blocks."""
        parts = self._parser.feed(text) if text else []
        thinks = self._is_reasoning
        if parts:
            thinks = any(isinstance(part, ReasoningText) for part in parts)
            self._is_reasoning = isinstance(parts[-1], ReasoningText)
        if thinks:
            self.reasoning_tokens += num_tokens
        return self._take(parts)

    def finish(self) -> list[BlockEvent]:
        """What the end of the answer changes."""
        events = self._take(self._parser.finish())
        kind, held = self._held
        if held and not self.blocks:
            # White space is all there is, so it is the answer.
            events += [*self._begin(kind), *self._grow(held)]
        return [*events, *self._close()]

    def _take(self, parts: list[AnswerPart]) -> list[BlockEvent]:
        events: list[BlockEvent] = []
        for part in parts:
            match part:
                case ReasoningText(text):
                    events += self._write("reasoning", text)
                case ContentText(text):
                    events += self._write("text", text)
                case ToolCallStart(name=name):
                    events += self._begin("call", name)
                case ToolCallArguments(text=text):
                    events += self._grow(text)
        return events

    def _write(self, kind: BlockKind, text: str) -> list[BlockEvent]:
        if self._open is not None and self._open.kind == kind:
            return self._grow(text)
        held_kind, held = self._held
        text = held + text if held_kind == kind else text
        self._held = (kind, text)
        if not text.strip():
            return []
        return [*self._begin(kind), *self._grow(text)]

    def _begin(self, kind: BlockKind, name: str = "") -> list[BlockEvent]:
        self._held = (kind, "")
        events = self._close()
        block = Block(kind, len(self.blocks), name)
        self.blocks.append(block)
        self._open = block
        return [*events, Opened(block)]

    def _grow(self, text: str) -> list[BlockEvent]:
        assert self._open is not None
        if not text:
            return []
        self._open.pieces.append(text)
        return [Grown(self._open, text)]

    def _close(self) -> list[BlockEvent]:
        block, self._open = self._open, None
        return [] if block is None else [Closed(block)]
