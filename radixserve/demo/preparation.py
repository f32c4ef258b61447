"""What is settled before a training's first step: where it runs, its tokenizer, its plan.

The plan's length may come from a measurement of this machine; everything else from the seed and the
command line.
"""

import argparse
import ctypes
import hashlib
import platform
import random
import shlex
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from radixserve.demo.batches import Batch
from radixserve.demo.checkpoint import NAME, load_state
from radixserve.demo.corpus.dialogue import Dialogue, Split
from radixserve.demo.corpus.generate import make_dialogue
from radixserve.demo.encoding import encode_dialogue
from radixserve.demo.learner import Learner
from radixserve.demo.network import Network, Shape
from radixserve.demo.optimizer import Optimizer
from radixserve.demo.schedule import Plan, Stage, stages_from, steps_in
from radixserve.demo.start import read_start
from radixserve.demo.tokenizer import train_tokenizer
from radixserve.demo.training import Machine, Training
from radixserve.errors import ConfigError

TOKENIZER_CHARACTERS = 3_000_000
"""Of generated text, for the tokenizer to learn from."""
VOCAB_SIZE = 2048
"""Of a tokenizer for which no other size is given."""
SHAPE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
)
"""What the command line may say of a network's shape, by the names of ``Shape``."""
EXAMINATIONS_SHARE = 0.05
"""Of the time, what is set aside for examinations, checkpoints and compiling; an estimate for
trainings of two hours and more."""


def begin(chosen: argparse.Namespace, out: Path, machine: Machine) -> Training:
    """A new training. *Raises* ``ConfigError`` if the directory has one, ``CheckpointError`` if
    what it is to begin with cannot be read."""
    if (out / NAME).exists():
        raise ConfigError(f"{out} has a training; --resume it, or choose another --out")
    stages = stages_from(chosen.shortest_rows)
    start = None
    if chosen.begin_with is not None:
        start = read_start(Path(chosen.begin_with))
        shape, tokenizer = start.network.shape, start.tokenizer
    else:
        asked = {name: value for name in SHAPE if (value := getattr(chosen, name)) is not None}
        shape = Shape(**{"vocab_size": VOCAB_SIZE} | asked)
        print(f"learning {shape.vocab_size:,} tokens from {TOKENIZER_CHARACTERS:,} characters ...")
        tokenizer = train_tokenizer(texts(chosen.seed, TOKENIZER_CHARACTERS), size=shape.vocab_size)
    plan = _plan(chosen, shape, stages, tokenizer, machine)
    out.mkdir(parents=True, exist_ok=True)
    # With the number of steps, if it was found here: what repeats this run anywhere.
    found = [] if chosen.steps is not None else ["--steps", str(plan.num_steps)]
    given = [*sys.argv[1:], *found]
    command = f"python -m radixserve.demo.train {shlex.join(given)}"
    return Training.begin(
        out, plan, tokenizer, machine, make_dialogue, command=command, start=start
    )


def resume(_chosen: argparse.Namespace, out: Path, machine: Machine) -> Training:
    """Go on with the directory's training. *Raises* ``CheckpointError`` if it has none,
    ``ConfigError`` if the generator's text has changed since."""
    if load_state(out).plan.corpus != corpus_fingerprint():
        raise ConfigError(
            f"the generator has changed since the training in {out} began, which would learn from "
            "two kinds of text; go on with the version that began it, or begin anew"
        )
    return Training.resume(out, machine, make_dialogue)


def corpus_fingerprint() -> str:
    """Which version of the generator this is, by some of its text: 16 hexadecimal digits."""
    found = hashlib.sha256()
    for index in range(200):
        split = list(Split)[index % len(Split)]
        dialogue = make_dialogue(random.Random(index), split=split, max_characters=2000)
        found.update(repr(dialogue).encode())
    return found.hexdigest()[:16]


def machine_of(chosen: argparse.Namespace) -> Machine:
    """Where the training runs; says so. *Mutates* torch's number of threads, if one is given."""
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    device = chosen.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = chosen.dtype
    if dtype == "auto":
        dtype = "bfloat16" if device == "cuda" or _multiplies_bf16() else "float32"
    description = f"{_processor(device)}, {torch.get_num_threads()} threads, {dtype}"
    print(f"on {description}, layers {'' if chosen.compile else 'not '}compiled", flush=True)
    return Machine(device, getattr(torch, dtype), chosen.compile, chosen.workers, description)


