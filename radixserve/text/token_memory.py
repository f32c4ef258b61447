"""Conversations in the tokens that they were made of, though clients send back only their text.

    turn 1    <|im_start|>assistant\\n + "hel" "lo" <|im_end|>                 generated
    turn 2    <|im_start|>assistant\\nhello<|im_end|>\\n<|im_start|>user...    comes back as text
              tokenized anew:   "hello"        another token: the cache has nothing from here on
              remembered:       "hel" "lo"     every token is found again

A text is cut into segments (``segments.py``). What a segment's ids are is remembered where it is
first met, and what the model wrote overrules that; so an old turn is not tokenized anew, and comes
in the tokens that were computed. If a generated segment comes back changed (a stop string cut off,
white space trimmed, an end edited) the tokens are kept as far as they still say it
(``splicing.py``).

Promises
- The ids always decode to the text. Where a tokenizer changes texts (a normalizer, a space of its
  own) they decode to what the plain tokenization says, or, where something was generated, to that
  if it is the text itself. If neither can be had, the plain tokenization is given.
- Where nothing was generated the ids are the plain tokenization.
- Namespaces share nothing, neither tokens nor the time that knowing them saves.

Knows no conversation, no template, no request. Safe to use from several threads; nothing waits for
another thread's tokenizing.

Cost: a known text of 100,000 tokens takes 1 ms in long turns, 3 ms in turns of 50 tokens;
``learn`` takes a fifth of a millisecond for 1,000 tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from radixserve.ids import Namespace
from radixserve.text.known_segments import GeneratedSegment, KnownSegments, TokenIds, follow
from radixserve.text.segments import Segments
from radixserve.text.splicing import Kept, keep
from radixserve.text.tokenizer import Tokenizer

MAX_LEARNT_CUTS: Final = 1024
"""Most cuts in an answer. What is behind the last one is not learnt: no real answer has as many,
and a server's event loop learns."""

_WORD: Final = "a"
"""Stands for the text before."""


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of an encoded text, which an answer goes on from."""

    namespace: Namespace
    before: bytes
    """The hash of what is before the last segment."""
    text: str
    """Of the last segment."""
    ids: TokenIds


@dataclass(frozen=True, slots=True)
class EncodedText:
    """A text's token ids."""

    ids: list[int]
    tail: Tail | None
    """None where nothing is remembered."""


