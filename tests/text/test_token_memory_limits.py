"""What a memory of tokens does with texts and answers that are made to fill it."""

import threading
from pathlib import Path
from types import TracebackType

import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from radixserve.ids import DEFAULT_NAMESPACE, Namespace
from radixserve.text import known_segments
from radixserve.text.known_segments import KnownSegments
from radixserve.text.token_memory import MAX_LEARNT_CUTS, TokenMemory
from radixserve.text.tokenizer import Tokenizer
from radixserve.text.vocabulary import byte_alphabet
from tests.text.making import byte_level_bpe, save

HERE = DEFAULT_NAMESPACE
THERE = Namespace("there")
TURN = "<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    backend = byte_level_bpe()
    backend.add_special_tokens([AddedToken(name) for name in ("<|im_start|>", "<|im_end|>")])
    return Tokenizer.from_dir(save(backend, tmp_path_factory.mktemp("memory") / "bytes"))


def plain(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def spelled(tokenizer: Tokenizer, text: str) -> list[int]:
    return [token_id for char in text for token_id in plain(tokenizer, char)]


@pytest.mark.parametrize("how", ["sent", "generated"])
def test_a_huge_text_drives_out_no_other(tokenizer: Tokenizer, how: str) -> None:
    memory = TokenMemory(tokenizer, 50_000)
    answer = spelled(tokenizer, "The fox was")
    memory.learn(memory.encode(HERE, TURN).tail, answer)
    known = memory.encode(HERE, TURN + "The fox was").ids
    assert known == [*plain(tokenizer, TURN), *answer] != plain(tokenizer, TURN + "The fox was")
    if how == "sent":
        huge = "The fox was " * 10_000
        assert memory.encode(THERE, huge).ids == plain(tokenizer, huge)
    else:
        memory.learn(memory.encode(THERE, TURN).tail, answer * 10_000)
    memory.check_invariants()
    assert memory.encode(HERE, TURN + "The fox was").ids == known


def test_variants_behind_a_long_text_are_fewer(tokenizer: Tokenizer) -> None:
    memory = TokenMemory(tokenizer, 200_000)
    text = TURN + "The fox was here. " * 150
    tail = memory.encode(HERE, text).tail
    answers = ["It was", "A dog was", "The fox was", "Once upon"]
    for answer in answers:
        memory.learn(tail, spelled(tokenizer, answer))
        memory.check_invariants()
    start = len(plain(tokenizer, text))

    def is_spelled(answer: str) -> bool:
        ids = memory.encode(HERE, f"{text}{answer} not").ids
        return ids[start : start + len(answer)] == spelled(tokenizer, answer)

    assert is_spelled(answers[-1])
    assert not is_spelled(answers[0])


def test_an_answer_of_nothing_but_added_tokens_is_learnt_up_to_a_bound(
    tokenizer: Tokenizer,
) -> None:
    (cut,) = plain(tokenizer, "<|im_end|>")
    part = [cut, *spelled(tokenizer, "fox")]
    assert part != plain(tokenizer, "<|im_end|>fox")
    memory = TokenMemory(tokenizer, 2**24)
    tail = memory.encode(HERE, TURN).tail
    memory.learn(tail, part * (MAX_LEARNT_CUTS + 20))
    ids = memory.encode(HERE, TURN + "<|im_end|>fox" * (MAX_LEARNT_CUTS + 20)).ids
    assert ids == [
        *plain(tokenizer, TURN),
        *part * MAX_LEARNT_CUTS,
        *plain(tokenizer, "<|im_end|>fox") * 20,
    ]


def test_without_cuts_conversations_do_not_drive_out_each_other(tmp_path: Path) -> None:
    """All of them begin in one place then."""
    backend = Backend(models.BPE({char: i for i, char in enumerate(byte_alphabet())}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = Tokenizer.from_dir(save(backend, tmp_path))
    unsaid = tokenizer.vocab_size + 1
    memory = TokenMemory(tokenizer, 2**24)
    num_fitting = known_segments.MAX_HERE

    def prompt(number: int) -> str:
        return f"USER: Who is {number}? BOT:"

    answer = [*plain(tokenizer, "Me"), unsaid, *plain(tokenizer, "!")]
    for number in range(num_fitting + 1):
        memory.learn(memory.encode(HERE, prompt(number)).tail, answer)
    memory.check_invariants()
    assert [
        unsaid in memory.encode(HERE, f"{prompt(number)}Me! And you?").ids
        for number in range(num_fitting + 1)
    ] == [False, *[True] * num_fitting]


class CountingLock:
    """A lock that knows how often it was taken."""

    def __init__(self) -> None:
        self.num_times = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()
        self.num_times += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()


def test_others_come_in_between_the_parts_of_a_long_text(monkeypatch: pytest.MonkeyPatch) -> None:
    known = KnownSegments(2**24)
    lock = CountingLock()
    monkeypatch.setattr(known, "_lock", lock)
    segments = [str(number) for number in range(3000)]
    ids, befores = known.walk(HERE, segments)
    assert ids == [None] * 3000
    assert lock.num_times > 2
    places = [(before, text, (7,)) for before, text in zip(befores, segments, strict=True)]
    known.add(HERE, places)
    assert lock.num_times > 4
    monkeypatch.undo()
    known.check_invariants()
    assert known.walk(HERE, segments) == ([(7,)] * 3000, befores)
