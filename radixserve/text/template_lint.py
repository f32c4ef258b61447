"""What a chat template does to the prefix cache, found out at start by rendering probes.

A cache of prefixes pays off because a conversation's next turn begins with all that was computed in
the turn before. Many templates see to it that it does not:

    turn 1    system | user one | assistant <think> hm </think> Yes.
    turn 2    system | user one | assistant Yes. | user two | assistant ...
                                            ^ from here on everything is computed again

Nothing is wrong with the answers then; they come later, and nobody knows why. So a server says it
once, when it starts: what the template does, what that costs, what helps.

Each probe is a conversation of a few words (``template_probe.py``). One that a template refuses (no
tools, say) tells nothing and is passed over. Where a template takes tools by a
template of their own, that one is asked about tools. Knows no request and no engine; writes no log.

*Cost*: about thirty renderings of a hundred characters each: milliseconds.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from radixserve.text.chat_template import ChatTemplate
from radixserve.text.reasoning import THINK_CLOSE, THINK_OPEN
from radixserve.text.template_probe import ANSWERS, USERS, Cut, Probe, agreement, answer, user
from radixserve.text.tokenizer import Tokenizer

FindingKind = Literal[
    "thinking", "history", "trimmed", "generation_prompt", "dated", "toggled", "tools"
]

_REWRITING: Final[frozenset[FindingKind]] = frozenset(
    {"thinking", "history", "trimmed", "generation_prompt", "tools"}
)

_THOUGHT: Final = "probe thought"
_LEADING: Final = "\n\n  probe leading"
_TRAILING: Final = "probe trailing  \n\n"
_TOOL_NAME: Final = "probe_tool"
_TOOLS: Final = (
    {
        "type": "function",
        "function": {
            "name": _TOOL_NAME,
            "description": "A probe.",
            "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}},
        },
    },
)
_CALL: Final[dict[str, Any]] = {
    "id": "probe0001",
    "type": "function",
    "function": {"name": _TOOL_NAME, "arguments": '{"x": 1}'},
}
_TOGGLES: Final[Mapping[str, tuple[Any, ...]]] = {
    "enable_thinking": (True, False),
    "thinking": (True, False),
    "reasoning_effort": ("low", "high"),
}
"""What requests set to switch thinking, and to what."""

_NOW: Final = datetime(2001, 2, 3, 4, 5, 6)
_LATER: Final = (
    (_NOW.replace(second=47), "every second"),
    (_NOW.replace(hour=19, minute=38), "in the course of a day"),
    (datetime(2033, 11, 28, 19, 38, 47), "every day"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that a template does to the cache, in sentences without a full stop."""

    kind: FindingKind
    what: str
    cost: str
    remedy: str


def lint(tokenizer: Tokenizer) -> tuple[Finding, ...]:
    """What the tokenizer's chat template does to the cache; nothing if it has none, or if the
    template leaves alone what it has once shown."""
    if not tokenizer.has_chat_template:
        return ()
    plain = Probe(tokenizer, tokenizer.chat_template(with_tools=False))
    with_tools = Probe(tokenizer, tokenizer.chat_template(with_tools=True), tools=_TOOLS)
    thinking = _find_thinking(plain)
    found = [thinking, _find_history(plain), _find_moving_tools(plain, with_tools)]
    found += [_find_generation_prompt(plain, strips_thinking=thinking is not None)]
    found += [_find_trimming(plain), _find_toggling(plain), _find_date(plain)]
    return tuple(finding for finding in found if finding is not None)


def rewrites(findings: Collection[Finding], content: str) -> bool:
    """Whether a conversation may go on with something else than what was computed, its last answer
    having this content."""
    kinds = {finding.kind for finding in findings} & _REWRITING
    return bool(kinds - {"trimmed"}) or ("trimmed" in kinds and content != content.strip())


def cost_every_conversation(findings: Collection[Finding]) -> bool:
    """Whether one of them is more than trimming, which most templates do and few answers feel."""
    return any(finding.kind != "trimmed" for finding in findings)


