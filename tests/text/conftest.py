"""One tokenizer of each kind, for the whole session: making them is the slow part."""

from pathlib import Path

import pytest

from radixserve.text.tokenizer import Tokenizer
from support.byte_tokenizer import write_byte_tokenizer
from tests.text.making import (
    CHAT_TEMPLATE,
    byte_level_bpe,
    metaspace_unigram,
    save,
    sentencepiece_bpe,
)


@pytest.fixture(scope="session")
def byte_level_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(
        byte_level_bpe(),
        tmp_path_factory.mktemp("byte_level"),
        bos_token="<|begin|>",
        eos_token="<|end|>",
        chat_template=CHAT_TEMPLATE,
    )


@pytest.fixture(scope="session")
def byte_level(byte_level_dir: Path) -> Tokenizer:
    return Tokenizer.from_dir(byte_level_dir)


@pytest.fixture(scope="session")
def sentencepiece_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(
        sentencepiece_bpe(),
        tmp_path_factory.mktemp("sentencepiece"),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=CHAT_TEMPLATE,
    )


@pytest.fixture(scope="session")
def sentencepiece(sentencepiece_dir: Path) -> Tokenizer:
    return Tokenizer.from_dir(sentencepiece_dir)


@pytest.fixture(scope="session")
def metaspace(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = save(metaspace_unigram(), tmp_path_factory.mktemp("metaspace"), eos_token="</s>")
    return Tokenizer.from_dir(directory)


@pytest.fixture(scope="session")
def bytewise(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """One token per byte: the noise model's."""
    directory = tmp_path_factory.mktemp("bytewise")
    write_byte_tokenizer(directory)
    return Tokenizer.from_dir(directory)
