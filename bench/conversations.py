"""What it is worth to remember the tokens that conversations were made of.

    python bench/conversations.py [chats] [tokenizing] [--rounds 3] [--turns 10]

chats       Chats of ten turns through HTTP against a server in a process of its own, which runs a
            model of 88M parameters with random weights: streamed, each turn the whole conversation
            as text, as clients of chat completions send it. The tokenizer joins letters and pairs
            of them wherever it can, the model writes them as they come: so no answer tokenizes to
            what was generated. With the memory of tokens and without, in turn. Counted: of the
            tokens whose keys and values a conversation has computed, how many its next turn found
            (all but each answer's last token), and the time to first token from the second turn on.
tokenizing  The next turn of a conversation of 1,000 to 100,000 tokens, in-process: how long the
            rendered text takes to become ids, beyond what the new turn itself takes. Byte-level BPE
            over words; turns of 250 tokens, and of 50.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend
from tqdm import tqdm

from radixserve.demo.tokenizer import CHATML_TEMPLATE
from radixserve.ids import DEFAULT_NAMESPACE
from radixserve.text.token_memory import TokenMemory
from radixserve.text.tokenizer import Tokenizer
from support.checkpoint import VOCAB_SIZE, bench_checkpoint
from support.served import served

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SIGNS = ("Ġ", "Ċ", ".", "?")
SPECIAL = ("<|im_start|>", "<|im_end|>")
NUM_QUESTION_CHARS = 400
NUM_ANSWER = 64
HISTORIES = (1_000, 10_000, 100_000)
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a conversation."""

    num_prompt: int
    num_cached: int
    num_answer: int
    first_ms: float

    @property
    def num_computed(self) -> int:
        """The answer's last token is chosen, and never computed on."""
        return self.num_prompt + self.num_answer - 1


def save(backend: Any, directory: Path) -> None:
    """Write a tokenizer as a checkpoint has it."""
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    backend.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": SPECIAL[1],
        "chat_template": CHATML_TEMPLATE,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def joining_tokenizer() -> Any:
    """Letters, all pairs of them and as many triples as there is room for."""
    pairs = [(one, other) for one in LETTERS for other in LETTERS]
    num_triples = VOCAB_SIZE - len(LETTERS) - len(SIGNS) - len(pairs) - len(SPECIAL)
    triples = [(one + other, third) for third in LETTERS for one, other in pairs][:num_triples]
    tokens = [*LETTERS, *SIGNS, *("".join(merge) for merge in (*pairs, *triples))]
    return Backend(models.BPE({token: i for i, token in enumerate(tokens)}, [*pairs, *triples]))


@contextmanager
def joining_model() -> Iterator[Path]:
    """The bench model with that tokenizer."""
    source = bench_checkpoint()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for path in source.iterdir():
            if not path.name.startswith("tokenizer"):
                (directory / path.name).symlink_to(path)
        save(joining_tokenizer(), directory)
        yield directory


def ask(client: httpx.Client, messages: list[dict[str, str]], seed: int) -> tuple[str, Turn]:
    """Stream one answer."""
    body = {
        "model": "bench",
        "messages": messages,
        "max_tokens": NUM_ANSWER,
        "ignore_eos": True,
        "temperature": 1,
        "seed": seed,
        "stream": True,
        "stream_options": {"include_usage": True},
        # The ends of turns shall be the template's.
        "logit_bias": {str(VOCAB_SIZE - number): -100 for number in (1, 2)},
    }
    text, first_ms = "", 0.0
    usage: dict[str, Any] = {}
    begun_s = time.perf_counter()
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            raise RuntimeError(response.read().decode())
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            for choice in event["choices"]:
                content = choice["delta"].get("content") or ""
                if content and not text:
                    first_ms = (time.perf_counter() - begun_s) * 1e3
                text += content
            usage = event.get("usage") or usage
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return text, Turn(usage["prompt_tokens"], cached, usage["completion_tokens"], first_ms)


def chat(client: httpx.Client, seed: int, num_turns: int) -> list[Turn]:
    """One conversation."""
    rng = random.Random(seed)
    messages: list[dict[str, str]] = []
    turns = []
    for number in range(num_turns):
        question = "".join(rng.choice(LETTERS + " ") for _ in range(NUM_QUESTION_CHARS))
        messages.append({"role": "user", "content": question})
        text, turn = ask(client, messages, seed * 1000 + number)
        turns.append(turn)
        messages.append({"role": "assistant", "content": text})
    return turns


def figures_of(chats: list[list[Turn]]) -> dict[str, float]:
    going_on = [pair for turns in chats for pair in pairwise(turns)]
    num_computed = sum(earlier.num_computed for earlier, _ in going_on)
    num_found = sum(min(later.num_cached, earlier.num_computed) for earlier, later in going_on)
    return {
        "found": num_found / num_computed,
        "first_token_ms": statistics.median(later.first_ms for _, later in going_on),
        "last_first_token_ms": statistics.median(turns[-1].first_ms for turns in chats),
        "last_prompt": statistics.median(turns[-1].num_prompt for turns in chats),
    }


