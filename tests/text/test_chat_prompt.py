"""Conversations as prompts: continued answers, calls of tools, variables, formats."""

from pathlib import Path
from typing import Any

import pytest

from radixserve.config import EngineConfig
from radixserve.errors import InvalidRequestError
from radixserve.text.chat_formats import REASONING_FORMAT_NAMES, TOOL_FORMAT_NAMES
from radixserve.text.chat_template import ChatTemplate
from radixserve.text.tokenizer import Tokenizer
from tests.text.making import byte_level_bpe, save

CHATML = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</{{ m.role }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
PARTS = "{% for m in messages %}[{% for p in m.content %}{{ p.text }}{% endfor %}]{% endfor %}"
TURNS: list[dict[str, Any]] = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": " Once upon "},
]


def render(source: str, messages: Any = TURNS, **options: Any) -> str:
    template = ChatTemplate(source, special_tokens={"bos_token": "<s>"})
    return template.render(messages, **options)


@pytest.mark.parametrize(
    ("content", "end"),
    [
        (" Once upon ", "Once upon "),
        ("", ""),
        (None, ""),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b "}], "a\nb "),
    ],
)
def test_a_continued_answer_ends_where_its_content_does(content: Any, end: str) -> None:
    turns = [TURNS[0], {"role": "assistant", "content": content}]
    assert render(CHATML, turns, continues_last=True) == f"<user>hi</user><assistant>{end}"


def test_a_continued_answer_in_parts() -> None:
    assert render(PARTS, continues_last=True) == "[hi][ Once upon "


def test_an_answer_that_a_template_does_not_show_cannot_be_continued() -> None:
    with pytest.raises(InvalidRequestError, match="cannot be continued"):
        render("{{ messages[0].content }}", continues_last=True)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ('{"city":"Köln","n":[1]}', '{"city": "Köln", "n": [1]}'),
        ({"city": "Köln"}, '{"city": "Köln"}'),
        ('{"city": ', '"{\\"city\\": "'),
        ("[1]", '"[1]"'),
        ("[" * 100_000, '"' + "[" * 100_000 + '"'),
    ],
)
def test_arguments_of_calls_are_objects_where_they_can_be(arguments: Any, shown: str) -> None:
    calls = [{"id": "x", "type": "function", "function": {"name": "f", "arguments": arguments}}]
    turns = [{"role": "assistant", "content": None, "tool_calls": calls}]
    source = "{{ messages[0].tool_calls[0].function.arguments | tojson }}"
    assert render(source, turns) == shown


def test_names_that_a_template_looks_for() -> None:
    template = ChatTemplate(
        "{% if tools %}{{ enable_thinking }}{% endif %}{% set x = 1 %}{{ x }}", special_tokens={}
    )
    assert template.variables == {"tools", "enable_thinking"}


@pytest.mark.parametrize(
    "name", ["messages", "tools", "add_generation_prompt", "bos_token", "range", "_x", "namespace"]
)
def test_names_that_mean_something_else_are_not_for_requests(name: str) -> None:
    template = ChatTemplate(CHATML, special_tokens={"bos_token": "<s>"})
    template.check_variables({"enable_thinking": True, "documents": []})
    with pytest.raises(InvalidRequestError) as caught:
        template.check_variables({name: 1})
    assert caught.value.param == "chat_template_kwargs"


def test_a_tokenizer_tells_how_its_answers_are_written(tmp_path: Path) -> None:
    directory = save(
        byte_level_bpe(),
        tmp_path,
        chat_template=[
            {"name": "default", "template": CHATML + "{{ thinking }}"},
            {"name": "tool_use", "template": CHATML + "{{ tools }}<tool_call></think>"},
        ],
    )
    tokenizer = Tokenizer.from_dir(directory)
    assert tokenizer.chat_formats(with_tools=False).tools is None
    assert not tokenizer.chat_formats(with_tools=False).thinks
    formats = tokenizer.chat_formats(with_tools=True)
    assert formats.tools is not None
    assert formats.tools.name == "hermes"
    assert formats.thinks
    prompt = tokenizer.apply_chat_template(TURNS, continues_last=True)
    assert prompt.text == "<user>hi</user><assistant>Once upon "
    assert tokenizer.decode(prompt.ids, skip_special_tokens=False) == prompt.text
    with pytest.raises(InvalidRequestError):
        tokenizer.apply_chat_template(TURNS, variables={"messages": []})

    other = Tokenizer.from_dir(directory, tool_format="mistral", reasoning_format="none")
    formats = other.chat_formats(with_tools=True)
    assert formats.tools is not None
    assert formats.tools.name == "mistral"
    assert not formats.thinks


def test_special_tokens_by_name(byte_level: Tokenizer) -> None:
    special = byte_level.vocabulary.special_tokens
    assert set(special) == {"<|begin|>", "<|end|>"}
    assert frozenset(special.values()) == byte_level.special_ids


def test_the_settings_choices_are_the_formats() -> None:
    fields = EngineConfig.__dataclass_fields__
    assert fields["tool_format"].metadata["choices"] == TOOL_FORMAT_NAMES
    assert fields["reasoning_format"].metadata["choices"] == REASONING_FORMAT_NAMES
