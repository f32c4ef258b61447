"""Marks are prefixes of the prompt, found with the checkpoint's own template and tokenizer."""

from pathlib import Path
from typing import Any

import pytest

from radixserve.demo.tokenizer import CHATML_TEMPLATE
from radixserve.errors import InvalidRequestError
from radixserve.ids import DEFAULT_NAMESPACE, Namespace
from radixserve.sampling.params import SamplingParams
from radixserve.text.token_memory import TokenMemory
from radixserve.text.tokenizer import Tokenizer
from radixserve.types import PrefixMark
from radixserve_frontend.breakpoints import (
    Breakpoint,
    check_breakpoints,
    conversation_hints,
    cut_after,
)
from radixserve_frontend.conversation import Conversation, prepare_chat
from support.byte_tokenizer import write_byte_tokenizer
from tests.frontend.fake_engine import FakeEngine
from tests.frontend.http_calls import chat, error_of

MAX_BYTES = 2**20
PARAMS = SamplingParams()

SYSTEM: dict[str, Any] = {"role": "system", "content": "Be brief."}
FIRST: dict[str, Any] = {"role": "user", "content": "Hello!"}
ANSWER: dict[str, Any] = {"role": "assistant", "content": "Hi."}
SECOND: dict[str, Any] = {"role": "user", "content": "Go on."}

# Refuses what does not end with the user's turn, and forgets all answers but the last.
MOODY = """\
{%- if messages[-1]['role'] != 'user' %}{{ raise_exception('whose turn is it?') }}{% endif %}
{%- for message in messages %}
{%- if message['role'] == 'assistant' and loop.index < loop.length - 1 %}
{{- '<|im_start|>assistant\\nforgotten<|im_end|>' }}
{%- else %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}
{%- endif %}
{%- endfor %}
{{- '<|im_start|>assistant\\n' }}"""


def tokenizer_with(path: Path, template: str) -> Tokenizer:
    path.mkdir()
    write_byte_tokenizer(path, chat_template=template)
    return Tokenizer.from_dir(path)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tokenizer_with(tmp_path_factory.mktemp("breakpoints") / "plain", CHATML_TEMPLATE)