def describe(findings: Sequence[Finding]) -> str:
    """All findings as one text for the log."""
    lines = ["the chat template makes less of a conversation be found in the cache:"]
    for number, finding in enumerate(findings, start=1):
        lines.append(f"  {number}. {finding.what}.")
        lines.append(f"     Cost: {finding.cost}.")
        lines.append(f"     Remedy: {finding.remedy}.")
    return "\n".join(lines)


def _find_thinking(probe: Probe) -> Finding | None:
    """Is the thinking of earlier turns left out?"""
    if probe.tokenizer.chat_formats(with_tools=False).thinks:
        # Clients get it apart from the answer, and send it so or not at all.
        told = answer(ANSWERS[0], reasoning_content=_THOUGHT)
    else:
        told = answer(f"{THINK_OPEN}\n{_THOUGHT}\n{THINK_CLOSE}\n\n{ANSWERS[0]}")
    earlier = probe.render([*probe.head, user(0), told, user(1)])
    if earlier is None or ANSWERS[0] not in earlier or _THOUGHT in earlier:
        return None
    result = {"role": "tool", "tool_call_id": _CALL["id"], "name": _TOOL_NAME, "content": "result"}
    calling = {**told, "tool_calls": [_CALL]}
    latest = probe.render([*probe.head, user(0), calling, result])
    if latest is None or "result" not in latest:
        latest = probe.render([*probe.head, user(0), told], add_generation_prompt=False)
    which = "every turn before the last question"
    if latest is None or _THOUGHT not in latest:
        which = "every earlier turn"
    return Finding(
        kind="thinking",
        what=f"The thinking of {which} is left out when the conversation goes on",
        cost=(
            "what was computed of an answer is found again only up to where its thinking began; "
            "the rest of it, all tokens but the thinking, is computed once more in the next turn"
        ),
        remedy=(
            "--prefill-ahead, which is on by default, computes it while the server is idle; a "
            "template that keeps thinking (--chat-template) needs none of it"
        ),
    )


def _find_history(probe: Probe) -> Finding | None:
    """Does a turn change when another one follows?"""
    cut = probe.cut()
    if cut is None or not cut.in_history:
        return None
    return Finding(
        kind="history",
        what=(
            "Earlier turns are written anew when another one follows (a system message that moves, "
            "a mark on the last message, a count)"
        ),
        cost=_cost_of(probe, cut),
        remedy="a template that only appends (--chat-template)",
    )


def _find_moving_tools(plain: Probe, probe: Probe) -> Finding | None:
    """Do tools move along with the last message?"""
    shown = probe.render(probe.turns(1))
    if shown is None or _TOOL_NAME not in shown:
        return None
    cut, without = probe.cut(), plain.cut()
    if cut is None or not cut.in_history or (without is not None and without.in_history):
        return None
    return Finding(
        kind="tools",
        what="Tools are written next to the last message, and so move with every turn",
        cost=f"in conversations with tools, {_cost_of(probe, cut)}",
        remedy="a template that writes tools at the beginning (--chat-template)",
    )


def _find_generation_prompt(probe: Probe, *, strips_thinking: bool) -> Finding | None:
    """Is what the prompt ends with, for the answer to follow, not how the answer is shown later?"""
    cuts = [
        (variables, cut)
        for variables in ({}, *_settings(probe.template))
        if (cut := probe.cut(**variables)) is not None and not cut.in_history
    ]
    if strips_thinking:
        # That the prompt opens the thinking, and history does not, has been said.
        cuts = [(variables, cut) for variables, cut in cuts if not _opens_thinking(cut)]
    if not cuts:
        return None
    when = ""
    if {} not in [variables for variables, _ in cuts]:
        names = [f"{name}={value!r}" for each, _ in cuts for name, value in each.items()]
        when = f" (with {', '.join(names)})"
    _, cut = cuts[0]
    return Finding(
        kind="generation_prompt",
        what=(
            f"The prompt ends with {cut.turn[len(cut.found) :][:60]!r}{when}, which is not there "
            "when the answer is shown later"
            if len(cut.found) < len(cut.turn)
            else f"An answer is shown later with something before it that was not there{when}"
        ),
        cost="every answer is computed once more in the next turn, all its tokens",
        remedy=(
            "--prefill-ahead, which is on by default, does so while the server is idle; a template "
            "that shows answers as they were given (--chat-template) needs none of it"
        ),
    )


