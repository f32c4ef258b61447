"""One tiny checkpoint and one of noise for all tests of the engine."""

from pathlib import Path

import pytest
import torch

from support.byte_tokenizer import write_byte_tokenizer
from support.noise_model import write_noise_model
from tests.support.checkpoints import make_checkpoint


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """The matrices are tiny: more threads only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama 3 whose answers are varied and whose best logits lie far apart (``reference.py``)."""
    directory = tmp_path_factory.mktemp("engine") / "llama3"
    return make_checkpoint("llama3_rope", directory, seed=4, add_tokenizer=write_byte_tokenizer)


@pytest.fixture(scope="session")
def loose_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with flat logits, for sampling: every token is in reach of the noise."""
    directory = tmp_path_factory.mktemp("engine") / "loose"
    return make_checkpoint(
        "llama3_rope", directory, seed=4, logits_std=2.0, add_tokenizer=write_byte_tokenizer
    )


@pytest.fixture(scope="session")
def noise_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise that answers in printable ASCII."""
    directory = tmp_path_factory.mktemp("engine") / "noise"
    directory.mkdir()
    write_noise_model(directory)
    return directory