class TokenMemory:
    """Encodes texts, and learns the tokens of answers. Mutable, thread-safe.

    ``max_bytes`` bounds what is remembered; 0: nothing, and every text is tokenized as it is.
    """

    def __init__(self, tokenizer: Tokenizer, max_bytes: int) -> None:
        self.tokenizer = tokenizer
        self._vocabulary = tokenizer.vocabulary
        self._known = KnownSegments(max_bytes)
        self._is_on = max_bytes > 0
        rules = tokenizer.vocabulary.rules
        self._hides_space = not (rules.strip_first is None and rules.drop_in_first is None)
        """An answer's first space may be the tokenizer's own, and not shown to clients."""
        added_tokens = tokenizer.added_tokens if self._is_on else {}
        self._added_ids = frozenset(added_tokens)
        self._segments = Segments(
            added_tokens, self._plain, tokenizer.sample_renderings() if self._is_on else ()
        )

    def encode(self, namespace: Namespace, text: str) -> EncodedText:
        """The ids of a text that spells out its special tokens. *Mutates* the memory.

        The text is Unicode, which ``Tokenizer.render_prompt`` sees to. *Cost*: that of tokenizing
        what is not known; in a thread.
        """
        if not self._is_on:
            return EncodedText(self._plain(text), None)
        segments = self._segments.cut(text)
        known, befores = self._known.walk(namespace, segments)
        missing = [index for index, ids in enumerate(known) if ids is None]
        if missing:
            self._fill(namespace, segments, known, befores, missing)
        result: list[int] = []
        for ids in known:
            assert ids is not None, "a segment without ids"
            result.extend(ids)
        assert known[-1] is not None
        return EncodedText(result, Tail(namespace, befores[-1], segments[-1], known[-1]))

    def learn(self, tail: Tail | None, output_ids: Sequence[int]) -> None:
        """An answer of these tokens followed the text that ``tail`` is of. *Mutates* the memory.

        Also an answer that has no end, or that its client has seen less of. An end token at its
        end is no part of it: templates write their own.
        """
        if tail is None or not output_ids:
            return
        cutters = self._segments.cutter_ids
        found = (index for index, token_id in enumerate(output_ids) if token_id in cutters)
        cuts = list(islice(found, MAX_LEARNT_CUTS + 1))
        if len(cuts) > MAX_LEARNT_CUTS:
            output_ids = output_ids[: cuts.pop()]
        elif cuts and cuts[-1] == len(output_ids) - 1:
            output_ids = output_ids[:-1]
            cuts.pop()
        before, head, head_ids = {tail.before}, tail.text, tail.ids
        for start, end in zip([0, *cuts], [*cuts, len(output_ids)], strict=True):
            raw = b"".join(map(self._vocabulary.piece, output_ids[start:end]))
            text = raw.decode(errors="replace")
            segment = self._segment(head, head_ids, output_ids[start:end], raw)
            if segment.generated:
                for each in before:
                    self._known.add_generated(tail.namespace, each, segment)
            spellings = {head + text}
            if start == 0 and self._hides_space and text.startswith(" "):
                spellings.add(head + text[1:])
            before = {follow(each, spelling) for each in before for spelling in spellings}
            head, head_ids = "", ()

    def check_invariants(self) -> None:
        """*Raises* ``AssertionError`` if what is counted is not what is held."""
        self._known.check_invariants()

    def _segment(
        self, head: str, head_ids: TokenIds, ids: Sequence[int], raw: bytes
    ) -> GeneratedSegment:
        """What was generated up to the first bytes that are no character: a client sees U+FFFD
        there, which these tokens do not say."""
        num_ids = len(ids)
        while True:
            try:
                text = raw.decode()
                break
            except UnicodeDecodeError as error:
                num_bytes = len(raw)
                while num_bytes > error.start:
                    num_ids -= 1
                    num_bytes -= len(self._vocabulary.piece(ids[num_ids]))
                raw = raw[:num_bytes]
        return GeneratedSegment(
            head, text, head_ids + self._known.shared(ids[:num_ids]), len(head_ids)
        )

    def _fill(
        self,
        namespace: Namespace,
        segments: Sequence[str],
        known: list[TokenIds | None],
        befores: Sequence[bytes],
        missing: Sequence[int],
    ) -> None:
        """Find the ids of the missing segments. *Mutates* ``known`` and the memory."""
        plain: list[int] = []
        for index in missing:
            generated = self._known.generated(namespace, befores[index])
            if generated:
                known[index] = self._splice(segments[index], generated)
            if known[index] is None:
                plain.append(index)
        first = 0
        for place, index in enumerate(plain):
            # A run of neighbours is encoded at once.
            if place + 1 == len(plain) or plain[place + 1] != index + 1:
                begin = plain[first]
                known[begin : index + 1] = self._encode_run(segments[begin : index + 1])
                first = place + 1
        found = [
            (befores[index], segments[index], ids)
            for index in missing
            if (ids := known[index]) is not None
        ]
        self._known.add(namespace, found)

    def _encode_run(self, run: Sequence[str]) -> list[TokenIds]:
        """Each segment's ids, the segments being neighbours."""
        ids = self._known.shared(self._plain("".join(run)))
        cutters = self._segments.cutter_ids
        starts = [index for index, token_id in enumerate(ids) if token_id in cutters]
        if not starts or starts[0] != 0:
            # What is before a text's first added token begins with none.
            starts.insert(0, 0)
        if len(starts) != len(run):
            # Such an id came about without its token: the one that stands for what is unknown.
            return [self._known.shared(self._plain(segment)) for segment in run]
        ends = [*starts[1:], len(ids)]
        return [ids[start:end] for start, end in zip(starts, ends, strict=True)]

    def _splice(self, segment: str, generated: Sequence[GeneratedSegment]) -> TokenIds | None:
        """The segment in the tokens of a generated one, as far as they agree; None if they do not,
        or what is left cannot be tokenized by itself."""
        shown = None
        if not self._vocabulary.rules.byte_level:
            # Such tokenizers may put a space before a text; then a generated one can say the same
            # though it is spelt with that space.
            shown = self._shown(self._plain(segment))
        best: tuple[GeneratedSegment, Kept] | None = None
        for each in generated:
            spellings = [(segment, each.head)]
            if shown is not None:
                spellings.append((shown, self._shown(each.ids[: each.num_head])))
            for text, head in spellings:
                kept = self._keep(text, head, each)
                if kept is not None and (best is None or len(kept.rest) < len(best[1].rest)):
                    best = (each, kept)
        if best is None:
            return None
        rest = self._encode_rest(best[1].rest)
        if rest is None:
            return None
        return best[0].ids[: best[0].num_head + best[1].num_ids] + self._known.shared(rest)

    def _keep(self, text: str, head: str, each: GeneratedSegment) -> Kept | None:
        if not text.startswith(head):
            return None
        return keep(
            text[len(head) :],
            each.generated,
            each.ids[each.num_head :],
            piece=self._vocabulary.piece,
            added_ids=self._added_ids,
            begins_with_token=self._segments.begins_with_token,
        )

    def _encode_rest(self, rest: str) -> list[int] | None:
        """Ids that say exactly this, behind other text; None if there are none to be had."""
        if not rest:
            return []
        lead = self._segments.lead
        # A tokenizer may put a space before a text itself: it is given less, or a word before it.
        for before, text in ((lead, rest), (lead, rest.removeprefix(" ")), (lead + _WORD, rest)):
            before_ids = self._plain(before)
            ids = self._plain(before + text)
            if ids[: len(before_ids)] == before_ids:
                ids = ids[len(before_ids) :]
                if self._shown(ids) == rest:
                    return ids
        return None

    def _shown(self, ids: Sequence[int]) -> str:
        """What ids say behind other text."""
        return b"".join(map(self._vocabulary.piece, ids)).decode(errors="replace")

    def _plain(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)