def _find_trimming(probe: Probe) -> Finding | None:
    """Do answers lose the white space at their ends?"""
    lost = []
    for content, place in ((_LEADING, "begins"), (_TRAILING, "ends")):
        shown = probe.render([*probe.head, user(0), answer(content), user(1)])
        if shown is not None and content.strip() in shown and content not in shown:
            lost.append(place)
    if not lost:
        return None
    return Finding(
        kind="trimmed",
        what=f"An answer that {' or '.join(lost)} with white space loses it when it is shown later",
        cost=(
            "such an answer is computed once more in the next turn: all of it, if it begins so; "
            "its last tokens, if it ends so"
        ),
        remedy="--prefill-ahead, which is on by default, does so while the server is idle",
    )


def _find_toggling(probe: Probe) -> Finding | None:
    """Does the head change when thinking is switched?"""
    texts = {
        repr(variables): text
        for variables in ({}, *_settings(probe.template))
        if (text := probe.render(probe.turns(2), **variables)) is not None and USERS[0] in text
    }
    if len(texts) < 2:
        return None
    shared = agreement(*texts.values())
    if len(shared) >= min(text.index(USERS[0]) for text in texts.values()):
        return None
    names = sorted(_TOGGLES.keys() & probe.template.variables)
    return Finding(
        kind="toggled",
        what=f"What {' and '.join(names)} is set to changes the beginning of the conversation",
        cost=(
            f"when it is switched nothing behind the first {probe.num_tokens(shared)} tokens is "
            "found, whatever the conversation's length; nor between requests that differ in it"
        ),
        remedy="leave it as it is within a conversation, and the same for all where possible",
    )


def _find_date(probe: Probe) -> Finding | None:
    """Does the time of day or the date get into the prompt?"""
    if "strftime_now" not in probe.template.source:
        return None
    now = _at(probe, _NOW)
    if now is None:
        return None
    for moment, how_often in _LATER:
        text = _at(probe, moment)
        if text is not None and text != now:
            num_tokens = probe.num_tokens(agreement(now, text))
            return _dated(probe.template, num_tokens, how_often)
    return None


def _at(probe: Probe, moment: datetime) -> str | None:
    """A conversation as it is rendered then."""
    return probe.render(probe.turns(1), template=probe.template.at(lambda: moment))


def _dated(template: ChatTemplate, num_tokens: int, how_often: str) -> Finding:
    names = sorted(name for name in template.variables if "date" in name.lower())
    fixed = (
        f"a fixed one sent along (chat_template_kwargs with {' or '.join(names)}), or a"
        if names
        else "a"
    )
    return Finding(
        kind="dated",
        what=f"The prompt holds the time, and changes {how_often}",
        cost=(
            f"nothing behind the first {num_tokens} tokens is found once it has changed: running "
            "conversations, documents and public prompts are computed anew"
        ),
        remedy=f"{fixed} template without it (--chat-template)",
    )


def _settings(template: ChatTemplate) -> Iterator[dict[str, Any]]:
    """What requests may set to switch thinking, one thing at a time, where the template looks."""
    for name, values in _TOGGLES.items():
        if name in template.variables:
            for value in values:
                yield {name: value}


def _opens_thinking(cut: Cut) -> bool:
    return cut.turn[len(cut.found) :].strip().endswith(THINK_OPEN)


def _cost_of(probe: Probe, cut: Cut) -> str:
    found, turn = probe.num_tokens(cut.found), probe.num_tokens(cut.turn)
    return (
        f"a turn finds of the one before only what comes before the change ({found} of {turn} "
        "tokens in a small probe); the rest of the history is computed again in each turn"
    )
