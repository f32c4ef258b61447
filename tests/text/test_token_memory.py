"""Texts that come back in the tokens that they were generated in."""

import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from radixserve.ids import DEFAULT_NAMESPACE, Namespace
from radixserve.text import known_segments
from radixserve.text.token_memory import TokenMemory
from radixserve.text.tokenizer import Tokenizer
from radixserve.text.vocabulary import byte_alphabet
from tests.text.making import byte_level_bpe, metaspace_unigram, save, sentencepiece_bpe

HERE = DEFAULT_NAMESPACE
MAX_BYTES = 2**20
ADDED = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
TURN = "<|im_start|>user\nWho was amused?<|im_end|>\n<|im_start|>assistant\n"
NEXT = "<|im_end|>\n<|im_start|>user\nAnd then?<|im_end|>\n<|im_start|>assistant\n"
MAKERS = {"bytes": byte_level_bpe, "pieces": sentencepiece_bpe, "unigram": metaspace_unigram}


def with_chat_tokens(backend: Any, directory: Path) -> Tokenizer:
    backend.add_special_tokens([AddedToken(name, special=True) for name in ADDED[:2]])
    backend.add_tokens([AddedToken(name, special=False, normalized=False) for name in ADDED[2:]])
    return Tokenizer.from_dir(save(backend, directory, eos_token="<|im_end|>"))


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    return {
        name: with_chat_tokens(make(), tmp_path_factory.mktemp("memory") / name)
        for name, make in MAKERS.items()
    }


@pytest.fixture(scope="module")
def tokenizer(tokenizers: dict[str, Tokenizer]) -> Tokenizer:
    return tokenizers["bytes"]


