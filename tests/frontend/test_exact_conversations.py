"""Chats over HTTP hit every token that was computed, though clients send back only text.

The tokenizer never gives back what the model chose: it joins any two letters, and the model, whose
weights are noise, speaks in letters and pairs as they come.
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import httpx
import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from radixserve.demo.tokenizer import CHATML_TEMPLATE
from radixserve.engine.async_engine import AsyncEngine
from radixserve.engine.interface import TextDelta
from radixserve.ids import DEFAULT_NAMESPACE, Namespace
from radixserve.sampling.params import SamplingParams
from radixserve.text.answer import ContentText, ReasoningText
from radixserve.text.token_memory import TokenMemory
from radixserve.text.tokenizer import Tokenizer
from radixserve.types import NO_HINTS
from radixserve_frontend.answer_tokens import AnswerTokens
from radixserve_frontend.app import create_app
from radixserve_frontend.config import ServerConfig
from radixserve_frontend.conversation import Conversation, prepare_chat
from radixserve_frontend.generation import Generation, Job
from radixserve_frontend.record import RequestRecord
from tests.engine.in_process_client import client_of, use_in_process_client
from tests.frontend.http_fixtures import calling
from tests.support.checkpoints import make_checkpoint
from tests.text.making import save

NUM_TURNS = 10
SMALLEST_GAP = 1e-3
SPECIAL = ("<|im_start|>", "<|im_end|>")
QUESTIONS = [f"what is {word} then" for word in "abcdefghij"]
SIGNS = {"Ġ": " ", "Ċ": "\n", ".": ".", "?": "?"}


def write_joining_tokenizer(directory: Path) -> None:
    """Letters, any two of them as one token, and some signs: all of it ASCII."""
    pairs = [(one, other) for one in ascii_lowercase for other in ascii_lowercase]
    tokens = [*ascii_lowercase, *SIGNS, *(one + other for one, other in pairs)]
    backend = Backend(models.BPE({token: i for i, token in enumerate(tokens)}, pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    save(backend, directory, eos_token=SPECIAL[1], chat_template=CHATML_TEMPLATE)


VOCAB_SIZE = len(ascii_lowercase) + len(SIGNS) + len(ascii_lowercase) ** 2 + len(SPECIAL)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(
        "qwen3",
        tmp_path_factory.mktemp("exact") / "model",
        seed=4,
        add_tokenizer=write_joining_tokenizer,
        vocab_size=VOCAB_SIZE,
        eos_token_id=VOCAB_SIZE - 1,
        bos_token_id=None,
    )


class Recording:
    """An engine that remembers which prompts it was given, in which namespaces."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self.prompts: list[tuple[list[int], Namespace]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def submit(self, prompt_ids: Any, params: Any, **terms: Any) -> Any:
        self.prompts.append((list(prompt_ids), terms["namespace"]))
        return await self._engine.submit(prompt_ids, params, **terms)

    async def cold(self, prompt_ids: list[int], num_tokens: int) -> list[int]:
        """What the prompt is answered where nothing is cached."""
        params = SamplingParams(temperature=0, max_tokens=num_tokens, logprobs=2)
        namespace = Namespace(f"cold {len(self.prompts)} {num_tokens} {len(prompt_ids)}")
        stream = await self._engine.submit(prompt_ids, params, namespace=namespace)
        ids: list[int] = []
        async for delta in stream:
            assert delta.num_cached_tokens == 0
            ids += delta.token_ids
            for entry in delta.logprobs or ():
                first, second = sorted((value for _, value in entry.top), reverse=True)[:2]
                assert first - second > SMALLEST_GAP, "choose another seed: this tests rounding"
        return ids


async def start(model_dir: Path, **settings: Any) -> tuple[Recording, ServerConfig]:
    config = ServerConfig(
        model=str(model_dir),
        served_model_name="m",
        dtype="float32",
        num_pages=512,
        num_threads=1,
        **settings,
    )
    return Recording(await AsyncEngine.start(config)), config


@pytest.fixture
async def engine_and_config(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Recording, ServerConfig]]:
    use_in_process_client(monkeypatch)
    engine, config = await start(model_dir)
    yield engine, config
    assert client_of(engine._engine).core.cache_info().in_use_pages == 0
    await engine.aclose()


@pytest.fixture
def engine(engine_and_config: tuple[Recording, ServerConfig]) -> Recording:
    return engine_and_config[0]


