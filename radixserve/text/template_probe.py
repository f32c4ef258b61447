"""Small conversations to try a chat template with, and what it makes of them.

    turns(1)    system | user one | assistant ...
    turns(2)    system | user one | assistant one | user two | assistant ...
                                  ^ where the second parts from the first, if it does

A conversation that the template refuses has no text. Knows nothing of caches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from radixserve.errors import InvalidRequestError
from radixserve.text.chat_template import ChatTemplate
from radixserve.text.tokenizer import Tokenizer

Message = Mapping[str, Any]

_SYSTEM: Final = {"role": "system", "content": "probe system"}
USERS: Final = ("probe one", "probe two", "probe three")
ANSWERS: Final = ("answer one", "answer two")


@dataclass(frozen=True, slots=True)
class Cut:
    """Where two turns of a conversation part: ``turn`` is the earlier prompt, ``found`` what the
    later one begins with of it."""

    found: str
    turn: str
    in_history: bool
    """Before the end of what the user has said last, not behind it."""


class Probe:
    """A template, and what it makes of small conversations."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self._tools = tools
        with_system = self.render([_SYSTEM, user(0)])
        takes_system = with_system is not None and _SYSTEM["content"] in with_system
        self.head: tuple[Message, ...] = (_SYSTEM,) if takes_system else ()
        """What conversations begin with: a system message, if the template takes one."""

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        template: ChatTemplate | None = None,
        **variables: Any,
    ) -> str | None:
        """The conversation as text; None if the template refuses it."""
        try:
            return (template or self.template).render(
                messages,
                add_generation_prompt=add_generation_prompt,
                tools=self._tools,
                variables=variables,
            )
        except InvalidRequestError:
            return None

    def turns(self, count: int) -> list[Message]:
        """A conversation that ends with its user's message number ``count``."""
        messages = [*self.head, user(0)]
        for number in range(1, count):
            messages += [answer(ANSWERS[number - 1]), user(number)]
        return messages

    def cut(self, **variables: Any) -> Cut | None:
        """Where a turn is not what the next one begins with, if there is such a place; the one in
        history, if one is."""
        tails: list[Cut] = []
        for count in range(1, len(USERS)):
            now = self.render(self.turns(count), **variables)
            then = self.render(self.turns(count + 1), **variables)
            if now is None or then is None or USERS[count - 1] not in now:
                continue
            found = agreement(now, then)
            end = now.rindex(USERS[count - 1]) + len(USERS[count - 1])
            if len(found) < end:
                return Cut(found, now, in_history=True)
            # Also an answer that is shown with something before it which was not there.
            before, _, _ = then[len(found) :].partition(ANSWERS[count - 1])
            if len(found) < len(now) or before.strip():
                tails.append(Cut(found, now, in_history=False))
        return tails[0] if tails else None

    def num_tokens(self, text: str) -> int:
        return len(self.tokenizer.encode(text, add_special_tokens=False))


def agreement(first: str, *others: str) -> str:
    """What all texts begin with."""
    for number, chars in enumerate(zip(first, *others, strict=False)):
        if len(set(chars)) > 1:
            return first[:number]
    return min(first, *others, key=len)


def user(number: int) -> Message:
    return {"role": "user", "content": USERS[number]}


def answer(content: str, **fields: Any) -> Message:
    return {"role": "assistant", "content": content, **fields}
