"""Trainings of a second or two, for the tests of the demo model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from radixserve.demo import training
from tests.support.tiny_training import begin


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Products this small are slower with two, and far slower where another process wants one."""
    with _threads(1):
        yield


def _look_often(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(training, "NUM_EXAMINATIONS", 3)
    patch.setattr(training, "LOG_EVERY", 1)
    patch.setattr(training, "PER_CELL", 2)


@pytest.fixture
def few_examinations(monkeypatch: pytest.MonkeyPatch) -> None:
    """As short a training can bear; and every step is logged."""
    _look_often(monkeypatch)


@pytest.fixture(scope="package")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a training from the first step to the last. For reading only."""
    directory = tmp_path_factory.mktemp("unbroken") / "run"
    with pytest.MonkeyPatch.context() as patch, _threads(1):
        _look_often(patch)
        begin(directory).run(progress=False)
    return directory