@pytest.fixture
async def client(
    engine_and_config: tuple[Recording, ServerConfig],
) -> AsyncIterator[httpx.AsyncClient]:
    engine, config = engine_and_config
    async with calling(create_app(engine, config)) as each:
        yield each


class Answer:
    """What a dialect's answer says."""

    def __init__(self, text: str, cached: int, prompt: int, completion: int) -> None:
        self.text = text
        self.cached = cached
        self.prompt = prompt
        self.num_computed = prompt + completion - 1
        """The last token is chosen, and never computed on."""


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n")]
    return [json.loads(line) for line in lines if line.startswith("{")]


async def chat(client: httpx.AsyncClient, messages: Any, *, stream: bool, **body: Any) -> Answer:
    body |= {"stream_options": {"include_usage": True}} if stream else {}
    response = await client.post(
        "/v1/chat/completions",
        json={"model": "m", "messages": messages, "stream": stream, "temperature": 0} | body,
    )
    assert response.status_code == 200, response.text
    if stream:
        events = events_of(response)
        text = "".join(
            choice["delta"].get("content") or "" for each in events for choice in each["choices"]
        )
        usage = events[-1]["usage"]
    else:
        text = response.json()["choices"][body.get("n", 1) - 1]["message"]["content"]
        usage = response.json()["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return Answer(text, cached, usage["prompt_tokens"], usage["completion_tokens"])


async def message(client: httpx.AsyncClient, messages: Any, *, stream: bool, **body: Any) -> Answer:
    response = await client.post(
        "/v1/messages",
        json={"model": "m", "messages": messages, "stream": stream, "temperature": 0} | body,
    )
    assert response.status_code == 200, response.text
    if stream:
        events = events_of(response)
        text = "".join(each["delta"].get("text", "") for each in events if "delta" in each)
        usage = next(each for each in events if each["type"] == "message_start")["message"]["usage"]
        usage |= next(each for each in events if each["type"] == "message_delta")["usage"]
    else:
        text, usage = response.json()["content"][0]["text"], response.json()["usage"]
    cached = usage["cache_read_input_tokens"]
    prompt = usage["input_tokens"] + cached + usage["cache_creation_input_tokens"]
    return Answer(text, cached, prompt, usage["output_tokens"])


Ask = Callable[..., Any]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("ask", [chat, message])
async def test_ten_turns_hit_every_token(
    client: httpx.AsyncClient, engine: Recording, ask: Ask, stream: bool
) -> None:
    messages: list[dict[str, str]] = []
    answers: list[Answer] = []
    for turn in range(NUM_TURNS):
        messages.append({"role": "user", "content": QUESTIONS[turn]})
        answers.append(await ask(client, messages, stream=stream, max_tokens=12 + turn))
        messages.append({"role": "assistant", "content": answers[-1].text})
    expected = sum(each.num_computed for each in answers[:-1])
    assert sum(each.cached for each in answers) >= 0.995 * expected
    # Not one is missed, in fact.
    assert all(later.cached == earlier.num_computed for earlier, later in pairwise(answers))
    await check_tokens(engine, answers)


async def check_tokens(engine: Recording, answers: list[Answer]) -> None:
    """Each turn's prompt goes on from the last one's with what a server without a cache answers it;
    and none of that is what the tokenizer makes of its text."""
    tokenizer = engine.tokenizer
    turns = list(engine.prompts)
    num_changed = 0
    for (prompt, _), (following, _), answer in zip(turns, turns[1:], answers, strict=False):
        ids = await engine.cold(prompt, answer.num_computed + 1 - len(prompt))
        ids = [token_id for token_id in ids if token_id != VOCAB_SIZE - 1]
        assert tokenizer.decode(ids, skip_special_tokens=False) == answer.text
        assert following[: len(prompt) + len(ids)] == [*prompt, *ids]
        num_changed += tokenizer.encode(answer.text) != ids
    assert num_changed == NUM_TURNS - 1, "every answer tokenizes differently"
    for prompt, _ in turns:
        text = tokenizer.decode(prompt, skip_special_tokens=False)
        assert (tokenizer.encode(text) == prompt) == (prompt is turns[0][0])


async def test_another_tenant_gets_the_plain_tokens(
    client: httpx.AsyncClient, engine: Recording
) -> None:
    messages = [{"role": "user", "content": QUESTIONS[0]}]
    first = await chat(client, messages, stream=False, max_tokens=20)
    messages += [{"role": "assistant", "content": first.text}, messages[0]]
    for salt in ("other", None):
        await chat(client, messages, stream=False, max_tokens=1, cache_salt=salt)
    (_, (others, namespace), (mine, _)) = engine.prompts
    assert namespace == "other"
    text = engine.tokenizer.decode(mine, skip_special_tokens=False)
    assert others == engine.tokenizer.encode(text) != mine


async def test_whichever_choice_goes_on(client: httpx.AsyncClient) -> None:
    user = {"role": "user", "content": QUESTIONS[1]}
    body: dict[str, Any] = {"temperature": 1, "seed": 7, "max_tokens": 16, "n": 3}
    response = await client.post(
        "/v1/chat/completions", json={"model": "m", "messages": [user], "logprobs": True} | body
    )
    usage, choices = response.json()["usage"], response.json()["choices"]
    assert len({choice["message"]["content"] for choice in choices}) == 3
    for choice in choices:
        text, num_tokens = choice["message"]["content"], len(choice["logprobs"]["content"])
        going_on = [user, {"role": "assistant", "content": text}, user]
        answer = await chat(client, going_on, stream=False, max_tokens=1)
        assert answer.cached == usage["prompt_tokens"] + num_tokens - 1


async def test_what_a_stop_string_cuts_off_is_all_that_is_missed(
    client: httpx.AsyncClient, engine: Recording
) -> None:
    user = {"role": "user", "content": QUESTIONS[2]}
    whole = await chat(client, [user], stream=False, max_tokens=20)
    answer_ids = await engine.cold(engine.prompts[0][0], 20)
    stop = engine.tokenizer.decode(answer_ids[10:12], skip_special_tokens=False)
    cut = whole.text[: whole.text.index(stop)]
    num_kept = next(
        n
        for n in range(20)
        if engine.tokenizer.decode(answer_ids[:n], skip_special_tokens=False) == cut
    )
    stopped = await chat(client, [user], stream=True, max_tokens=20, stop=[stop])
    assert stopped.text == cut
    going_on = [user, {"role": "assistant", "content": cut}, user]
    answer = await chat(client, going_on, stream=False, max_tokens=1)
    assert answer.cached >= len(engine.prompts[0][0]) + num_kept


async def test_an_answer_that_is_continued(client: httpx.AsyncClient) -> None:
    user = {"role": "user", "content": QUESTIONS[3]}
    first = await chat(client, [user], stream=False, max_tokens=9)
    begun = [user, {"role": "assistant", "content": first.text}]
    second = await chat(client, begun, stream=False, max_tokens=9, continue_final_message=True)
    assert second.prompt == first.num_computed + 1
    assert second.cached == first.num_computed
    going_on = [user, {"role": "assistant", "content": first.text + second.text}, user]
    third = await chat(client, going_on, stream=False, max_tokens=1)
    assert third.cached == second.num_computed


async def test_a_client_that_went_away_may_come_back(
    engine_and_config: tuple[Recording, ServerConfig],
) -> None:
    """It has seen the beginning of an answer, and asks to go on behind that."""
    engine: Any = engine_and_config[0]
    memory = TokenMemory(engine.tokenizer, 2**20)
    user = {"role": "user", "content": QUESTIONS[4]}
    params = SamplingParams(temperature=0, ignore_eos=True)

    async def ask(messages: list[dict[str, str]]) -> tuple[Generation, list[TextDelta]]:
        conversation = Conversation(messages=messages)
        prepared = prepare_chat(memory, DEFAULT_NAMESPACE, conversation, params)
        job = Job(
            prompts=[prepared.prompt_ids],
            tail=prepared.tail,
            params=params,
            namespace=DEFAULT_NAMESPACE,
            hints=NO_HINTS,
            continues_prompt=False,
        )
        generation = await Generation.start(engine, job, RequestRecord("r", "POST", "/"), memory)
        deltas = []
        async with aclosing(generation.deltas()) as running:
            async for _, delta in running:
                deltas.append(delta)
                if len(deltas) == 20:
                    break
        await generation.aclose()
        return generation, deltas

    _, deltas = await ask([user])
    text = "".join(delta.text for delta in deltas)
    ids = [token_id for delta in deltas for token_id in delta.token_ids]
    assert engine.tokenizer.encode(text) != ids
    again, _ = await ask([user, {"role": "assistant", "content": text}, user])
    (prompt, _), (following, _) = engine.prompts
    assert following[: len(prompt) + len(ids)] == [*prompt, *ids]
    assert again.num_cached_tokens >= len(prompt) + len(ids) - 1


async def test_counting_and_explaining_speak_of_the_same_prompt(
    client: httpx.AsyncClient, engine: Recording
) -> None:
    messages = [{"role": "user", "content": QUESTIONS[5]}]
    first = await chat(client, messages, stream=False, max_tokens=20)
    messages += [{"role": "assistant", "content": first.text}, messages[0]]
    body = {"model": "m", "messages": messages}
    counted = (await client.post("/v1/messages/count_tokens", json=body)).json()
    tokens = (await client.post("/tokenize", json=body)).json()["tokens"]
    explained = (await client.post("/cache/explain", json=body)).json()
    second = await chat(client, messages, stream=False, max_tokens=1)
    assert tokens == engine.prompts[-1][0]
    assert counted == {"input_tokens": second.prompt}
    assert explained["matched_tokens"] == second.cached == first.num_computed


THINKING = """\
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\\n' }}
{%- if m.reasoning_content %}
{{- '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' }}
{%- endif %}
{{- m.content + '<|im_end|>\\n' }}
{%- endfor %}
{{- '<|im_start|>assistant\\n' }}"""


def test_thinking_that_is_sent_back(tmp_path: Path) -> None:
    write_joining_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    backend = Backend.from_file(str(path))
    backend.add_tokens([AddedToken(each, normalized=False) for each in ("<think>", "</think>")])
    save(backend, tmp_path, eos_token=SPECIAL[1], chat_template=THINKING)
    tokenizer = Tokenizer.from_dir(tmp_path)
    memory = TokenMemory(tokenizer, 2**20)
    user = {"role": "user", "content": QUESTIONS[6]}

    def prepare(messages: list[dict[str, str]]) -> Any:
        conversation = Conversation(messages=messages)
        return prepare_chat(memory, DEFAULT_NAMESPACE, conversation, SamplingParams())

    text = "<think>\nabcd abcd\n</think>\n\nefgh"
    tags = {tokenizer.encode(each)[0] for each in ("<think>", "</think>", "\n")}
    answer_ids = [
        letter
        for token_id in tokenizer.encode(text)
        for letter in (
            [token_id]
            if token_id in tags
            else [tokenizer.encode(char)[0] for char in tokenizer.token_text(token_id)]
        )
    ]
    assert len(answer_ids) > len(tokenizer.encode(text))
    first = prepare([user])
    tokens = AnswerTokens(memory, first.tail)
    tokens.add(TextDelta(index=0, text="", token_ids=answer_ids))
    tokens.add(
        TextDelta(index=0, text="", token_ids=tokenizer.encode(SPECIAL[1]), finish_reason="stop")
    )
    parser = first.new_parser()
    parts = parser.feed(text) + parser.finish()
    assert parts == [ReasoningText("abcd abcd"), ContentText("efgh")]
    assistant = {"role": "assistant", "content": "efgh", "reasoning_content": "abcd abcd"}
    second = prepare([user, assistant, user]).prompt_ids
    assert second[: len(first.prompt_ids) + len(answer_ids)] == [*first.prompt_ids, *answer_ids]


class Learning:
    """A memory that says what it is taught."""

    def __init__(self) -> None:
        self.learnt: list[list[int]] = []

    def learn(self, tail: Any, ids: list[int]) -> None:
        assert tail is not None
        self.learnt.append(list(ids))


def test_answers_are_learnt_when_they_end_and_the_others_at_the_end() -> None:
    memory: Any = Learning()
    tail: Any = object()
    tokens = AnswerTokens(memory, tail)
    for index, ids in ((0, [1]), (1, [5, 6]), (0, [2]), (2, [9])):
        tokens.add(TextDelta(index=index, text="", token_ids=ids))
    assert memory.learnt == []
    tokens.add(TextDelta(index=0, text="", token_ids=[3], finish_reason="length"))
    assert memory.learnt == [[1, 2, 3]]
    tokens.end()
    tokens.end()
    assert memory.learnt == [[1, 2, 3], [5, 6], [9]]
    nothing = AnswerTokens(memory, None)
    nothing.add(TextDelta(index=0, text="", token_ids=[1], finish_reason="stop"))
    nothing.end()
    assert len(memory.learnt) == 3
