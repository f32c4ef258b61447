"""Going on from a stored response, with the real engine: every token that was computed is used.

The tokenizer here never gives back what the model chose: the model speaks in letters, and the
tokenizer joins many of them.
"""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from radixserve.engine.async_engine import AsyncEngine
from radixserve.ids import DEFAULT_NAMESPACE
from radixserve.text.token_memory import TokenMemory
from radixserve.text.tokenizer import Tokenizer
from radixserve.text.vocabulary import byte_alphabet
from radixserve_frontend.app import create_app
from radixserve_frontend.config import ServerConfig
from support.noise_model import write_noise_model
from tests.engine.in_process_client import client_of, use_in_process_client
from tests.frontend.http_fixtures import calling

PAIRS = ("th", "he", "in", "er", "an", "re", "on", "at", "en", "e ")
# Bytes that UTF-8 never has: their tokens are free to mean something else.
FREE_BYTES = (0xC0, 0xC1, *range(0xF8, 0x100))
SHOUTING = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | upper + '<|im_end|>\\n' }}
{%- endfor %}
{{- '<|im_start|>assistant\\n' }}"""

Ask = Callable[..., Any]


def join_pairs(directory: Path) -> None:
    """Teach the byte tokenizer some pairs of letters, in place of tokens that nothing needs."""
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    alphabet = byte_alphabet()
    vocabulary, merges = content["model"]["vocab"], []
    for byte, pair in zip(FREE_BYTES, PAIRS, strict=True):
        left, right = (alphabet[ord(char)] for char in pair)
        del vocabulary[alphabet[byte]]
        vocabulary[left + right] = byte
        merges.append([left, right])
    content["model"]["merges"] = merges
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("continuation")
    write_noise_model(directory)
    join_pairs(directory)
    return directory


class Talk:
    """One server and what it is asked."""

    def __init__(self, engine: AsyncEngine, client: httpx.AsyncClient) -> None:
        self.engine = engine
        self._client = client

    async def __call__(self, text: str, **body: Any) -> dict[str, Any]:
        response = await self._client.post(
            "/v1/responses",
            json={"model": "noise", "input": text, "temperature": 0, "max_output_tokens": 40}
            | body,
        )
        assert response.status_code == 200, response.text
        if body.get("stream"):
            *_, last = response.text.removesuffix("\n\n").split("\n\n")
            answer = json.loads(last.partition("data: ")[2])["response"]
        else:
            answer = response.json()
        assert isinstance(answer, dict)
        return answer


async def talk_to(model_dir: Path, **settings: Any) -> AsyncIterator[Talk]:
    config = ServerConfig(
        model=str(model_dir),
        served_model_name="noise",
        dtype="float32",
        num_pages=256,
        num_threads=1,
        **settings,
    )
    engine = await AsyncEngine.start(config)
    async with calling(create_app(engine, config)) as client:
        yield Talk(engine, client)
    assert client_of(engine).core.cache_info().in_use_pages == 0
    await engine.aclose()


@pytest.fixture
async def talk(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Talk]:
    use_in_process_client(monkeypatch)
    async for each in talk_to(model_dir):
        yield each


def text_of(response: dict[str, Any]) -> str:
    (item,) = response["output"]
    text = item["content"][0]["text"]
    assert isinstance(text, str)
    return text


def cached(response: dict[str, Any]) -> int:
    count = response["usage"]["input_tokens_details"]["cached_tokens"]
    assert isinstance(count, int)
    return count


def computed(response: dict[str, Any]) -> int:
    """The last token of an answer is chosen, and never computed on."""
    total = response["usage"]["total_tokens"]
    assert isinstance(total, int)
    return total - 1


def test_the_tokenizer_does_not_give_back_what_the_model_chose(model_dir: Path) -> None:
    tokenizer = Tokenizer.from_dir(model_dir)
    assert tokenizer.encode("then") == [FREE_BYTES[0], FREE_BYTES[8]]
    assert tokenizer.decode([*b"then"], skip_special_tokens=False) == "then"


@pytest.mark.parametrize("stream", [False, True])
async def test_every_computed_token_is_found_again(talk: Talk, stream: bool) -> None:
    settings: dict[str, Any] = {"stream": stream}
    previous = await talk("What is there then?", **settings)
    tokenizer = talk.engine.tokenizer
    has_retokenized = False
    for question in ("And in the end?", "Then another one.", "The last."):
        text = text_of(previous)
        has_retokenized |= len(tokenizer.encode(text, add_special_tokens=False)) < len(text)
        response = await talk(question, previous_response_id=previous["id"], **settings)
        assert cached(response) == computed(previous)
        previous = response
    assert has_retokenized


@pytest.mark.parametrize("ends_itself", [False, True])
async def test_however_the_answer_ended(talk: Talk, ends_itself: bool) -> None:
    """Cut off, or by a token of the model's own, which is no part of what follows."""
    settings: dict[str, Any] = (
        {"max_output_tokens": 2000} if ends_itself else {"max_output_tokens": 9, "ignore_eos": True}
    )
    first = await talk("What is there then?", **settings)
    assert first["status"] == ("completed" if ends_itself else "incomplete")
    second = await talk("Go on.", previous_response_id=first["id"])
    assert cached(second) == computed(first)