def time_chats(rounds: int, num_turns: int) -> dict[str, Any]:
    """Both kinds of server, in turn; every round talks about something new."""
    chats: dict[str, list[list[Turn]]] = {"with": [], "without": []}
    flags = ("--dtype", "bfloat16", "--kv-cache-gib", "1", "--served-model-name", "bench")
    with joining_model() as model, tqdm(total=2 * rounds, desc="chats") as bar:
        for number in range(rounds):
            for name, memory in (("with", "128"), ("without", "0")):
                with (
                    served(str(model), *flags, "--token-memory-mib", memory) as url,
                    httpx.Client(base_url=url, timeout=300) as client,
                ):
                    chat(client, 10_000 + number, 2)  # warms the server up
                    chats[name].append(chat(client, number, num_turns))
                bar.update()
    figures = {name: figures_of(each) for name, each in chats.items()}
    print(
        f"\n| {num_turns} turns of chat | computed tokens found again | TTFT, turns 2 on | last |"
    )
    print("|---|---|---|---|")
    for name, each in figures.items():
        print(
            f"| {name} the memory | {each['found']:.2%} | {each['first_token_ms']:.0f} ms | "
            f"{each['last_first_token_ms']:.0f} ms ({each['last_prompt']:.0f} tokens) |"
        )
    return figures


def best_ms(function: Callable[[], object], rounds: int) -> float:
    """The best of ``rounds``: what else the machine does is not in it."""
    times = []
    for _ in range(rounds):
        begun_s = time.perf_counter()
        function()
        times.append((time.perf_counter() - begun_s) * 1e3)
    return min(times)


def word_tokenizer(words: list[str], directory: Path) -> Tokenizer:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=8000,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([" ".join(words)], trainer)
    save(backend, directory)
    return Tokenizer.from_dir(directory)


def time_tokenizing(rounds: int) -> list[dict[str, float]]:
    rng = random.Random(5)
    words = ["".join(rng.choices(LETTERS, k=rng.randint(2, 9))) for _ in range(4000)]
    results = []
    with tempfile.TemporaryDirectory() as name:
        tokenizer = word_tokenizer(words, Path(name))
        cases = [(history, turn) for turn in (250, 50) for history in HISTORIES]
        for num_history, num_turn in tqdm(cases, desc="tokenizing"):
            results.append(time_next_turn(tokenizer, rng, words, num_history, num_turn, rounds))
    print(
        "\n| history | turns of | whole, anew | next turn | the new text alone | beyond it | best |"
    )
    print("|---|---|---|---|---|---|---|")
    for each in results:
        print(
            f"| {each['history']:,} tokens | {each['turn']} | {each['plain_ms']:.2f} ms | "
            f"{each['next_ms']:.2f} ms | {each['new_ms']:.2f} ms | {each['beyond_ms']:.2f} ms | "
            f"{each['best_beyond_ms']:.2f} ms |"
        )
    return results


def time_next_turn(
    tokenizer: Tokenizer,
    rng: random.Random,
    words: list[str],
    num_history: int,
    num_turn: int,
    rounds: int,
) -> dict[str, float]:
    def turn() -> str:
        # Nearly every word is one token.
        return " ".join(rng.choices(words, k=int(num_turn / 1.35)))

    def rendered(contents: list[str]) -> str:
        roles = ("user", "assistant")
        return tokenizer.render_prompt(
            [{"role": roles[i % 2], "content": each} for i, each in enumerate(contents)]
        )

    contents = [turn() for _ in range(max(2, num_history // num_turn) | 1)]
    history = rendered(contents)
    num_tokens = len(tokenizer.encode(history, add_special_tokens=False))
    plain_ms = best_ms(lambda: tokenizer.encode(history, add_special_tokens=False), 5)
    memory = TokenMemory(tokenizer, 128 * MIB)
    memory.encode(DEFAULT_NAMESPACE, history)
    next_ms, new_ms = [], []
    for _ in range(10 * rounds):
        news = [turn(), turn()]
        text = rendered([*contents, *news])
        next_ms.append(best_ms(partial(memory.encode, DEFAULT_NAMESPACE, text), 1))
        only = text[len(history) :]
        new_ms.append(best_ms(partial(tokenizer.encode, only), 1))
    beyond_ms = [whole - new for whole, new in zip(next_ms, new_ms, strict=True)]
    return {
        "history": num_tokens,
        "turn": num_turn,
        "plain_ms": plain_ms,
        "next_ms": statistics.median(next_ms),
        "new_ms": statistics.median(new_ms),
        "beyond_ms": statistics.median(beyond_ms),
        "best_beyond_ms": min(next_ms) - min(new_ms),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("parts", nargs="*", help="chats, tokenizing (default: both)")
    parser.add_argument("--rounds", type=int, default=3, help="counted rounds (default: 3)")
    parser.add_argument("--turns", type=int, default=10, help="turns of a chat (default: 10)")
    arguments = parser.parse_args()
    parts: dict[str, Callable[[], object]] = {
        "chats": lambda: time_chats(arguments.rounds, arguments.turns),
        "tokenizing": lambda: time_tokenizing(arguments.rounds),
    }
    wanted = arguments.parts or list(parts)
    unknown = [part for part in wanted if part not in parts]
    if unknown:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(parts)}")
    facts: dict[str, object] = dict(print_machine())
    for part in wanted:
        facts[part] = parts[part]()
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
