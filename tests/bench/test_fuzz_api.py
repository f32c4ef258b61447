"""The fuzzer of the API, for a moment: no answer is the server's fault, and nothing is left."""

import re
import sys
from pathlib import Path

import pytest

import fuzz_api
from tests.support.own_cache import own_cache


@pytest.mark.skipif(sys.platform != "linux", reason="the harness looks into /proc")
def test_for_a_moment(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in own_cache(tmp_path).items():
        monkeypatch.setenv(name, value)
    status = fuzz_api.main(["--cases", "150", "--seed", "1"])
    said = capsys.readouterr().out
    assert status == 0, said
    answers = re.search(r"^(\d+) answers .*200: (\d+)", said, re.MULTILINE)
    assert answers is not None, said
    assert int(answers[1]) > 100
    assert int(answers[2]) > 10, "too few of the cases were accepted to say anything"
