"""Ten-turn chats with a template that strips thinking, on a real engine with idle moments between
turns: every token that the next turn can use is found, though no answer is shown as it was given.
"""

import asyncio
import logging
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import httpx
import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from radixserve.engine.async_engine import AsyncEngine
from radixserve.text.template_lint import describe, lint
from radixserve.text.tokenizer import Tokenizer
from radixserve_frontend.app import create_app
from radixserve_frontend.config import ServerConfig
from radixserve_frontend.server import lint_template
from tests.engine.in_process_client import client_of, is_sending, use_in_process_client
from tests.frontend.http_fixtures import calling
from tests.support.checkpoints import make_checkpoint
from tests.text.making import save

NUM_TURNS = 10
NUM_TOKENS = 32
"""Of each answer."""
SIGNS = {"Ġ": " ", "Ċ": "\n", ".": ".", "?": "?"}
SPECIAL = ("<think>", "</think>", "<|im_start|>", "<|im_end|>")
VOCAB_SIZE = len(ascii_lowercase) + len(SIGNS) + len(SPECIAL)
THINK, CLOSE, START, END = range(VOCAB_SIZE - len(SPECIAL), VOCAB_SIZE)
TEMPLATE = """\
{%- for m in messages %}\
{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}\
{%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"""


def write_tokenizer(directory: Path) -> None:
    """Letters, some signs, and what thinking is set apart by."""
    tokens = [*ascii_lowercase, *SIGNS]
    backend = Backend(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    save(backend, directory, eos_token=SPECIAL[-1], chat_template=TEMPLATE)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(
        "qwen3",
        tmp_path_factory.mktemp("ahead") / "model",
        seed=3,
        # Flat enough for thinking to end somewhere.
        logits_std=1.0,
        add_tokenizer=write_tokenizer,
        vocab_size=VOCAB_SIZE,
        eos_token_id=END,
        bos_token_id=None,
    )


@dataclass
class Turn:
    """What a turn said, and what its prompt cost."""

    content: str
    thought: str
    num_prompt_tokens: int
    num_cached_tokens: int
    num_known_tokens: int
    """Of its prompt, those of the turn before: its prompt, and its answer as it is shown now."""


@dataclass
class Chat:
    """One server and a conversation with it."""

    engine: AsyncEngine
    app: Any
    client: httpx.AsyncClient
    messages: list[dict[str, str]] = field(default_factory=list)

    async def say(self, text: str, seed: int, **body: Any) -> Turn:
        known = self.engine.tokenizer.encode_chat(self.messages, add_generation_prompt=False)
        self.messages.append({"role": "user", "content": text})
        response = await self.client.post(
            "/v1/chat/completions",
            json={
                "model": "ahead",
                "messages": self.messages,
                "seed": seed,
                "temperature": 1.0,
                "max_tokens": NUM_TOKENS,
                "min_tokens": NUM_TOKENS,
                "logit_bias": {str(THINK): -100, str(START): -100, str(CLOSE): 0.5},
                **body,
            },
        )
        assert response.status_code == 200, response.text
        answer, usage = response.json()["choices"][0]["message"], response.json()["usage"]
        self.messages.append({"role": "assistant", "content": answer["content"]})
        return Turn(
            answer["content"],
            answer.get("reasoning_content", ""),
            usage["prompt_tokens"],
            usage["prompt_tokens_details"]["cached_tokens"],
            len(known),
        )

    async def idle(self) -> None:
        """Until the engine has nothing left to do, asked for or not."""
        if self.app.state.prefill_ahead is not None:
            await self.app.state.prefill_ahead.settled()
        while is_sending(self.engine):
            await asyncio.sleep(0)
        while (await self.engine.cache_stats()).engine.num_ahead:
            pass

    async def talk(self, **body: Any) -> list[Turn]:
        turns = []
        for number in range(NUM_TURNS):
            turns.append(await self.say(f"what is {ascii_lowercase[number]}?", number, **body))
            await self.idle()
        return turns


async def chat(model_dir: Path, *, prefill_ahead: bool) -> tuple[list[Turn], int]:
    """A whole conversation, and how many tokens were prefilled for it."""
    config = ServerConfig(
        model=str(model_dir),
        served_model_name="ahead",
        dtype="float32",
        page_size=8,
        num_pages=512,
        num_threads=1,
        prefill_ahead=prefill_ahead,
    )
    engine = await AsyncEngine.start(config)
    app = create_app(engine, config, findings=lint(engine.tokenizer))
    async with calling(app) as client:
        turns = await Chat(engine, app, client).talk()
    core = client_of(engine).core
    assert core.cache_info().in_use_pages == 0
    core.check_invariants()
    num_prefilled = core.stats().prefilled_tokens
    await engine.aclose()
    return turns, num_prefilled


@pytest.mark.parametrize("strips", [True, False])
def test_what_the_template_does_is_said_in_one_warning(
    model_dir: Path, caplog: pytest.LogCaptureFixture, strips: bool
) -> None:
    chosen = None if strips else TEMPLATE.replace("<think>\\n", "")
    formats = {} if strips else {"reasoning_format": "none"}
    tokenizer = Tokenizer.from_dir(model_dir, chat_template=chosen, **formats)
    findings = lint_template(tokenizer)
    assert bool(findings) == strips
    warnings = [record.getMessage() for record in caplog.records]
    assert warnings == ([describe(findings)] if strips else [])


def test_what_few_conversations_feel_is_no_warning(
    model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trimming = "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}{% endfor %}[assistant]"
    tokenizer = Tokenizer.from_dir(model_dir, chat_template=trimming, reasoning_format="none")
    with caplog.at_level("INFO", logger="radixserve_frontend.server"):
        findings = lint_template(tokenizer)
    ((name, level, text),) = caplog.record_tuples
    assert (name, level, text) == ("radixserve_frontend.server", logging.INFO, describe(findings))


def num_found(turns: list[Turn]) -> int:
    return sum(min(turn.num_cached_tokens, turn.num_known_tokens) for turn in turns)


async def test_the_next_turn_is_warm_though_thinking_is_stripped(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_in_process_client(monkeypatch)
    ahead, num_prefilled = await chat(model_dir, prefill_ahead=True)
    plain, num_unasked = await chat(model_dir, prefill_ahead=False)
    # Most turns think and then say something, or there would be nothing to see.
    assert sum(bool(turn.thought.strip() and turn.content.strip()) for turn in ahead) > 5
    assert num_prefilled > 0
    assert num_unasked == 0
    known = sum(turn.num_known_tokens for turn in ahead)
    assert num_found(ahead) >= 0.95 * known
    # Without it the answer before is missed, every time: all of it.
    for before, turn in pairwise(plain):
        assert turn.num_cached_tokens <= before.num_prompt_tokens
    assert num_found(plain) < 0.93 * known
    # And nothing else is otherwise.
    assert [(turn.thought, turn.content) for turn in ahead] == [
        (turn.thought, turn.content) for turn in plain
    ]
