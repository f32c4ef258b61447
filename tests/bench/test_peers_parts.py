"""The parts of the benchmark against other engines that need none of them: arithmetic, the GGUF
file, the search for settings, the verdicts."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

import peers
from peers_parts import gguf_file
from peers_parts.llama_peer import Llama, num_cells
from peers_parts.peer import Figure, Measured
from peers_parts.questions import QUESTIONS
from peers_parts.rounds import Speed, answer, run_rounds
from peers_parts.same_model import check_same_model, num_same
from peers_parts.search import Setting, best_settings
from peers_parts.shape import ModelShape
from peers_parts.table import as_json, markdown
from peers_parts.worker_process import WorkerError
from peers_parts.workload import Workload
from support.checkpoint import SIZES

TINY = {
    "vocab_size": 512,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the benches' kind, as small as it gets."""
    directory = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    config = Qwen3Config(**TINY, dtype=torch.bfloat16, bos_token_id=256, eos_token_id=257)
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
    return directory


def state(checkpoint: Path) -> dict[str, torch.Tensor]:
    model = Qwen3ForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16)
    return dict(model.named_parameters())


def test_parameters_are_counted_as_the_model_has_them(tiny: Path) -> None:
    shape = ModelShape.of(tiny)
    assert shape.num_parameters == sum(tensor.numel() for tensor in state(tiny).values())
    assert shape.num_parameters - shape.inner_parameters == 512 * 24


@pytest.mark.parametrize(("size", "millions"), [("88m", 88.1), ("500m", 494.2)])
def test_the_models_have_the_size_of_their_name(size: str, millions: float) -> None:
    about = SIZES[size]
    shape = ModelShape(
        hidden=about["hidden_size"],
        inner=about["intermediate_size"],
        layers=about["num_hidden_layers"],
        heads=about["num_attention_heads"],
        kv_heads=about["num_key_value_heads"],
        head_dim=64,
        vocab=about["vocab_size"],
    )
    assert shape.num_parameters / 1e6 == pytest.approx(millions, abs=0.1)


def test_operations_of_a_prefill_by_hand() -> None:
    shape = ModelShape(hidden=2, inner=3, layers=1, heads=2, kv_heads=1, head_dim=4, vocab=10)
    # Query and output 2 x 8 each, key and value 2 x 4 each, three of 2 x 3, norms 2 + 2 + 4 + 4 and
    # the last one's 2.
    assert shape.inner_parameters == 16 + 16 + 8 + 8 + 18 + 12 + 2
    # Three tokens see 1, 2 and 3: six pairs, each two products of two heads of four.
    assert shape.prefill_operations(3) == 2 * 80 * 3 + 4 * 6 * 8
    # Two prompts of one token behind those three: each sees four.
    behind = shape.prefill_operations(1, shared=3, num_prompts=2)
    assert behind == 2 * 80 * 5 + 4 * (6 + 2 * 4) * 8


def test_the_bytes_of_a_decode_step_by_hand() -> None:
    shape = ModelShape(hidden=2, inner=3, layers=3, heads=2, kv_heads=1, head_dim=4, vocab=10)
    assert shape.kv_token_bytes == 3 * 2 * 4 * 2
    assert shape.decode_bytes(5, 2.0) == shape.num_parameters * 2 + 5 * 48
    workload = Workload(4, shared=100, own=10, new=6)
    assert workload.decode_kv_tokens(is_shared_once=True) == 100 + 4 * 13
    assert workload.decode_kv_tokens(is_shared_once=False) == 4 * 113


def test_prompts_share_what_they_should_and_nothing_else() -> None:
    prompts = Workload(16, 1024, 32, 32).prompts()
    assert {len(prompt) for prompt in prompts} == {1056}
    assert len({tuple(prompt[:1024]) for prompt in prompts}) == 1
    assert len({prompt[1024] for prompt in prompts}) == 16
    assert bytes(prompts[0]).decode().isprintable()
    assert " " not in bytes(prompts[0]).decode()


def test_every_tensor_has_a_name_of_its_own_and_its_bits(tiny: Path) -> None:
    found = dict(gguf_file.tensors(tiny))
    expected = state(tiny)
    assert found.keys() == expected.keys()
    for name, bits in found.items():
        assert np.array_equal(bits, expected[name].detach().view(torch.uint16).numpy()), name
    names = {gguf_file.gguf_name(name) for name in found}
    assert len(names) == len(found)
    assert {"token_embd.weight", "output_norm.weight", "blk.1.attn_q_norm.weight"} <= names
    with pytest.raises(ValueError, match="no tensor model"):
        gguf_file.gguf_name("model.layers.0.self_attn.q_proj.bias.x")


