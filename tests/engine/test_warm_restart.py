"""Prefixes that outlive the engine that computed them: found again, proven, or computed anew.

The reference is transformers (``reference.py``): whatever lies in the directory, the answers are
its.
"""

import asyncio
import gc
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from radixserve import LLM, SamplingParams
from radixserve.config import EngineConfig
from radixserve.engine.async_engine import AsyncEngine
from radixserve.errors import ConfigError
from radixserve.ids import DEFAULT_NAMESPACE, Namespace
from radixserve.llm import RequestOutput
from radixserve.model.config import ModelConfig
from radixserve.model.fingerprint import fingerprint
from radixserve.tiers.page_names import PageNamer
from radixserve.types import TierInfo
from tests.engine.reference import SMALLEST_GAP, Reference, transformers_greedy

PAGE_SIZE: Final = 4
NUM_PROMPT: Final = 122
NUM_CACHED: Final = 120
"""All whole pages of a prompt but its last token."""
NUM_FILES: Final = 32
"""Whole pages of a prompt and its answer, less the last token."""
GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
SETTINGS: dict[str, Any] = {
    "device": "cpu",
    "dtype": "float32",
    "page_size": PAGE_SIZE,
    "num_pages": 64,
    "max_model_len": 200,
    "num_threads": 1,
}


def draw(seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (NUM_PROMPT,), generator=generator).tolist()