def _processor(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def keep_memory() -> None:
    """Let glibc keep what is freed: each step frees and takes the same memory again, whose pages
    would come anew from the system, zeroed. Elsewhere than on glibc: nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_trim_threshold, m_mmap_max = -1, -4
        mallopt(m_trim_threshold, 2**31 - 1)
        mallopt(m_mmap_max, 0)


def texts(seed: int, num_characters: int) -> Iterator[str]:
    """What the messages of training dialogues say, of all lengths, up to so much."""
    count = 0
    for index in range(num_characters):
        chance = random.Random(f"{seed}/tokenizer/{index}")
        dialogue = make_dialogue(
            chance, split=Split.TRAIN, max_characters=chance.choice((400, 1500, 6000))
        )
        for text in (dialogue.system, *_said(dialogue)):
            count += len(text)
            yield text
        if count >= num_characters:
            return


def _said(dialogue: Dialogue) -> Iterator[str]:
    for turn in dialogue.turns:
        yield turn.question
        yield turn.answer


def _plan(
    chosen: argparse.Namespace,
    shape: Shape,
    stages: tuple[Stage, ...],
    tokenizer: Tokenizer,
    machine: Machine,
) -> Plan:
    num_steps = chosen.steps
    if num_steps is None:
        print("measuring this machine's speed ...", flush=True)
        step_s = measure_step_s(shape, chosen.tokens_per_step, machine)
        print(f"{chosen.tokens_per_step / step_s:,.0f} tokens/s in rows of 512", flush=True)
        num_steps = steps_in(
            60 * chosen.minutes * (1 - EXAMINATIONS_SHARE), step_s=step_s, stages=stages
        )
    return Plan(
        shape=shape,
        num_steps=num_steps,
        seed=chosen.seed,
        tokens_per_step=chosen.tokens_per_step,
        text_share=chosen.text_share,
        text_weight=chosen.text_weight,
        matrix_rate=chosen.matrix_rate,
        other_rate=chosen.other_rate,
        corpus=corpus_fingerprint(),
        stages=stages,
        characters_per_token=_characters_per_token(tokenizer, chosen.seed),
    )


def _characters_per_token(tokenizer: Tokenizer, seed: int) -> float:
    """Of whole dialogues: characters that the generator counts, for each token of the rendering."""
    asked, got = 0, 0
    for index in range(64):
        chance = random.Random(f"{seed}/ratio/{index}")
        dialogue = make_dialogue(chance, split=Split.TRAIN, max_characters=3000)
        asked += len(dialogue.system) + sum(map(len, _said(dialogue)))
        got += len(encode_dialogue(tokenizer, dialogue).ids)
    return asked / got


def measure_step_s(shape: Shape, tokens_per_step: int, machine: Machine) -> float:
    """Seconds that a step with rows of 512 takes, the optimizer's part included; the median of
    six."""
    network = Network(shape).to(machine.device)
    network.compute_dtype = machine.dtype
    learn = Learner(network, is_compiled=machine.is_compiled)
    optimizer = Optimizer(
        network, matrix_rate=0.0, other_rate=0.0, weight_decay=0.0, dtype=machine.dtype
    )
    chance = np.random.default_rng(0)
    count = tokens_per_step // 2
    batch = Batch(
        ids=chance.integers(0, shape.vocab_size, (tokens_per_step // 512, 512)),
        positions=np.sort(chance.permutation(tokens_per_step // 512 * 512)[:count]),
        targets=chance.integers(0, shape.vocab_size, count),
        weights=np.ones(count, np.float32),
        is_answer=np.ones(count, bool),
        num_tokens=tokens_per_step,
    )
    times = []
    for _ in range(9):
        begun_s = time.perf_counter()
        losses = learn(batch, machine.device)
        optimizer.step(1.0)
        # Waits for a GPU.
        float(losses.answers)
        times.append(time.perf_counter() - begun_s)
    return statistics.median(times[3:])


def _multiplies_bf16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
