"""The model of noise: the same bytes always, loadable by everybody, and its words are text."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
import transformers

from radixserve.text.tokenizer import Tokenizer
from support.byte_tokenizer import IM_END_ID, VOCAB_SIZE, write_byte_tokenizer
from support.noise_model import write_noise_model

GOLDEN = "514858432ec5975742be4aac53e29005a8d7c5174af72374ec7edb846183ea08"
"""SHA-256 of its weights."""


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("noise")
    write_noise_model(directory)
    return directory


def test_its_bytes_are_always_the_same(noise: Path) -> None:
    assert hashlib.sha256((noise / "model.safetensors").read_bytes()).hexdigest() == GOLDEN


def test_transformers_loads_it_and_its_words_are_printable(noise: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(noise)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    tokenizer = Tokenizer.from_dir(noise)
    prompt = tokenizer.encode_chat([{"role": "user", "content": "Who are you?"}])
    torch.manual_seed(0)
    with torch.no_grad():
        answers = model.generate(torch.tensor([prompt] * 32), max_new_tokens=150)
    lengths = []
    for answer in answers[:, len(prompt) :].tolist():
        length = answer.index(IM_END_ID) if IM_END_ID in answer else len(answer)
        lengths.append(length)
        assert all(byte == 10 or 32 <= byte < 127 for byte in answer[:length])
    assert 20 < sum(lengths) / len(lengths) < 100
    assert sum(length < 150 for length in lengths) > 20


def test_the_tokenizer_is_one_token_per_byte(noise: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_dir(noise)
    assert tokenizer.vocab_size == VOCAB_SIZE
    every = bytes(range(256))
    assert [tokenizer.token_bytes(byte) for byte in every] == [bytes([byte]) for byte in every]
    assert tokenizer.encode("aé\0 ") == list("aé\0 ".encode())
    assert tokenizer.render_chat([{"role": "user", "content": "a"}]) == (
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    )
    config = json.loads((noise / "config.json").read_text())
    assert config["vocab_size"] == VOCAB_SIZE
    assert IM_END_ID in json.loads((noise / "generation_config.json").read_text())["eos_token_id"]

    write_byte_tokenizer(tmp_path, chat_template=None, add_bos=True)
    with_bos = Tokenizer.from_dir(tmp_path)
    assert with_bos.encode("a") == [257, 97]
    assert not with_bos.has_chat_template