PROMPTS = [draw(seed) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def reference(tiny_dir: Path) -> Reference:
    found = transformers_greedy(tiny_dir, PROMPTS, 8)
    assert found.smallest_gap > SMALLEST_GAP, "choose other seeds: this tests rounding"
    return found


@pytest.fixture(scope="module")
def filled(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which an engine has kept the first prompt. Not to be changed: ``kept``."""
    directory = tmp_path_factory.mktemp("filled") / "cache"
    with open_llm(tiny_dir, directory) as llm:
        assert report_of(ask(llm, PROMPTS[0])) == (0, 0, NUM_PROMPT)
    assert len(files_of(directory)) == NUM_FILES
    return directory


@pytest.fixture
def kept(filled: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(filled, tmp_path / "cache"))


def open_llm(model: Path, directory: Path, **settings: Any) -> LLM:
    return LLM(str(model), **{**SETTINGS, "cache_dir": str(directory), **settings})


def ask(llm: LLM, prompt: Sequence[int], namespace: Namespace = DEFAULT_NAMESPACE) -> RequestOutput:
    return llm.generate([prompt], GREEDY, namespace=namespace)[0]


def report_of(output: RequestOutput) -> tuple[int, int, int]:
    """Prompt tokens that were loaded from host memory, from files, and computed."""
    report = output.cache_report
    assert report.host_tokens + report.disk_tokens + report.computed_tokens == NUM_PROMPT
    assert output.num_cached_tokens == report.host_tokens + report.disk_tokens
    return report.host_tokens, report.disk_tokens, report.computed_tokens


def files_of(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*.safetensors"))


def tiers_of(llm: LLM) -> TierInfo:
    tiers = llm.stats().tiers
    assert tiers is not None
    return tiers


def test_a_restart_finds_what_was_computed_before(
    tiny_dir: Path, kept: Path, reference: Reference
) -> None:
    with open_llm(tiny_dir, kept) as llm:
        assert llm.info.cache_dir == str(kept)
        foreseen = llm.explain(PROMPTS[0])
        assert (foreseen.matched_tokens, foreseen.disk_tokens) == (0, NUM_CACHED)
        assert foreseen.host_tokens == 0
        first = ask(llm, PROMPTS[0])
        assert report_of(first) == (0, NUM_CACHED, NUM_PROMPT - NUM_CACHED)
        assert first.token_ids == reference.tokens[0]
        assert first.cache_report.cause == "whole_pages"
        stats = llm.stats()
        assert (stats.disk_tokens, stats.computed_tokens) == (NUM_CACHED, 2 + 7)
        # Then it is in the tree like any other.
        again = ask(llm, PROMPTS[0])
        assert again.cache_report.device_tokens == NUM_PROMPT - 1
        assert again.token_ids == reference.tokens[0]
        explained = llm.explain(PROMPTS[0])
        assert (explained.matched_tokens, explained.disk_tokens) == (NUM_PROMPT - 1, 0)
        llm.check_invariants()


def test_a_directory_may_be_given_as_a_path(tiny_dir: Path, kept: Path) -> None:
    """Regression: what the engine's information calls a text was a path."""
    with LLM(str(tiny_dir), cache_dir=kept, **SETTINGS) as llm:
        assert llm.info.cache_dir == str(kept)


def test_who_shares_a_beginning_loads_that(tiny_dir: Path, kept: Path) -> None:
    shared = PROMPTS[0][:50] + PROMPTS[1][50:]
    expected = transformers_greedy(tiny_dir, [shared], 8)
    assert expected.smallest_gap > SMALLEST_GAP
    with open_llm(tiny_dir, kept) as llm:
        found = ask(llm, shared)
    assert report_of(found) == (0, 48, NUM_PROMPT - 48)
    assert found.token_ids == expected.tokens[0]


@pytest.mark.parametrize("change", ["weights", "rope", "dtype", "page_size", "namespace"])
def test_what_was_computed_otherwise_is_not_found(
    change: str, tiny_dir: Path, kept: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny_dir, tmp_path / "model"))
    settings: dict[str, Any] = {}
    namespace = DEFAULT_NAMESPACE
    match change:
        case "weights":
            tensors = load_file(model / "model.safetensors")
            tensors["model.norm.weight"][0] *= 1.5
            save_file(tensors, model / "model.safetensors", {"format": "pt"})
        case "rope":
            config = json.loads((model / "config.json").read_text())
            config["rope_parameters"]["factor"] = 4.0
            (model / "config.json").write_text(json.dumps(config))
        case "dtype":
            settings["dtype"] = "bfloat16"
        case "page_size":
            settings["page_size"] = 2 * PAGE_SIZE
        case "namespace":
            namespace = Namespace("another")
    with open_llm(model, kept, **settings) as llm:
        assert report_of(ask(llm, PROMPTS[0], namespace)) == (0, 0, NUM_PROMPT)
        assert tiers_of(llm).rejected_files == 0, "it was not even looked at"
    # And it has taken nothing away from the others.
    with open_llm(tiny_dir, kept) as llm:
        assert report_of(ask(llm, PROMPTS[0])) == (0, NUM_CACHED, NUM_PROMPT - NUM_CACHED)


def file_of(model: Path, directory: Path, page: int) -> Path:
    """That of one page of the first prompt."""
    config = ModelConfig.from_dir(model)
    mark = fingerprint(model, config, dtype="float32", page_size=PAGE_SIZE, progress=False)
    tokens = np.array(PROMPTS[0], dtype=np.int32)
    name = PageNamer(mark, PAGE_SIZE).chain(DEFAULT_NAMESPACE, tokens).name(page)
    (path,) = directory.rglob(f"{name.hex()}.safetensors")
    return path


def flip(path: Path, place: float) -> None:
    blob = bytearray(path.read_bytes())
    blob[int(place * len(blob))] ^= 4
    path.write_bytes(blob)


def another_page(path: Path) -> None:
    other = next(other for other in files_of(path.parent) if other != path)
    shutil.copy(other, path)


DAMAGES: list[tuple[str, Callable[[Path], object]]] = [
    ("a bit of a key or value", lambda path: flip(path, 0.7)),
    ("a bit of the header", lambda path: flip(path, 0.02)),
    ("torn", lambda path: os.truncate(path, path.stat().st_size // 2)),
    ("empty", lambda path: os.truncate(path, 0)),
    ("another page", another_page),
]


def test_damaged_files_are_skipped_and_logged(
    tiny_dir: Path, kept: Path, reference: Reference, caplog: pytest.LogCaptureFixture
) -> None:
    """What lies behind a page that cannot be used is computed, and that page kept again."""
    for page, (name, damage) in enumerate(DAMAGES, start=10):
        path = file_of(tiny_dir, kept, page)
        num_bytes = path.stat().st_size
        damage(path)
        caplog.clear()
        with caplog.at_level(logging.WARNING), open_llm(tiny_dir, kept) as llm:
            found = ask(llm, PROMPTS[0])
            assert found.token_ids == reference.tokens[0], name
            num_loaded = page * PAGE_SIZE
            assert report_of(found) == (0, num_loaded, NUM_PROMPT - num_loaded), name
            assert tiers_of(llm).rejected_files == 1, name
            llm.check_invariants()
        assert any(path.name in record.getMessage() for record in caplog.records), name
        assert path.stat().st_size == num_bytes, name


def test_no_file_at_all_holds_what_its_name_says(
    tiny_dir: Path, kept: Path, reference: Reference
) -> None:
    paths = files_of(kept)
    blobs = [path.read_bytes() for path in paths]
    for path, blob in zip(paths, blobs[1:] + blobs[:1], strict=True):
        path.write_bytes(blob)
    with open_llm(tiny_dir, kept) as llm:
        found = ask(llm, PROMPTS[0])
        assert report_of(found) == (0, 0, NUM_PROMPT)
        assert found.token_ids == reference.tokens[0]


def test_host_memory_gives_back_what_was_evicted(tiny_dir: Path, reference: Reference) -> None:
    page_gib = 2 * 2 * PAGE_SIZE * 2 * 16 * 4 / 2**30
    with LLM(str(tiny_dir), **SETTINGS, host_cache_gib=100.5 * page_gib) as llm:
        assert llm.info.num_host_pages == 100
        for number in (0, 1, 2, 0):
            found = ask(llm, PROMPTS[number])
            assert found.token_ids == reference.tokens[number]
        host, disk, _ = report_of(found)
        assert (host, disk) == (NUM_CACHED, 0)
        tiers = tiers_of(llm)
        assert tiers.host_loaded_pages == NUM_CACHED // PAGE_SIZE
        assert tiers.host_total_pages == 100
        assert (tiers.disk_pages, tiers.disk_limit_bytes, tiers.lost_pages) == (0, 0, 0)
        assert llm.stats().host_tokens == NUM_CACHED
        llm.check_invariants()


def test_a_directory_serves_one_engine_at_a_time(tiny_dir: Path, kept: Path) -> None:
    with open_llm(tiny_dir, kept), pytest.raises(ConfigError, match="cache"):
        open_llm(tiny_dir, kept)
    open_llm(tiny_dir, kept).close()


def test_an_llm_that_nobody_closes_keeps_its_pages(tiny_dir: Path, tmp_path: Path) -> None:
    llm = open_llm(tiny_dir, tmp_path)
    ask(llm, PROMPTS[0])
    del llm
    gc.collect()
    assert len(files_of(tmp_path)) == NUM_FILES


_KILLED = """
import os
import sys
from pathlib import Path

from tests.engine.test_warm_restart import PROMPTS, ask, open_llm, tiers_of

llm = open_llm(Path(sys.argv[1]), Path(sys.argv[2]))
ask(llm, PROMPTS[0])
core = llm._core
while tiers_of(llm).disk_stored_pages < 5:
    core.step()
os._exit(9)
"""


def test_a_process_that_dies_leaves_what_it_had_written(
    tiny_dir: Path, tmp_path: Path, reference: Reference
) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tiny_dir), str(tmp_path)],
        cwd=Path(__file__).parents[2],
        timeout=120,
        check=False,
    )
    assert ran.returncode == 9
    with open_llm(tiny_dir, tmp_path) as llm:
        found = ask(llm, PROMPTS[0])
        assert found.token_ids == reference.tokens[0]
        _, disk, _ = report_of(found)
        assert disk >= 5 * PAGE_SIZE
        assert tiers_of(llm).rejected_files == 0


async def test_an_engine_process_keeps_its_pages_when_it_ends(
    tiny_dir: Path, kept: Path, reference: Reference
) -> None:
    config = EngineConfig(model=str(tiny_dir), cache_dir=str(kept), **SETTINGS)
    engine = await AsyncEngine.start(config)
    try:
        assert engine.info.num_host_pages > 0
        # Before anything was asked: what the directory holds.
        async with asyncio.timeout(60):
            while (tiers := engine.stats.tiers) is None or tiers.disk_pages != NUM_FILES:
                await asyncio.sleep(0)
        answers = []
        for number in (0, 1):
            stream = await engine.submit(PROMPTS[number], GREEDY)
            answers.append([delta async for delta in stream])
    finally:
        await engine.aclose()
    for number, deltas in enumerate(answers):
        tokens = [token for delta in deltas for token in delta.token_ids]
        assert tokens == reference.tokens[number]
    report = answers[0][0].cache_report
    assert report is not None
    assert report.disk_tokens == NUM_CACHED
    assert len(files_of(kept)) == 2 * NUM_FILES
