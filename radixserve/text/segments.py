"""Where a text can be cut so that its pieces, encoded one by one, give what the whole gives.

A tokenizer first looks for its added tokens (``<|im_end|>``, ``<think>``), leftmost, the longest
first, and then works on what lies between two of them as if it were alone. So a text can be cut
before an added token:

    <bos>Be brief.<|im_start|>user\\nHello<|im_end|>\\n<|im_start|>assistant\\n
    |_______________________|_________________________|___________ ...     no: these are
    |_____________|_____________________|____________|____________________| the segments

    "<bos>Be brief." "<|im_start|>user\\nHello" "<|im_end|>\\n" "<|im_start|>assistant\\n"

A segment begins with its added token, because whether there is one before a text matters to some
tokenizers (a space goes before the first word of the whole text, or of every piece).

Not before every added token is a cut exact. Left alone are those that

    are normalized      they are looked for in the normalized text of a piece, not in the text
    have lstrip         they swallow the white space at the end of the segment before
    are single words    whether they count depends on the character before
    begin with a space  the token before may swallow it (rstrip)
    begin with a letter the token before, a single word, may count only without it

They take part in the search, for a longer token hides a shorter one. Where a cut is, depends on
nothing behind the token: a text that goes on has the cuts of its beginning, and perhaps more.

Nothing here is believed: on construction, texts around every cut are encoded both ways, and if one
differs there are no cuts at all, only a warning.

Cost: O(length of the text), about a millisecond for 400,000 characters.
"""

import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

logger = logging.getLogger(__name__)

MAX_CUTS: Final = 2**16
"""Most cuts in one text; what is left behind the last one is one segment."""

_AROUND: Final = (("a", "b"), (" ", " "), ("a b ", " c"), ("\n\n", "\n"), (" é", "1"), ("", ""))
"""What stands before and behind a token in the texts of the check."""

_TOKENS_WITH_NEIGHBOURS: Final = 24
"""Among so many added tokens every pair is checked side by side."""


class Segments:
    """Cuts texts for one tokenizer. Immutable, safe to use from several threads.

    ``added_tokens`` are the ``tokenizers`` library's (``content``, ``normalized``, ``lstrip``,
    ``rstrip``, ``single_word``) by their ids; ``encode`` encodes a text without anything around it;
    ``probes`` are further texts for the check, such as the chat template writes.
    """

    __slots__ = ("_added", "_others", "_pattern", "cutter_ids", "lead")

    def __init__(
        self,
        added_tokens: Mapping[int, Any],
        encode: Callable[[str], Sequence[int]],
        probes: Iterable[str] = (),
    ) -> None:
        named = {token_id: token for token_id, token in added_tokens.items() if token.content}
        searched = {token_id: token for token_id, token in named.items() if not token.normalized}
        cutters = {
            token_id: token.content for token_id, token in searched.items() if _is_cutter(token)
        }
        self.cutter_ids = frozenset(cutters)
        """The tokens that segments begin with; only a text's first one may begin without."""
        self.lead = next((cutters[each] for each in cutters if not named[each].rstrip), "")
        """An added token: what follows it is encoded as what stands inside of a text. Empty if
        there is none."""
        self._others = frozenset(
            token.content for token_id, token in searched.items() if token_id not in cutters
        )
        self._added = _compile(token.content for token in named.values())
        self._pattern = _compile(token.content for token in searched.values()) if cutters else None
        if self._pattern is not None:
            contents = [token.content for token in searched.values()]
            self._check(encode, [*_texts_around(contents), *probes])

    def cut(self, text: str) -> list[str]:
        """The text's segments, in order; together they are the text. At least one."""
        if self._pattern is None:
            return [text]
        others = self._others
        starts = [
            match.start()
            for match in self._pattern.finditer(text)
            if not others or match.group() not in others
        ]
        del starts[MAX_CUTS:]
        if not starts:
            return [text]
        if starts[0] != 0:
            starts.insert(0, 0)
        starts.append(len(text))
        return [text[start:end] for start, end in pairwise(starts)]

    def begins_with_token(self, text: str) -> bool:
        """Whether it begins with an added token of any kind."""
        return self._added is not None and self._added.match(text) is not None

    def _check(self, encode: Callable[[str], Sequence[int]], texts: Iterable[str]) -> None:
        """No cuts from now on, if one of these texts says that they are not exact."""
        for text in texts:
            pieces = [token_id for piece in self.cut(text) for token_id in encode(piece)]
            if pieces != list(encode(text)):
                logger.warning(
                    "this tokenizer encodes %r in another way when it is cut at added tokens, so "
                    "conversations are tokenized as a whole, and anew in every turn",
                    text[:200],
                )
                self._pattern, self.cutter_ids = None, frozenset()
                return


def _is_cutter(token: Any) -> bool:
    """Whether a cut before this token is exact, whatever stands before it."""
    kind = unicodedata.category(token.content[0])
    # Marks and signs. An underscore (Pc) counts as part of a word.
    return not (token.lstrip or token.single_word) and kind[0] in "PS" and kind != "Pc"


def _texts_around(contents: Sequence[str]) -> list[str]:
    """Texts in which tokens stand in every kind of company."""
    texts = [f"{before}{each}{after}" for each in contents for before, after in _AROUND]
    few = contents[:_TOKENS_WITH_NEIGHBOURS]
    texts += [f"x {one}{gap}{other} y" for gap in ("", " ", "a") for one in few for other in few]
    return [" ".join(texts), "".join(texts), *texts[-len(few) :], *texts[: len(_AROUND)]]


def _compile(words: Iterable[str]) -> re.Pattern[str] | None:
    expression = _any_of(words)
    return re.compile(expression) if expression else None


def _any_of(words: Iterable[str]) -> str:
    """A regular expression that matches the longest of the words; empty if there are none.

    Not one alternative after the other, which would be tried one by one wherever a "<" stands, but
    branching where they differ.
    """
    tree: dict[str, Any] = {}
    for word in words:
        node = tree
        for char in word:
            node = node.setdefault(char, {})
        node[""] = {}
    return _branches(tree)


def _branches(tree: dict[str, Any]) -> str:
    ways = []
    for char, node in tree.items():
        if char == "":
            continue
        run = re.escape(char)
        # A stretch without a branch is one run: recursion is as deep as there are branches.
        while len(node) == 1 and "" not in node:
            ((char, node),) = node.items()  # noqa: PLW2901
            run += re.escape(char)
        ways.append(run + (_branches(node) if set(node) != {""} else ""))
    if not ways:
        return ""
    either = ways[0] if len(ways) == 1 and "" not in tree else f"(?:{'|'.join(ways)})"
    return f"{either}?" if "" in tree else either