async def test_the_answer_is_what_the_whole_conversation_sent_again_would_get(
    talk: Talk, model_dir: Path
) -> None:
    """The continued prompt says the same text; a tokenizer that joins nothing shows it."""
    plain_dir = model_dir.parent / "plain"
    plain_dir.mkdir(exist_ok=True)
    write_noise_model(plain_dir)
    async for plain in talk_to(plain_dir):
        first = await plain("What is there then?")
        second = await plain("Go on.", previous_response_id=first["id"])
        whole = await plain(
            "",
            input=[
                {"role": "user", "content": "What is there then?"},
                *first["output"],
                {"role": "user", "content": "Go on."},
            ],
        )
        assert text_of(whole) == text_of(second)
        assert whole["usage"]["input_tokens"] == second["usage"]["input_tokens"]


async def test_other_instructions_are_another_prompt(talk: Talk) -> None:
    first = await talk("What is there then?", instructions="Answer.")
    second = await talk("Go on.", previous_response_id=first["id"])
    third = await talk("Go on.", previous_response_id=first["id"], instructions="Answer.")
    # What both prompts begin with, whatever it is, is all that is shared.
    assert cached(second) < len("<|im_start|>system")
    assert cached(third) == computed(first)


async def test_a_template_that_rewrites_answers_is_obeyed(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_in_process_client(monkeypatch)
    async for talk in talk_to(model_dir, chat_template=SHOUTING):
        first = await talk("What is there then?")
        second = await talk("Go on.", previous_response_id=first["id"])
        rendered = talk.engine.tokenizer.encode_chat(
            [
                {"role": "user", "content": "What is there then?"},
                {"role": "assistant", "content": text_of(first)},
                {"role": "user", "content": "Go on."},
            ]
        )
        assert second["usage"]["input_tokens"] == len(rendered)
        assert cached(second) >= first["usage"]["input_tokens"] - 1


async def test_without_a_memory_the_text_is_tokenized_as_it_is(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_in_process_client(monkeypatch)
    async for talk in talk_to(model_dir, token_memory_mib=0):
        first = await talk("What is there then?")
        second = await talk("Go on.", previous_response_id=first["id"])
        rendered = talk.engine.tokenizer.encode_chat(
            [
                {"role": "user", "content": "What is there then?"},
                {"role": "assistant", "content": text_of(first)},
                {"role": "user", "content": "Go on."},
            ]
        )
        assert second["usage"]["input_tokens"] == len(rendered)
        assert cached(second) < computed(first)


def test_continued_ids(model_dir: Path) -> None:
    tokenizer = Tokenizer.from_dir(model_dir)

    def continued(answer_ids: list[int], text: str) -> list[int]:
        """The ids of ``text``, where "in the " was answered with these."""
        memory = TokenMemory(tokenizer, 2**20)
        tail = memory.encode(DEFAULT_NAMESPACE, "in the ").tail
        memory.learn(tail, answer_ids)
        return memory.encode(DEFAULT_NAMESPACE, text).ids

    stored = [*tokenizer.encode("in the "), *b"then"]
    rendered = "in the then<|im_end|>on"
    assert continued([*b"then"], rendered) == [*stored, *tokenizer.encode("<|im_end|>on")]
    assert continued([*b"then"], rendered) != tokenizer.encode(rendered)
    for other in ("in th", "on the then<|im_end|>on", ""):
        assert continued([*b"then"], other) == tokenizer.encode(other)
    # Half a character at the end: the replacement that a client saw is what is said from now on.
    seen = continued([0xC3], "in the \ufffd<|im_end|>on")
    assert tokenizer.decode(seen, skip_special_tokens=False) == "in the \ufffd<|im_end|>on"
