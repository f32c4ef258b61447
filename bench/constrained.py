"""What grammars cost those who have none, and what masks and compiling cost.

    python bench/constrained.py [--rounds 12] [--steps 80] [--threads 1]

Eight streams without a grammar decode beside eight others, which in turn have none or have one; how
many tokens a second the first eight get is compared, round by round. The model has 45M parameters
and a vocabulary of 32,768, most of it random words; everybody samples at temperature 1, or takes
the likeliest token. Then masks and compiling are timed by themselves, on one thread, also for a
vocabulary of 151,936.
"""

# First of all, before anything loads torch: see bench/support/__init__.py.
from support.machine import print_machine

# isort: split

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tqdm import tqdm
from transformers import Qwen3Config, Qwen3ForCausalLM

from radixserve.config import EngineConfig
from radixserve.engine.build import build_core
from radixserve.engine.core import EngineCore
from radixserve.ids import RequestId
from radixserve.sampling.constraint import Constraint
from radixserve.sampling.grammar import GrammarSpec
from radixserve.sampling.grammar_compiler import GrammarCompiler
from radixserve.sampling.params import SamplingParams
from radixserve.text.vocabulary import byte_alphabet
from radixserve.types import EngineRequest

VOCAB_SIZE = 32768
NUM_STREAMS = 8
WANTED_RATIO = 0.95

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "roles": {"type": "array", "items": {"enum": ["reader", "author", "admin"]}},
        "address": {
            "type": "object",
            "properties": {"street": {"type": "string"}, "zip": {"type": "string"}},
            "required": ["street", "zip"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age", "roles", "address"],
    "additionalProperties": False,
}
WIDE = {
    "type": "object",
    "properties": {f"property_{number}": PERSON for number in range(100)},
    "additionalProperties": False,
}
# One object after the other: it never comes to an end.
ENDLESS = GrammarSpec(
    kind="lark", source=f'start: (person "\\n")*\nperson: %json {json.dumps(PERSON)}'
)
GRAMMARS = {
    "a person": GrammarSpec(kind="json_schema", source=json.dumps(PERSON)),
    "100 people by name": GrammarSpec(kind="json_schema", source=json.dumps(WIDE)),
    "any JSON": GrammarSpec(kind="json_schema", source="{}"),
    "a date": GrammarSpec(kind="regex", source=r"\d{4}-\d\d-\d\d"),
}


def words(count: int) -> list[bytes]:
    """So many different tokens: every byte, then random words, numbers and punctuation."""
    rng = random.Random(0)
    found = dict.fromkeys(bytes([byte]) for byte in range(256))
    while len(found) < count:
        text = "".join(rng.choices("etaoinshrdlucmfwyp", k=rng.randint(2, 7)))
        kind = rng.random()
        if kind < 0.5:
            text = " " + text
        elif kind < 0.6:
            text = str(rng.randrange(10 ** rng.randint(2, 4)))
        elif kind < 0.7:
            text = "".join(rng.choices('",:{}[] \n', k=rng.randint(2, 4)))
        found[text.encode()] = None
    return list(found)


def checkpoint() -> Path:
    """Made in some seconds if it is not there yet."""
    directory = Path(tempfile.gettempdir()) / "radixserve-bench-words-v1"
    done = directory / "done"
    if not done.exists():
        torch.manual_seed(0)
        config = Qwen3Config(
            vocab_size=VOCAB_SIZE,
            hidden_size=512,
            intermediate_size=1536,
            num_hidden_layers=9,
            num_attention_heads=8,
            num_key_value_heads=4,
            head_dim=64,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=VOCAB_SIZE - 1,
            dtype=torch.bfloat16,
        )
        Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
        alphabet = byte_alphabet()
        spelt = ["".join(alphabet[byte] for byte in word) for word in words(VOCAB_SIZE - 1)]
        tokenizer = Tokenizer(
            models.BPE(vocab={word: i for i, word in enumerate(spelt)}, merges=[])
        )
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
        tokenizer.save(str(directory / "tokenizer.json"))
        (directory / "tokenizer_config.json").write_text(
            '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}'
        )
        done.touch()
    return directory


class Bench:
    """A core, and two groups of streams in it."""

    def __init__(self, core: EngineCore, num_steps: int) -> None:
        self._core = core
        self._num_steps = num_steps
        self._rng = np.random.default_rng(0)
        self._serial = 0

    def tokens_per_s(self, temperature: float, grammar: GrammarSpec | None) -> float:
        """What the first eight streams get, the others having ``grammar``."""
        first = [self._submit(temperature, None) for _ in range(NUM_STREAMS)]
        others = [self._submit(temperature, grammar) for _ in range(NUM_STREAMS)]
        counted, everybody = set(first), {*first, *others}
        started: set[RequestId] = set()
        while started < everybody:
            started |= {delta.request_id for delta in self._core.step()}
        for _ in range(10):
            self._core.step()
        num_tokens = num_others = 0
        begun_s = time.perf_counter()
        for _ in range(self._num_steps):
            for delta in self._core.step():
                assert delta.finish_reason is None, delta
                if delta.request_id in counted:
                    num_tokens += len(delta.token_ids)
                else:
                    num_others += len(delta.token_ids)
        elapsed_s = time.perf_counter() - begun_s
        # Where steps are planned ahead, those with a grammar take every other step.
        assert num_others >= num_tokens // 2 - NUM_STREAMS, "the others do not get on"
        for request_id in everybody:
            self._core.abort(request_id)
        while self._core.has_work:
            self._core.step()
        return num_tokens / elapsed_s

    def _submit(self, temperature: float, grammar: GrammarSpec | None) -> RequestId:
        self._serial += 1
        request_id = RequestId(str(self._serial))
        params = SamplingParams(temperature=temperature, grammar=grammar)
        prompt: list[int] = self._rng.integers(0, 256, 32).tolist()
        self._core.add(
            EngineRequest(
                request_id=request_id,
                prompt_ids=prompt,
                params=params.resolve(
                    self._core.info.sampling_defaults, max_tokens=2000, seed=self._serial
                ),
                end_token_ids=[],
            )
        )
        return request_id


def compare(bench: Bench, rounds: int, temperature: float) -> dict[str, float]:
    alone: list[float] = []
    beside: list[float] = []
    # The first of each is not counted.
    for number in tqdm(range(rounds + 1), desc=f"temperature {temperature:g}"):
        ways: list[tuple[list[float], GrammarSpec | None]] = [(alone, None), (beside, ENDLESS)]
        for results, grammar in ways if number % 2 else reversed(ways):
            results.append(bench.tokens_per_s(temperature, grammar))
    pairs = [after / before for before, after in zip(alone[1:], beside[1:], strict=True)]
    return {
        "beside_unconstrained_tokens_per_s": statistics.median(alone[1:]),
        "beside_constrained_tokens_per_s": statistics.median(beside[1:]),
        "ratio_of_medians": statistics.median(beside[1:]) / statistics.median(alone[1:]),
        "median_ratio": statistics.median(pairs),
        "lower_quartile": statistics.quantiles(pairs, n=4)[0],
    }


def timed(function: Callable[[], Any]) -> float:
    begun_s = time.perf_counter()
    function()
    return time.perf_counter() - begun_s


def time_grammars(vocab_size: int) -> dict[str, Any]:
    """Milliseconds: reading the tokens; compiling each grammar; its masks over random answers."""
    table = [b"" if word == b"\xff" else word for word in words(vocab_size)]
    compiler = GrammarCompiler(lambda: table, num_workers=1)
    found: dict[str, Any] = {"read_tokens_ms": timed(compiler.prepare) * 1e3}
    rng = np.random.default_rng(0)
    for name, spec in GRAMMARS.items():
        compile_ms = timed(lambda spec=spec: compiler.compile(spec)) * 1e3  # type: ignore[misc]  # a default
        times_us: list[float] = []
        while len(times_us) < 1000:
            constraint = Constraint(compiler.compile(spec), end_token_ids=[])
            constraint.wait()
            for _ in range(100):
                words_now = constraint.wait()
                ids = np.flatnonzero(np.unpackbits(words_now.view(np.uint8), bitorder="little"))
                if not len(ids):
                    break
                token_id = int(rng.choice(ids))
                begun_s = time.perf_counter()
                constraint.advance(token_id)
                constraint.wait()
                times_us.append((time.perf_counter() - begun_s) * 1e6)
        found[name] = {
            "compile_ms": compile_ms,
            "mask_median_us": statistics.median(times_us),
            "mask_p99_us": float(np.percentile(times_us, 99)),
            "mask_max_us": max(times_us),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=12, help="counted rounds (default: 12)")
    parser.add_argument("--steps", type=int, default=80, help="steps of a round (default: 80)")
    parser.add_argument("--threads", type=int, help="torch's threads (default: torch's choice)")
    options = parser.parse_args()
    facts = print_machine() | {"llguidance": version("llguidance")}
    print(f"llguidance {facts['llguidance']}")
    core = build_core(
        EngineConfig(model=str(checkpoint()), kv_cache_gib=1, num_threads=options.threads),
        progress=False,
    )
    core.grammars.compile(ENDLESS)
    bench = Bench(core, options.steps)
    speeds = {
        name: compare(bench, options.rounds, temperature)
        for name, temperature in (("sampled", 1.0), ("greedy", 0.0))
    }
    grammars = {str(size): time_grammars(size) for size in (VOCAB_SIZE, 151_936)}
    print(
        f"\n| {NUM_STREAMS} streams without a grammar | beside 8 without | beside 8 with | ratio |"
    )
    print("|---|---|---|---|")
    for name, speed in speeds.items():
        print(
            f"| {name} | {speed['beside_unconstrained_tokens_per_s']:.0f} tokens/s | "
            f"{speed['beside_constrained_tokens_per_s']:.0f} tokens/s | "
            f"{speed['ratio_of_medians']:.3f}, by rounds {speed['median_ratio']:.3f} "
            f"(wanted: {WANTED_RATIO}) |"
        )
    print("\n| vocabulary | grammar | compiling | mask, median | 99th of 100 | longest |")
    print("|---|---|---|---|---|---|")
    for size, figures in grammars.items():
        print(
            f"| {int(size):,} | (reading the tokens) | {figures['read_tokens_ms']:.0f} ms | | | |"
        )
        for name in GRAMMARS:
            one = figures[name]
            print(
                f"| {int(size):,} | {name} | {one['compile_ms']:.1f} ms | "
                f"{one['mask_median_us']:.0f} us | {one['mask_p99_us']:.0f} us | "
                f"{one['mask_max_us'] / 1e3:.1f} ms |"
            )
    print(
        json.dumps(
            {"bench": "constrained", "machine": facts, "speeds": speeds, "grammars": grammars}
        )
    )


if __name__ == "__main__":
    main()
