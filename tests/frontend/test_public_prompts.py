"""From an administrator's file to what the engine is told to share."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from radixserve.demo.tokenizer import CHATML_TEMPLATE
from radixserve.errors import ConfigError, InvalidRequestError
from radixserve.text.tokenizer import Tokenizer
from radixserve_frontend.config import ServerConfig
from radixserve_frontend.public_prompts import public_prefix, read_prompts, share_prompts
from support.byte_tokenizer import write_byte_tokenizer
from tests.frontend.fake_engine import FakeEngine
from tests.text.making import byte_level_bpe, save

PROMPT = "You are a public assistant."

Maker = Callable[..., Tokenizer]


@pytest.fixture
def tokenizer_of(tmp_path: Path) -> Maker:
    """A tokenizer of bytes with a chat template."""

    def make(template: str | None) -> Tokenizer:
        write_byte_tokenizer(tmp_path, chat_template=template)
        return Tokenizer.from_dir(tmp_path)

    return make


# -- the file -------------------------------------------------------------------------------------


def test_a_text_file_is_one_prompt_and_a_json_file_several(tmp_path: Path) -> None:
    text, many = tmp_path / "prompt.txt", tmp_path / "prompts.json"
    text.write_text(' ["not JSON"]\nsecond line\n', encoding="utf-8")
    many.write_text(json.dumps(["one", "zwei ü"]), encoding="utf-8")
    assert read_prompts(str(text)) == [' ["not JSON"]\nsecond line']
    assert read_prompts(str(many)) == ["one", "zwei ü"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.json", b'{"a": "b"}', "a list of strings"),
        ("p.json", b'["a", 1]', "a list of strings"),
        ("p.json", b'["a"', "cannot be read"),
        ("p.json", b'["a", " "]', "prompt 2 of .* has no text"),
        ("p.txt", b"\n", "has no text"),
        ("p.txt", b"\xff\xfe", "cannot be read"),
    ],
)
def test_what_is_no_prompt_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_prompts(str(path))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.txt cannot be read"):
        read_prompts(str(tmp_path / "nowhere.txt"))
    with pytest.raises(ConfigError, match="public_prompts is empty"):
        ServerConfig(public_prompts="")


# -- what is shared of a prompt -------------------------------------------------------------------

TEMPLATES = {
    "chatml": CHATML_TEMPLATE,
    "system inside the first turn": (
        "{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
        "{% set messages = messages[1:] %}{% endif %}{% for m in messages %}[INST] "
        "{% if loop.first and system %}{{ system }}\n\n{% endif %}{{ m.content }} [/INST]"
        "{% endfor %}"
    ),
    "trims": "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}<assistant>",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_it_ends_where_users_begin(tokenizer_of: Maker, template: str) -> None:
    tokenizer = tokenizer_of(template)
    prefix = public_prefix(tokenizer, PROMPT)
    system: list[dict[str, Any]] = [{"role": "system", "content": PROMPT}]
    for question in ("What?", "?", "who", "", "a" * 300):
        messages = [*system, {"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(messages)
        assert prompt.ids[: len(prefix)] == prefix
        # Every token of a byte is one byte, and special ones their text.
        text = tokenizer.decode(prefix, skip_special_tokens=False)
        assert prompt.text[len(text) :].startswith(question)
        assert PROMPT in text


def test_what_joins_with_a_users_first_letters_costs_one_token(tmp_path: Path) -> None:
    """In "user: The" the space belongs to "The": whoever begins so shares what comes before."""
    directory = save(
        byte_level_bpe(),
        tmp_path / "bpe",
        chat_template="{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}",
    )
    tokenizer = Tokenizer.from_dir(directory)
    prefix = public_prefix(tokenizer, PROMPT)
    shared = []
    for question in ("Hi", "Quick", "The fox", "日本"):
        ids = tokenizer.apply_chat_template(
            [{"role": "system", "content": PROMPT}, {"role": "user", "content": question}]
        ).ids
        differing = [at for at, token in enumerate(prefix) if ids[at] != token]
        shared.append(differing[0] if differing else len(prefix))
    assert min(shared) == len(prefix) - 1
    assert max(shared) == len(prefix)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "no default chat template"),
        (
            "{% for m in messages %}{% if m.role == 'system' %}"
            "{{ raise_exception('no system here') }}{% endif %}{{ m.content }}{% endfor %}",
            "no system here",
        ),
        (
            "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
            "does not put a system message before",
        ),
        (
            "{% for m in messages | reverse %}<{{ m.role }}>{{ m.content }}{% endfor %}",
            "does not put a system message before",
        ),
    ],
)
def test_templates_that_cannot_share_are_refused(
    tokenizer_of: Maker, template: str | None, message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        public_prefix(tokenizer_of(template), PROMPT)


# -- telling the engine ---------------------------------------------------------------------------


async def test_the_engine_is_told_of_all_and_the_log_how_many(
    tokenizer_of: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    engine = FakeEngine()
    engine.tokenizer = tokenizer_of(CHATML_TEMPLATE)
    with caplog.at_level(logging.INFO, "radixserve_frontend"):
        share_prompts(engine, [PROMPT, "Another."])
    expected = [public_prefix(engine.tokenizer, text) for text in (PROMPT, "Another.")]
    assert engine.public_prefixes == expected
    (line,) = caplog.messages
    assert line == f"2 public prompts, {sum(map(len, expected))} tokens, are shared by all"


async def test_a_prompt_that_no_context_has_room_for_ends_the_start(tokenizer_of: Maker) -> None:
    engine = FakeEngine()
    engine.tokenizer = tokenizer_of(CHATML_TEMPLATE)
    with pytest.raises(ConfigError, match="public_prompts cannot be used with this model"):
        share_prompts(engine, [PROMPT * 400])
    assert engine.public_prefixes == []