@pytest.fixture(scope="module")
def moody(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tokenizer_with(tmp_path_factory.mktemp("breakpoints") / "moody", MOODY)


def marked(tokenizer: Tokenizer, messages: list[dict[str, Any]], *cuts: Any) -> list[str]:
    """The texts of the prefixes that cutting after these messages marks."""
    conversation = Conversation(messages=messages)
    memory = TokenMemory(tokenizer, MAX_BYTES)
    chat = prepare_chat(memory, DEFAULT_NAMESPACE, conversation, SamplingParams())
    prompt_ids = chat.prompt_ids
    breakpoints = [Breakpoint(cut, 1.0 + place) for place, cut in enumerate(cuts)]
    hints = conversation_hints(memory, DEFAULT_NAMESPACE, conversation, prompt_ids, breakpoints)
    assert not hints.returns_soon
    assert [mark.keep_s for mark in hints.marks] == [1.0 + place for place in range(len(cuts))]
    return [
        tokenizer.decode(prompt_ids[: mark.num_tokens], skip_special_tokens=False)
        for mark in hints.marks
    ]


def test_a_mark_ends_where_the_next_turn_begins(plain: Tokenizer) -> None:
    messages = [SYSTEM, FIRST, ANSWER, SECOND]
    texts = marked(plain, messages, [SYSTEM], messages[:2], messages[:3], None)
    system = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>"
    assert texts == [
        f"{system}user\n",
        f"{system}user\nHello!<|im_end|>\n<|im_start|>assistant\n",
        f"{system}user\nHello!<|im_end|>\n<|im_start|>assistant\nHi.<|im_end|>\n<|im_start|>",
        f"{system}user\nHello!<|im_end|>\n<|im_start|>assistant\nHi.<|im_end|>\n<|im_start|>"
        "user\nGo on.<|im_end|>\n<|im_start|>assistant\n",
    ]


def test_a_mark_on_tools_alone_ends_where_the_first_turn_begins(plain: Tokenizer) -> None:
    assert marked(plain, [FIRST], []) == ["<|im_start|>user\n"]


def test_a_mark_inside_a_message_ends_with_its_part(plain: Tokenizer) -> None:
    parts = [{"type": "text", "text": "A document."}, {"type": "text", "text": "A question."}]
    cut = {"role": "user", "content": parts[:1]}
    (text,) = marked(plain, [{"role": "user", "content": parts}], [cut])
    assert text == "<|im_start|>user\nA document."


def test_a_template_that_rewrites_history_shortens_the_mark(moody: Tokenizer) -> None:
    more = [FIRST, ANSWER, SECOND]
    (text,) = marked(moody, [*more, ANSWER, SECOND], more)
    assert text == ("<|im_start|>user\nHello!<|im_end|><|im_start|>assistant\n")


def test_a_cut_that_cannot_be_rendered_marks_everything(moody: Tokenizer) -> None:
    messages = [FIRST, ANSWER, SECOND]
    (text,) = marked(moody, messages, messages[:2])
    assert text.endswith("Go on.<|im_end|><|im_start|>assistant\n")


def test_where_nothing_is_in_common_nothing_is_marked(tmp_path: Path) -> None:
    counting = tokenizer_with(tmp_path / "counting", "{{ messages|length }}" + CHATML_TEMPLATE)
    conversation = Conversation(messages=[FIRST, ANSWER, SECOND])
    memory = TokenMemory(counting, MAX_BYTES)
    chat = prepare_chat(memory, DEFAULT_NAMESPACE, conversation, SamplingParams())
    prompt_ids = chat.prompt_ids
    breakpoints = [Breakpoint([FIRST], 1.0), Breakpoint(None, 2.0)]
    hints = conversation_hints(memory, DEFAULT_NAMESPACE, conversation, prompt_ids, breakpoints)
    assert hints.marks == (PrefixMark(num_tokens=len(prompt_ids), keep_s=2.0),)


@pytest.mark.parametrize("namespace", ["", "another"])
def test_marks_count_in_the_tokens_of_the_prompt(tmp_path: Path, namespace: str) -> None:
    """An answer comes in the tokens that were generated; a cut behind it counts those."""
    tokenizer = tokenizer_with(tmp_path / "speaking", CHATML_TEMPLATE)
    memory = TokenMemory(tokenizer, MAX_BYTES)
    first = prepare_chat(
        memory, DEFAULT_NAMESPACE, Conversation(messages=[FIRST]), SamplingParams()
    )
    # Tokens without text: that is how these ids differ from the tokenizer's.
    nameless = tokenizer.vocab_size + 7
    memory.learn(first.tail, [*b"Hi", nameless, nameless, *b"."])
    messages = [FIRST, ANSWER, SECOND]
    chat = prepare_chat(memory, Namespace(namespace), Conversation(messages=messages), PARAMS)
    hints = conversation_hints(
        memory,
        Namespace(namespace),
        Conversation(messages=messages),
        chat.prompt_ids,
        [Breakpoint(messages[:2], 1.0)],
    )
    (mark,) = hints.marks
    marked_ids = chat.prompt_ids[: mark.num_tokens]
    text = tokenizer.decode(marked_ids, skip_special_tokens=False)
    assert text.endswith("assistant\nHi.<|im_end|>\n<|im_start|>")
    assert marked_ids.count(nameless) == (2 if namespace == "" else 0)


def test_cuts_are_safe_from_what_comes_later() -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": [1]}]
    cut = cut_after(messages)
    messages[-1]["content"].append(2)
    messages.append(SECOND)
    assert cut == [{"role": "user", "content": [1]}]
    assert cut_after([]) == []


def test_there_are_four_at_most() -> None:
    check_breakpoints([Breakpoint(None, 1.0)] * 4)
    with pytest.raises(InvalidRequestError, match="at most 4"):
        check_breakpoints([Breakpoint(None, 1.0)] * 5)


async def test_parts_of_a_chat_can_be_marked() -> None:
    engine = FakeEngine()
    marked = {"type": "text", "text": "A document.", "cache_control": {"type": "ephemeral"}}
    question = {"type": "text", "text": "Yes?"}
    system = {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": 7}}
    response = await chat(
        engine,
        messages=[
            {"role": "system", "content": [system]},
            {"role": "user", "content": ""},
            {"role": "assistant", "content": ""},
            {"role": "user", "content": [marked, question]},
        ],
    )
    assert response.status_code == 200, response.text
    head = len("system: Be brief.\nuser: ")
    between = len("\nassistant: \nuser: ")
    assert engine.submitted[0].hints.marks == (
        PrefixMark(num_tokens=head, keep_s=7.0),
        PrefixMark(num_tokens=head + between + len("A document.\n"), keep_s=300.0),
    )
    for num_marks in (5, 9):
        content = [marked] * num_marks
        many = error_of(await chat(engine, messages=[{"role": "user", "content": content}]), 400)
        assert many["param"] == "cache_control"
        # The fifth is the last one looked at: each holds all that is before it.
        assert "5 blocks" in many["message"]


async def test_a_mark_before_calls_does_not_reach_them() -> None:
    engine = FakeEngine()
    marked = {"type": "text", "text": "Let me see.", "cache_control": {"type": "ephemeral"}}
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    said = {"role": "assistant", "content": [marked], "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "1", "content": "x"}
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    response = await chat(engine, messages=[said, result], tools=[tool])
    assert response.status_code == 200, response.text
    (mark,) = engine.submitted[0].hints.marks
    prompt = engine.submitted[0].prompt
    assert prompt[: mark.num_tokens].endswith("assistant: Let me see.\n")
