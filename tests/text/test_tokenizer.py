"""Text to ids and back: what transformers does, no more BOS than one, and odd input."""

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from radixserve.errors import CheckpointError, InvalidRequestError, UnsupportedModelError
from radixserve.text.tokenizer import Tokenizer
from support.byte_tokenizer import write_byte_tokenizer
from tests.text.making import byte_level_bpe, save

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Zwölf Boxkämpfer? 😀"},
]


@pytest.fixture(params=["byte_level", "sentencepiece"], scope="module")
def both(request: pytest.FixtureRequest) -> tuple[Tokenizer, Any]:
    """Our tokenizer, and transformers' own of the same checkpoint."""
    directory = request.getfixturevalue(f"{request.param}_dir")
    theirs = transformers.AutoTokenizer.from_pretrained(str(directory))
    return request.getfixturevalue(request.param), theirs


@settings(deadline=None)
@given(text=st.text(st.characters(codec="utf-8"), max_size=60))
def test_encodes_and_decodes_as_transformers(both: tuple[Tokenizer, Any], text: str) -> None:
    ours, theirs = both
    ids = ours.encode(text)
    assert ids == theirs.encode(text)
    assert ids[0] == ours.bos_token_id
    assert ours.encode(text, add_special_tokens=False) == ids[1:]
    for skip in (False, True):
        assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(
            ids, skip_special_tokens=skip
        )


def test_a_rendered_chat_has_one_bos(both: tuple[Tokenizer, Any]) -> None:
    ours, theirs = both
    ids = ours.encode_chat(CHAT)
    assert [token_id == ours.bos_token_id for token_id in ids].count(True) == 1
    assert ids[0] == ours.bos_token_id
    # Special tokens that the template spells out are those tokens.
    assert ids.count(ours.eos_token_ids[0]) == len(CHAT)
    assert ids == theirs.apply_chat_template(CHAT, add_generation_prompt=True)["input_ids"]
    assert ours.render_chat(CHAT, add_generation_prompt=False) == theirs.apply_chat_template(
        CHAT, tokenize=False
    )


def test_a_bos_that_the_user_repeats_is_encoded_as_it_stands(byte_level: Tokenizer) -> None:
    bos = byte_level.bos_token_id
    assert byte_level.encode("<|begin|><|begin|>")[:3] == [bos, bos, bos]


def test_properties(byte_level: Tokenizer, bytewise: Tokenizer) -> None:
    assert byte_level.vocab_size == 1 + max(byte_level.encode("two words日本"))
    assert byte_level.special_ids == {byte_level.bos_token_id, *byte_level.eos_token_ids}
    assert byte_level.has_chat_template
    assert (bytewise.vocab_size, bytewise.bos_token_id, bytewise.eos_token_ids) == (
        264,
        257,
        (259,),
    )


def test_without_special_tokens_there_are_none(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_dir(save(byte_level_bpe(), tmp_path))
    assert tokenizer.eos_token_ids == ()
    assert tokenizer.bos_token_id is None
    assert not tokenizer.has_chat_template
    with pytest.raises(InvalidRequestError, match="no default chat template") as caught:
        tokenizer.encode_chat(CHAT)
    assert "/v1/completions" in str(caught.value)
    assert "--chat-template" in str(caught.value)


def test_a_file_that_truncates_or_pads_loses_no_text_here(tmp_path: Path) -> None:
    backend = byte_level_bpe()
    backend.enable_truncation(4)
    backend.enable_padding(length=50)
    tokenizer = Tokenizer.from_dir(save(backend, tmp_path))
    text = "The quick brown fox jumps over the lazy dog, again and again."
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("text", ["", "\0", "a\0b", "<|im_end|>", "\r\n\t", "\ufffd\uffff"])
def test_odd_text_survives(bytewise: Tokenizer, text: str) -> None:
    assert bytewise.decode(bytewise.encode(text), skip_special_tokens=False) == text


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
def test_a_million_characters(request: pytest.FixtureRequest, kind: str) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(kind)
    text = "fox dog " * 125_000
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_other_threads_run_while_a_long_text_is_encoded(byte_level: Tokenizer) -> None:
    """Regression: ``encode`` of the library holds the interpreter's lock from start to end."""
    turns = 0
    encoding = threading.Thread(target=byte_level.encode, args=("fox dog " * 100_000,))
    encoding.start()
    while encoding.is_alive():
        time.sleep(0)  # offers the lock: a library that takes and keeps it ends the turns
        turns += 1
    assert turns > 100


def test_a_lone_surrogate_is_refused_with_its_place(bytewise: Tokenizer) -> None:
    assert bytewise.encode("ü\U0001f600")
    text = json.loads('"ab\\ud800c"')
    with pytest.raises(InvalidRequestError, match=r"prompt, at character 2, .*U\+D800") as caught:
        bytewise.encode(text)
    assert caught.value.param == "prompt"
    with pytest.raises(InvalidRequestError) as caught:
        bytewise.encode(text, param="input")
    assert caught.value.param == "input"


def test_a_lone_surrogate_in_a_message_is_refused_with_its_path(bytewise: Tokenizer) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "fine", "n": 1},
        {"role": "user", "content": [{"type": "text", "text": "x\udc00"}]},
    ]
    with pytest.raises(InvalidRequestError) as caught:
        bytewise.encode_chat(messages)
    assert "messages[1].content[0].text, at character 1, holds" in str(caught.value)
    assert caught.value.param == "messages"


def test_a_lone_surrogate_from_elsewhere_is_refused_too(tmp_path: Path) -> None:
    write_byte_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_dir(tmp_path, chat_template="{{ extra }}")
    with pytest.raises(InvalidRequestError, match="the conversation holds half"):
        tokenizer.encode_chat(CHAT, extra="\ud800")


def test_another_template_can_be_given(tmp_path: Path) -> None:
    write_byte_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_dir(tmp_path, chat_template="{{ messages[0].content }}!")
    assert tokenizer.render_chat(CHAT) == "Be brief.!"


def test_missing_and_torn_tokenizers_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a directory"):
        Tokenizer.from_dir(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"no tokenizer can be loaded from .*tokenizer\.json"):
        Tokenizer.from_dir(tmp_path)
    # transformers makes an empty tokenizer of this one, to which every text is nothing.
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    with pytest.raises(CheckpointError, match=r"it holds none of tokenizer\.json"):
        Tokenizer.from_dir(tmp_path)
    write_byte_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{torn")
    with pytest.raises(CheckpointError, match="no tokenizer can be loaded"):
        Tokenizer.from_dir(tmp_path)


def test_code_that_comes_with_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    save(byte_level_bpe(), tmp_path, auto_map={"AutoTokenizer": [None, "evil.Evil"]})
    (tmp_path / "evil.py").write_text("raise SystemExit('code of the checkpoint was run')")
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["tokenizer_class"] = "Evil"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="trust_remote_code"):
        Tokenizer.from_dir(tmp_path)


def test_a_tokenizer_without_a_fast_backend_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_byte_tokenizer(tmp_path)
    monkeypatch.setattr(
        transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: SimpleNamespace()
    )
    with pytest.raises(
        UnsupportedModelError, match=r"SimpleNamespace.* save it as tokenizer\.json"
    ):
        Tokenizer.from_dir(tmp_path)