def plain(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def said(tokenizer: Tokenizer, ids: list[int]) -> str:
    """What ids say, without what a decoder takes from the beginning of a text."""
    return b"".join(map(tokenizer.token_bytes, ids)).decode(errors="replace")


def spelled(tokenizer: Tokenizer, text: str) -> list[int]:
    """The text in one token per byte, as a model may well give it and no tokenizer does."""
    return [_byte_token(tokenizer, byte) for byte in text.encode()]


def _byte_token(tokenizer: Tokenizer, byte: int) -> int:
    for token_id in range(tokenizer.vocab_size):
        if tokenizer.token_bytes(token_id) == bytes([byte]):
            return token_id
    raise AssertionError(byte)


def memory_with(tokenizer: Tokenizer, prompt: str, answer_ids: list[int]) -> TokenMemory:
    memory = TokenMemory(tokenizer, MAX_BYTES)
    memory.learn(memory.encode(HERE, prompt).tail, answer_ids)
    return memory


@pytest.mark.parametrize("kind", MAKERS)
def test_what_was_generated_comes_back_in_its_tokens(
    tokenizers: dict[str, Tokenizer], kind: str
) -> None:
    tokenizer = tokenizers[kind]
    answer = spelled(tokenizer, "the dog was")
    assert plain(tokenizer, said(tokenizer, answer)) != answer
    memory = memory_with(tokenizer, TURN, answer)
    text = TURN + said(tokenizer, answer) + NEXT
    ids = memory.encode(HERE, text).ids
    prompt = plain(tokenizer, TURN)
    assert ids[: len(prompt) + len(answer)] == [*prompt, *answer]
    assert ids[len(prompt) + len(answer) :] == plain(tokenizer, NEXT)
    assert ids != plain(tokenizer, text)
    assert memory.encode(HERE, text).ids == ids
    memory.check_invariants()


@pytest.mark.parametrize("kind", ["pieces", "unigram"])
def test_a_first_space_that_clients_are_not_shown(
    tokenizers: dict[str, Tokenizer], kind: str
) -> None:
    """Such tokenizers write "▁The" after anything, and clients see "The"."""
    tokenizer = tokenizers[kind]
    prompt = "<|im_start|>"
    answer = [*plain(tokenizer, "the"), *plain(tokenizer, "f"), *plain(tokenizer, "ox")]
    text = said(tokenizer, answer)
    assert text[0] == " "
    memory = memory_with(tokenizer, prompt, answer)
    ids = memory.encode(HERE, prompt + text[1:] + NEXT).ids
    assert ids[: len(answer) + 1] == [*plain(tokenizer, prompt), *answer]
    assert said(tokenizer, ids) == said(tokenizer, plain(tokenizer, prompt + text[1:] + NEXT))


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
def test_added_tokens_inside_an_answer(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = tokenizers[kind]
    open_id, close_id = (plain(tokenizer, name)[0] for name in ADDED[2:])
    letters = [_byte_token(tokenizer, byte) for byte in b"dog"]
    answer = [*letters, open_id, *letters, *letters, close_id, *letters]
    for shown in ("dog<think>dogdog</think>dog", said(tokenizer, answer)):
        memory = memory_with(tokenizer, TURN, [*answer, plain(tokenizer, "<|im_end|>")[0]])
        ids = memory.encode(HERE, TURN + shown + NEXT).ids
        assert ids == [*plain(tokenizer, TURN), *answer, *plain(tokenizer, NEXT)]
    # What follows another answer is another place.
    ids = memory.encode(HERE, TURN + "Dog<think>dogdog</think>dog" + NEXT).ids
    assert ids == plain(tokenizer, TURN + "Dog<think>dogdog</think>dog" + NEXT)


def test_added_tokens_behind_a_first_space_that_is_not_shown(
    tokenizers: dict[str, Tokenizer],
) -> None:
    tokenizer = tokenizers["pieces"]
    open_id = plain(tokenizer, "<think>")[0]
    letters = [_byte_token(tokenizer, byte) for byte in b"dog"]
    answer = [*plain(tokenizer, "the"), open_id, *letters]
    memory = memory_with(tokenizer, TURN, answer)
    ids = memory.encode(HERE, TURN + "the<think>dog" + NEXT).ids
    num_next = len(plain(tokenizer, NEXT))
    assert ids[-num_next - 4 : -num_next] == [open_id, *letters] != plain(tokenizer, "<think>dog")


def test_the_token_that_ends_an_answer_is_no_part_of_what_goes_on(tokenizer: Tokenizer) -> None:
    end_id = plain(tokenizer, "<|im_end|>")[0]
    memory = memory_with(tokenizer, TURN, [*spelled(tokenizer, "fox"), end_id])
    ids = memory.encode(HERE, TURN + "fox" + NEXT).ids
    assert ids == [
        *plain(tokenizer, TURN),
        *spelled(tokenizer, "fox"),
        *plain(tokenizer, NEXT),
    ]


ANSWER = "The fox was quick. The dog was not"


@pytest.mark.parametrize(
    ("came_back", "num_kept"),
    [
        (ANSWER, len(ANSWER)),
        # A stop string cut off, white space trimmed, an answer cut short: all that is there.
        (ANSWER[:-4], len(ANSWER) - 4),
        (ANSWER[:20], 20),
        (ANSWER[:9], 9),
        # Goes on behind it, with a word of its own or in the middle of one.
        (ANSWER + " amused", len(ANSWER)),
        (ANSWER + "ed", len("The fox was quick. The dog was")),
        # Edited: up to the word with the edit in it.
        ("The fox was quiet. The dog was not", len("The fox was")),
        ("The fox was. The dog was not", len("The fox")),
        ("The fox     was", len("The fox")),
        ("The Fox", len("The")),
        ("Thou", 0),
        ("A fox", 0),
        ("", 0),
    ],
)
def test_a_changed_answer_keeps_what_it_still_says(
    tokenizer: Tokenizer, came_back: str, num_kept: int
) -> None:
    memory = memory_with(tokenizer, TURN, spelled(tokenizer, ANSWER))
    ids = memory.encode(HERE, TURN + came_back + NEXT).ids
    assert said(tokenizer, ids) == TURN + came_back + NEXT
    start = len(plain(tokenizer, TURN))
    if num_kept == 0:
        assert ids == plain(tokenizer, TURN + came_back + NEXT)
        return
    kept = spelled(tokenizer, came_back[:num_kept])
    assert ids[start : start + num_kept] == kept
    rest = plain(tokenizer, came_back[num_kept:])
    assert ids[start + num_kept :] == [*rest, *plain(tokenizer, NEXT)]


def test_what_is_left_says_what_came_back(tokenizers: dict[str, Tokenizer]) -> None:
    """Though such a tokenizer puts a space before a text of its own."""
    tokenizer = tokenizers["pieces"]
    memory = memory_with(tokenizer, TURN, spelled(tokenizer, "The fox was"))
    ids = memory.encode(HERE, TURN + "The fox ran" + NEXT).ids
    prompt, following = plain(tokenizer, TURN), plain(tokenizer, NEXT)
    assert ids[: len(prompt) + 7] == [*prompt, *spelled(tokenizer, "The fox")]
    assert ids[-len(following) :] == following
    assert said(tokenizer, ids[len(prompt) : -len(following)]) == "The fox ran"


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("end", [" ", "\n", "  ", " \n"])
def test_white_space_that_a_template_puts_behind_an_answer(
    tokenizers: dict[str, Tokenizer], kind: str, end: str
) -> None:
    """As Llama 2's does. A tokenizer may put a space of its own before what is left."""
    tokenizer = tokenizers[kind]
    answer = spelled(tokenizer, "The fox was")
    memory = memory_with(tokenizer, TURN, answer)
    ids = memory.encode(HERE, TURN + "The fox was" + end + NEXT).ids
    start = len(plain(tokenizer, TURN))
    assert ids[start : start + len(answer)] == answer
    if kind != "unigram":
        # That one knows no line end.
        rest = ids[start + len(answer) : len(ids) - len(plain(tokenizer, NEXT))]
        assert said(tokenizer, rest) == end


def test_a_token_that_is_no_cut_parts_words_nevertheless(tmp_path: Path) -> None:
    backend = byte_level_bpe()
    backend.add_tokens([AddedToken("[stop]", normalized=True)])
    tokenizer = with_chat_tokens(backend, tmp_path)
    answer = [*spelled(tokenizer, "The fox"), *plain(tokenizer, "[stop]")]
    assert len(answer) == 8
    memory = memory_with(tokenizer, TURN, [*answer, *spelled(tokenizer, "was")])
    # Behind such a token, and before one.
    start = len(plain(tokenizer, TURN))
    behind = memory.encode(HERE, TURN + "The fox[stop]here").ids
    assert behind[start:] == [*answer, *plain(tokenizer, "here")]
    before = memory_with(tokenizer, TURN, answer[:7]).encode(HERE, TURN + "The fox[stop]here").ids
    assert before == behind


def test_an_answer_to_another_beginning_is_none_to_this(tokenizer: Tokenizer) -> None:
    memory = memory_with(tokenizer, TURN + "The", spelled(tokenizer, " fox was"))
    for text in (TURN + "A fox was" + NEXT, TURN + "Th"):
        assert memory.encode(HERE, text).ids == plain(tokenizer, text)


def test_a_tokenizer_without_added_tokens(tmp_path: Path) -> None:
    """The whole text is one segment, and comes back longer in every turn."""
    backend = Backend(models.BPE({char: i for i, char in enumerate(byte_alphabet())}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = Tokenizer.from_dir(save(backend, tmp_path))
    nameless = tokenizer.vocab_size + 3
    memory = memory_with(tokenizer, "USER: Who? BOT:", [*spelled(tokenizer, " The"), nameless])
    memory.learn(memory.encode(HERE, "USER: Who? BOT:").tail, [nameless, *spelled(tokenizer, " I")])
    ids = memory.encode(HERE, "USER: Who? BOT: I USER: And then?").ids
    expected = plain(tokenizer, "USER: Who? BOT: I USER: And then?")
    expected.insert(len("USER: Who? BOT:"), nameless)
    assert ids == expected


def test_what_is_left_may_look_like_a_longer_token(tmp_path: Path) -> None:
    backend = byte_level_bpe()
    # "<|begin|>" is the token behind which what is left is encoded.
    backend.add_special_tokens([AddedToken("<|begin|> ran", normalized=False)])
    tokenizer = with_chat_tokens(backend, tmp_path)
    memory = memory_with(tokenizer, TURN, spelled(tokenizer, "The fox was"))
    text = TURN + "The fox ran" + NEXT
    assert said(tokenizer, memory.encode(HERE, text).ids) == text


def test_the_variant_that_says_most_is_kept(tokenizer: Tokenizer) -> None:
    """Of several choices, and of answers asked for again."""
    memory = TokenMemory(tokenizer, MAX_BYTES)
    tail = memory.encode(HERE, TURN).tail
    for answer in ("The fox was here", "The dog was there", "A cat"):
        memory.learn(tail, spelled(tokenizer, answer))
    for answer in ("The dog was not", "The fox was here", "A cat and a dog"):
        ids = memory.encode(HERE, TURN + answer + NEXT).ids
        common = next(
            n for n in (16, 11, 5) if answer[:n] in ("The fox was here", "The dog was", "A cat")
        )
        start = len(plain(tokenizer, TURN))
        assert ids[start : start + common] == spelled(tokenizer, answer[:common])


def test_an_answer_given_again_takes_no_others_place(tokenizer: Tokenizer) -> None:
    memory = TokenMemory(tokenizer, MAX_BYTES)
    tail = memory.encode(HERE, TURN).tail
    begun = memory.encode(HERE, TURN + "The").tail
    memory.learn(begun, spelled(tokenizer, " dog was"))
    for answer in ["The fox was", *[" dog was"] * 20]:
        memory.learn(tail, spelled(tokenizer, answer))
    start = len(plain(tokenizer, TURN))
    kept = memory.encode(HERE, TURN + "The fox is").ids[start:]
    assert kept[:7] == spelled(tokenizer, "The fox")
    kept = memory.encode(HERE, TURN + "The dog is").ids[start:]
    begun_ids = plain(tokenizer, "The")
    assert kept[: len(begun_ids) + 4] == [*begun_ids, *spelled(tokenizer, " dog")]


def test_old_variants_give_way(tokenizer: Tokenizer) -> None:
    memory = TokenMemory(tokenizer, MAX_BYTES)
    tail = memory.encode(HERE, TURN).tail
    answers = [f"{chr(97 + n)}b c" for n in range(known_segments.MAX_GENERATED + 1)]
    for answer in answers:
        memory.learn(tail, spelled(tokenizer, answer))
    memory.check_invariants()
    start = len(plain(tokenizer, TURN))

    def is_spelled(answer: str) -> bool:
        ids = memory.encode(HERE, TURN + answer + NEXT).ids[start:]
        return ids[:2] == spelled(tokenizer, answer[:2])

    assert [is_spelled(answer[:3] + "d") for answer in answers] == [
        plain(tokenizer, "ab") == spelled(tokenizer, "ab"),
        *[True] * known_segments.MAX_GENERATED,
    ]
    # By its whole text the oldest is known nevertheless.
    assert is_spelled(answers[0])


def test_bytes_that_are_no_character_are_not_remembered(tokenizer: Tokenizer) -> None:
    answer = [*spelled(tokenizer, "The fox "), _byte_token(tokenizer, 0xC3)]
    answer += spelled(tokenizer, "was. <think>")
    memory = memory_with(tokenizer, TURN, answer)
    text = TURN + "The fox \ufffdwas. <think>" + NEXT
    ids = memory.encode(HERE, text).ids
    assert said(tokenizer, ids) == text
    start = len(plain(tokenizer, TURN))
    assert ids[start : start + 7] == spelled(tokenizer, "The fox")
    # Half of a character whose other half is the end of the prompt's is not one.
    memory = memory_with(tokenizer, TURN, [_byte_token(tokenizer, 0xA9)])
    assert memory.encode(HERE, TURN + "\ufffd").ids == plain(tokenizer, TURN + "\ufffd")


def test_an_answer_that_goes_on_from_a_generated_beginning(tokenizer: Tokenizer) -> None:
    memory = memory_with(tokenizer, TURN, spelled(tokenizer, "The fox"))
    begun = memory.encode(HERE, TURN + "The fox")
    memory.learn(begun.tail, spelled(tokenizer, "es were"))
    ids = memory.encode(HERE, TURN + "The foxes were" + NEXT).ids
    assert ids == [
        *plain(tokenizer, TURN),
        *spelled(tokenizer, "The foxes were"),
        *plain(tokenizer, NEXT),
    ]


def test_namespaces_know_nothing_of_each_other(tokenizer: Tokenizer) -> None:
    memory = memory_with(tokenizer, TURN, spelled(tokenizer, "The fox"))
    text = TURN + "The fox" + NEXT
    assert memory.encode(Namespace("other"), text).ids == plain(tokenizer, text)
    assert memory.encode(HERE, text).ids != plain(tokenizer, text)


class Counting:
    """A tokenizer that says what it was asked for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def encode(self, text: str, **options: Any) -> list[int]:
        self.asked.append(text)
        return self._tokenizer.encode(text, **options)


def test_only_what_is_new_is_tokenized_and_at_once(tokenizer: Tokenizer) -> None:
    counting: Any = Counting(tokenizer)
    memory = TokenMemory(counting, MAX_BYTES)
    counting.asked.clear()
    first = memory.encode(HERE, TURN)
    assert counting.asked == [TURN]
    memory.learn(first.tail, spelled(tokenizer, "The fox"))
    memory.encode(HERE, TURN + "The fox" + NEXT)
    assert counting.asked == [TURN, NEXT]
    memory.encode(HERE, TURN + "The fox" + NEXT)
    assert counting.asked == [TURN, NEXT]
    # Time would tell a tenant what another one has sent.
    memory.encode(Namespace("other"), TURN)
    assert counting.asked == [TURN, NEXT, TURN]


def test_nothing_is_remembered_where_there_is_no_room(tokenizer: Tokenizer) -> None:
    memory = TokenMemory(tokenizer, 0)
    encoded = memory.encode(HERE, TURN)
    assert (encoded.ids, encoded.tail) == (plain(tokenizer, TURN), None)
    memory.learn(encoded.tail, spelled(tokenizer, "fox"))
    assert memory.encode(HERE, TURN + "fox").ids == plain(tokenizer, TURN + "fox")
    memory.check_invariants()


@pytest.mark.parametrize("max_bytes", [1, 700, 3000, 100_000])
def test_the_least_recently_used_goes_first(tokenizer: Tokenizer, max_bytes: int) -> None:
    memory = TokenMemory(tokenizer, max_bytes)
    text = TURN
    for turn in range(12):
        encoded = memory.encode(HERE, text)
        assert said(tokenizer, encoded.ids) == text
        memory.check_invariants()
        answer = f"The fox {turn}" * 5
        memory.learn(encoded.tail, spelled(tokenizer, answer))
        memory.check_invariants()
        text += answer + NEXT
    last = memory.encode(HERE, TURN + "The fox 0" * 5 + NEXT)
    kept = last.ids[len(plain(tokenizer, TURN)) :][:45] == spelled(tokenizer, "The fox 0" * 5)
    assert kept == (max_bytes == 100_000)


def test_a_conversation_that_goes_on_outlives_those_that_do_not(tokenizer: Tokenizer) -> None:
    memory = TokenMemory(tokenizer, 20_000)
    memory.learn(memory.encode(HERE, TURN).tail, spelled(tokenizer, "The fox"))
    text = TURN + "The fox" + NEXT
    kept = memory.encode(HERE, text).ids
    assert kept != plain(tokenizer, text)
    for number in range(100):
        memory.encode(HERE, f"<|im_start|>user\n{number}")
        if number % 10 == 0:
            assert memory.encode(HERE, text).ids == kept
    # An answer that is edited anew every time, too.
    other = TURN + "A fox"
    memory.learn(memory.encode(HERE, TURN).tail, spelled(tokenizer, "A fox"))
    for number in range(100):
        memory.encode(HERE, f"<|im_start|>user\n{number}")
        if number % 10 == 0:
            edited = memory.encode(HERE, f"{other} {number}").ids
            start = len(plain(tokenizer, TURN))
            assert edited[start : start + 5] == spelled(tokenizer, "A fox")
    memory.check_invariants()


@pytest.mark.parametrize("kind", MAKERS)
@settings(max_examples=60)
@given(data=st.data())
def test_plain_where_nothing_was_generated(
    tokenizers: dict[str, Tokenizer], kind: str, data: st.DataObject
) -> None:
    tokenizer = tokenizers[kind]
    parts = st.sampled_from([*ADDED, " ", "\n", "The fox", " was", "é", "two words", "日本", "<"])
    texts = st.lists(parts, max_size=12).map("".join)
    memory = TokenMemory(tokenizer, data.draw(st.sampled_from([500, 2000, MAX_BYTES])))
    text = ""
    for _ in range(6):
        # Now and then the conversation goes on, now and then another one comes.
        text = data.draw(texts) if data.draw(st.booleans()) else text + data.draw(texts)
        assert memory.encode(HERE, text).ids == plain(tokenizer, text)
        memory.check_invariants()


def _edit(text: str, data: st.DataObject) -> str:
    how = data.draw(st.sampled_from(["as it is", "trimmed", "cut", "changed", "longer"]))
    at = data.draw(st.integers(0, len(text)))
    return {
        "as it is": text,
        "trimmed": text.strip(),
        "cut": text[:at],
        "changed": f"{text[:at]}x{text[at + 1 :]}",
        "longer": text + " fox",
    }[how]


@pytest.mark.parametrize("kind", MAKERS)
@settings(max_examples=60)
@given(data=st.data())
def test_ids_always_say_the_text(
    tokenizers: dict[str, Tokenizer], kind: str, data: st.DataObject
) -> None:
    """Whatever was generated, and whatever comes back of it."""
    tokenizer = tokenizers[kind]
    memory = TokenMemory(tokenizer, data.draw(st.sampled_from([3000, MAX_BYTES])))
    ids = st.lists(st.integers(0, tokenizer.vocab_size + 2), max_size=12)
    text = TURN if data.draw(st.booleans()) else "The fox"
    for _ in range(4):
        encoded = memory.encode(HERE, text)
        if kind == "bytes":
            assert said(tokenizer, encoded.ids) == text
        else:
            # Such a tokenizer may put spaces before words, and knows not every character.
            shown = said(tokenizer, encoded.ids).replace(" ", "")
            assert shown == said(tokenizer, plain(tokenizer, text)).replace(" ", "")
        answer = data.draw(ids)
        memory.learn(encoded.tail, answer)
        memory.check_invariants()
        again = memory.encode(HERE, text + said(tokenizer, answer))
        if kind == "bytes":
            assert said(tokenizer, again.ids) == text + said(tokenizer, answer)
        text += _edit(said(tokenizer, answer), data) + data.draw(st.sampled_from([NEXT, "", "\n"]))


def test_nobody_waits_for_anothers_tokenizing(tokenizer: Tokenizer) -> None:
    has_begun, may_end = threading.Event(), threading.Event()

    class Slow(Counting):
        def encode(self, text: str, **options: Any) -> list[int]:
            if text == "slow":
                has_begun.set()
                assert may_end.wait(20)
            return super().encode(text, **options)

    slow: Any = Slow(tokenizer)
    memory = TokenMemory(slow, MAX_BYTES)
    waiting = threading.Thread(target=memory.encode, args=(HERE, "slow"))
    waiting.start()
    assert has_begun.wait(20)
    encoded = memory.encode(HERE, TURN)
    memory.learn(encoded.tail, spelled(tokenizer, "fox"))
    assert memory.encode(HERE, TURN + "fox").ids[-3:] == spelled(tokenizer, "fox")
    may_end.set()
    waiting.join(20)
    assert not waiting.is_alive()


def test_what_is_learnt_meanwhile_is_not_overwritten(tokenizer: Tokenizer) -> None:
    """Somebody sends a text and is still at tokenizing it, when the model writes the very same."""

    class Late(Counting):
        def encode(self, text: str, **options: Any) -> list[int]:
            if text.endswith("fox") and not self.asked.count(text):
                self.asked.append(text)
                memory.learn(tail, spelled(tokenizer, "fox"))
            return super().encode(text, **options)

    late: Any = Late(tokenizer)
    memory = TokenMemory(late, MAX_BYTES)
    tail = memory.encode(HERE, TURN).tail
    assert memory.encode(HERE, TURN + "fox").ids == plain(tokenizer, TURN + "fox")
    assert memory.encode(HERE, TURN + "fox").ids[-3:] == spelled(tokenizer, "fox")


def test_many_threads(tokenizer: Tokenizer) -> None:
    memory = TokenMemory(tokenizer, 6000)
    failures: list[str] = []

    def talk(number: int) -> None:
        text = TURN
        for turn in range(30):
            encoded = memory.encode(Namespace(str(number % 2)), text)
            if said(tokenizer, encoded.ids) != text:
                failures.append(text)
            answer = f"The {number % 3} was {turn}"
            memory.learn(encoded.tail, spelled(tokenizer, answer))
            text = text + answer + NEXT if turn % 4 else TURN

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    memory.check_invariants()