def test_the_bytes_stand_ins_are_the_tokenizers_own() -> None:
    characters = gguf_file.byte_characters()
    assert len(set(characters)) == 256
    assert all(characters[byte] == chr(byte) for byte in range(0x21, 0x7F))
    # GPT-2's well-known ones: space and newline.
    assert (characters[0x20], characters[0x0A]) == ("Ġ", "Ċ")


def test_a_gguf_file_holds_the_checkpoint(tiny: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    target = tmp_path / "tiny.gguf"
    gguf_file.write_gguf(tiny, target)
    reader = gguf.GGUFReader(target)
    expected = {gguf_file.gguf_name(name): tensor for name, tensor in state(tiny).items()}
    assert {tensor.name for tensor in reader.tensors} == expected.keys()
    for tensor in reader.tensors:
        wanted = expected[tensor.name].detach()
        # GGUF counts dimensions from the innermost.
        assert list(tensor.shape) == list(reversed(wanted.shape))
        if wanted.ndim == 1:
            assert np.array_equal(tensor.data, wanted.float().numpy())
        else:
            bits = np.asarray(tensor.data).view(np.uint16).reshape(wanted.shape)
            assert np.array_equal(bits, wanted.view(torch.uint16).numpy())


def test_settings_come_from_the_checkpoint(tiny: Path) -> None:
    found = gguf_file.settings(json.loads((tiny / "config.json").read_text()))
    assert found["attention.head_count_kv"] == 1
    assert found["attention.key_length"] == 8
    assert found["rope.freq_base"] == pytest.approx(10000.0)
    moved = gguf_file.settings({**TINY, "rms_norm_eps": 1e-5, "rope_theta": 5e5})
    assert moved["rope.freq_base"] == pytest.approx(5e5)


def test_a_q8_0_that_does_not_run_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """llama.cpp's kernels for it have crashed on some processors."""

    class Dead(FakeLlama):
        def ask(self, op: str, **arguments: Any) -> Any:
            raise WorkerError("the worker ended with -11")

    engines = peers.Engines.__new__(peers.Engines)
    engines._checkpoint = engines._python = tmp_path
    engines._models, engines._threads = {"q8_0": tmp_path}, 2
    started = {spin: Dead(1.0) for spin in (True, False)}
    monkeypatch.setattr(peers.Engines, "_start", staticmethod(lambda *_: started))
    monkeypatch.setattr(peers, "RadixServe", lambda *_, **__: Clockwork("radixserve", []))
    question = next(question for question in QUESTIONS if question.is_int8)
    assert engines.ask(question, 1) is None
    assert "q8_0 does not run: the worker ended with -11" in capsys.readouterr().out
    del engines._models["q8_0"]
    assert engines.ask(question, 1) is None


def test_the_search_finds_the_best_and_tries_nothing_twice() -> None:
    asked = []

    def rate(settings: Mapping[str, Setting]) -> float:
        asked.append(tuple(settings.values()))
        # The two help most together, and each helps alone.
        return 1.0 + 2 * (settings["size"] == 2048) + 3 * (not settings["flag"])

    best, tried = best_settings({"flag": (True, False), "size": (512, 2048)}, rate)
    assert best == {"flag": False, "size": 2048}
    assert len(asked) == len(set(asked))
    assert tried[False, 2048] == 6.0


class FakeLlama:
    """Answers as the worker does, with a rate that depends on the context's settings."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.opened: list[dict[str, Any]] = []

    def ask(self, op: str, **arguments: Any) -> Any:
        if op == "open":
            self.opened.append(arguments)
            return None
        if op != "run":
            return None
        slow = 1.0 if self.opened[-1]["kv_unified"] else 0.5
        new, count = arguments["new"], len(arguments["prompts"])
        return {
            "total_s": self.seconds * slow,
            "prefill_s": 0.1,
            "step_ms": [1.0] * (new - 1),
            "tokens": [[1] * new] * count,
        }


def test_llama_takes_the_settings_that_were_fastest(tmp_path: Path) -> None:
    default, brief = FakeLlama(2.0), FakeLlama(3.0)
    workers: Any = {True: default, False: brief}
    llama = Llama(workers, tmp_path, 2, "llama.cpp")
    workload = Workload(4, 300, 10, 20)
    llama.prepare(workload, lambda run: run.rate)
    assert llama.has_default_spin
    assert default.opened[-1]["kv_unified"] is False
    assert default.opened[-1]["cells"] == 4 * 512
    assert "kv_unified=False" in llama.settings
    assert llama.tried[llama.settings] == max(llama.tried.values())
    assert llama.measure(workload).rate == pytest.approx(80.0)
    assert num_cells(workload, is_unified=True) == 512
    # Whatever is asked: here the slowest.
    llama.prepare(workload, lambda run: run.total_s)
    assert brief.opened[-1]["kv_unified"] is True
    assert not llama.has_default_spin


class Clockwork:
    """A peer that takes so long a run."""

    settings = "none"

    def __init__(self, name: str, seconds: list[float]) -> None:
        self.name = name
        self.tried: dict[str, float] = {}
        self._seconds = iter(seconds)

    def prepare(self, workload: Workload, figure: Figure) -> None:
        pass

    def measure(self, workload: Workload) -> Measured:
        seconds = next(self._seconds)
        tokens = [[0] * workload.new] * workload.num_prompts
        return Measured(workload.num_new, seconds, seconds / 2, [seconds * 10], tokens)

    def greedy(self, workload: Workload) -> list[list[int]]:
        return [[0] * workload.new] * workload.num_prompts


def test_ratios_are_medians_of_rounds_and_verdicts_follow() -> None:
    question = next(question for question in QUESTIONS if question.key == "shared")
    shape = ModelShape(
        hidden=768, inner=2048, layers=12, heads=12, kv_heads=4, head_dim=64, vocab=16384
    )
    peers = [
        Clockwork("radixserve", [1.0, 2.0, 4.0]),
        Clockwork("transformers", [11.0, 22.0, 4.0]),
        Clockwork("llama.cpp", [5.0, 10.0, 40.0]),
    ]
    speeds = iter([Speed(40e9, 800e9)] * 3)
    found, measured = run_rounds(question, peers, lambda: next(speeds), 3)
    result = answer(question, shape, peers, found, measured)
    ratios = {row.engine: row.ratio for row in result.rows}
    assert ratios == {"radixserve": None, "transformers": 11.0, "llama.cpp": 5.0}
    # 176.2 MB of weights and 1,792 tokens' keys and values of 12,288 bytes, at 40 GB/s.
    assert result.floor_ms == pytest.approx((88_101_120 * 2 + 1792 * 12288) / 40e6)
    assert result.private_floor_ms == pytest.approx((88_101_120 * 2 + 17152 * 12288) / 40e6)
    assert result.rows[0].share == pytest.approx(result.floor_ms / 20.0)
    text = markdown(result)
    assert "| 11.00x | 10x: met |" in text
    assert "| 5.00x | 6x: not met |" in text
    assert "25%, wanted 50%: not met" in text
    assert json.loads(json.dumps(as_json(result)))["rows"][1]["ratio"] == 11.0


def test_the_share_of_a_prefill_is_of_the_matmul_rate() -> None:
    question = next(question for question in QUESTIONS if question.is_prefill)
    shape = ModelShape(
        hidden=768, inner=2048, layers=12, heads=12, kv_heads=4, head_dim=64, vocab=16384
    )
    peers = [Clockwork("radixserve", [4.0])]
    found, speeds = run_rounds(question, peers, lambda: Speed(40e9, 800e9), 1)
    result = answer(question, shape, peers, found, speeds)
    # 618.7 and 309.3 GFLOP in 2 s at 800 GFLOP/s.
    assert result.rows[0].value == pytest.approx(2048.0)
    share = result.rows[0].share
    assert share is not None
    assert share == pytest.approx(0.58, abs=0.01)
    assert result.limit == pytest.approx(2048 / share)


def test_another_model_is_noticed() -> None:
    class Other(Clockwork):
        def greedy(self, workload: Workload) -> list[list[int]]:
            return [[prompt] * workload.new for prompt in range(workload.num_prompts)]

    same, other = Clockwork("a", []), Other("b", [])
    assert check_same_model(same, {"a": same}).endswith("of 32: a 32")
    with pytest.raises(RuntimeError, match="b computes another model"):
        check_same_model(same, {"a": same, "b": other})
    assert num_same([1, 2, 3], [1, 2, 4]) == 2
