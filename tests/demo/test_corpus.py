"""The corpus: the same text always, nothing held out in training, and answers that are right."""

import hashlib
import importlib
import itertools
import pkgutil
import random
import re
from collections import Counter
from collections.abc import Iterator

import pytest

from radixserve.demo.corpus import frames, small_talk, stated, words
from radixserve.demo.corpus.attribute import Attribute, Phrases
from radixserve.demo.corpus.chance import Chance
from radixserve.demo.corpus.dialogue import Dialogue, Split
from radixserve.demo.corpus.document import draw_document
from radixserve.demo.corpus.domains import DOMAINS
from radixserve.demo.corpus.generate import MOST_TURNS, make_dialogue
from radixserve.demo.corpus.grammar import plural_of, question_of, with_article
from radixserve.demo.corpus.pool import LONGEST_COINED, Pool, is_held_out
from radixserve.demo.corpus.questions import Questioner
from radixserve.demo.corpus.setting import Setting
from radixserve.demo.corpus.subject import Subject
from radixserve.demo.corpus.values import clock
from radixserve.demo.corpus.wording import WHO_FOR_PERSONS, Wording
from radixserve.demo.corpus.words import (
    HELD_OUT,
    cities,
    first_names,
    people,
    surnames,
    things,
    titles,
)

GOLDEN = "2f2f8c04a5b7de04e0c0242b82906a9e96f14f2475fe4962d503d073eef97de6"
"""SHA-256 of some dialogues: the shipped model's corpus. Changes with every change of the text."""

SIZES = (450, 900, 1800, 3600, 6000)
KINDS = {
    "record": 0.05,
    "prose": 0.05,
    "table": 0.05,
    "follow-up": 0.08,
    "inverse": 0.06,
    "absent": 0.05,
    "yes-no": 0.03,
    "two facts": 0.008,
    "told": 0.015,
    "stated": 0.012,
    "summary": 0.008,
    "list": 0.004,
    "contents": 0.003,
    "repeat": 0.002,
    "greeting": 0.01,
    "thanks": 0.004,
    "about": 0.002,
    "help": 0.002,
    "goodbye": 0.002,
}
"""Every kind of turn, and the share that it has at the least."""

ABOUT_A_SUBJECT = ("record", "prose", "table", "follow-up", "yes-no", "two facts", "summary")
FIXED_ANSWERS = {
    frames.ABSENT_ANSWER,
    frames.NO_DOCUMENT_ANSWER,
    stated.UNKNOWN_ANSWER,
    *(talk.answer for talk in small_talk.SMALL_TALKS),
}
POOLS = {
    "female first name": first_names.FEMALE,
    "female syllables": first_names.FEMALE_SYLLABLES,
    "male first name": first_names.MALE,
    "male syllables": first_names.MALE_SYLLABLES,
    "surname": surnames.KNOWN,
    "surname syllables": surnames.SYLLABLES,
    "city": cities.KNOWN,
    "town": cities.SYLLABLES,
    "brand": things.BRANDS,
    "job": people.JOBS,
    "book": titles.BOOK_NOUNS,
}


def dialogues(split: Split, count: int, *, seed: int = 0) -> Iterator[Dialogue]:
    rng = random.Random(seed)
    for _, size in zip(range(count), itertools.cycle(SIZES)):
        yield make_dialogue(rng, split=split, max_characters=size)


@pytest.fixture(scope="module", params=list(Split))
def some(request: pytest.FixtureRequest) -> list[Dialogue]:
    return list(dialogues(request.param, 1000))


def every_list() -> Iterator[tuple[str, Phrases]]:
    """Everything that has wordings, by name."""
    for domain, _ in DOMAINS:
        for attribute in domain.attributes:
            yield f"{domain.key} {attribute.key} asks", attribute.asks
            yield f"{domain.key} {attribute.key} clauses", attribute.clauses
            if attribute.otherwise:
                yield f"{domain.key} {attribute.key} opposite", attribute.opposite
    for name, value in vars(frames).items():
        if isinstance(value, Phrases):
            yield name, value
    for talk in small_talk.SMALL_TALKS:
        yield talk.answer, talk.says
    yield "world", small_talk.WORLD_QUESTIONS
    for statement in stated.STATEMENTS:
        yield f"{statement.fact} tells", statement.tells
        yield f"{statement.fact} asks", statement.asks


def bare(phrase: str) -> str:
    return re.sub(r"[^a-z{} ]", "", phrase.lower()).strip()


def compositions(attribute: Attribute, *, held_out: bool) -> set[str]:
    """Every template that asks directly for the attribute."""

    def part(phrases: Phrases) -> tuple[str, ...]:
        return phrases.held_out if held_out else phrases.train

    found = set(part(attribute.asks))
    asked = "\n".join(part(frames.NOUN_FRAMES))
    for what, who in WHO_FOR_PERSONS if attribute.value == "person" else ():
        asked = asked.replace(what, who)
    for noun in attribute.nouns:
        found.update(asked.replace("{n}", noun).split("\n"))
    pairs = list(itertools.product(part(frames.CLAUSE_FRAMES), attribute.clauses.train))
    if held_out:
        pairs += itertools.product(frames.CLAUSE_FRAMES.train, attribute.clauses.held_out)
    for frame, clause in pairs:
        found.add(frame.replace("{c}", clause))
    return {bare(template) for template in found}


def test_the_same_seed_gives_the_same_text_everywhere() -> None:
    text = "".join(repr(dialogue) for dialogue in dialogues(Split.TRAIN, 30, seed=5))
    assert hashlib.sha256(text.encode()).hexdigest() == GOLDEN


def test_every_split_tells_its_own_story() -> None:
    train, values, phrasings = (list(dialogues(split, 20, seed=3)) for split in Split)
    assert train != values
    # The two held-out splits differ in their questions only.
    assert [dialogue.system for dialogue in values] != [dialogue.system for dialogue in train]
    assert values != phrasings


@pytest.mark.parametrize("name", POOLS)
def test_held_out_words_are_never_trained_on(name: str) -> None:
    pool = POOLS[name]
    assert pool.held_out
    assert not set(pool.train) & set(pool.held_out)
    share = len(pool.held_out) / (len(pool.train) + len(pool.held_out))
    assert 0.1 < share < 0.25


def test_coined_words_are_new_and_only_trainings() -> None:
    """A front and a back of the list, of many spellings; held out is what is held out anywhere."""
    chance = Chance(random.Random(0))
    drawn = {first_names.FEMALE.coined(chance) for _ in range(5000)}
    assert len(drawn) > 2000
    for word in drawn:
        assert 3 <= len(word) <= LONGEST_COINED
        assert any(word.startswith(front[:2]) for front in first_names.FEMALE.train), word
    assert drawn & HELD_OUT
    # Some of these are of two words: "Sofia Park".
    towns = {cities.KNOWN.coined(chance) for _ in range(5000)}
    assert not any(re.search(r"[a-z][A-Z]", town) for town in towns)
    training, measuring = (
        Setting(Chance(random.Random(1)), held_out=held_out) for held_out in (False, True)
    )
    words = [training.word(first_names.FEMALE) for _ in range(5000)]
    assert 0.3 < sum(word not in first_names.FEMALE.train for word in words) / len(words) < 0.45
    assert HELD_OUT.isdisjoint(words)
    assert {measuring.word(cities.KNOWN) for _ in range(1000)} == set(cities.KNOWN.held_out)


def test_every_list_of_words_is_refused_to_coined_ones() -> None:
    names = [module.name for module in pkgutil.iter_modules(words.__path__)]
    modules = [importlib.import_module(f"{words.__name__}.{name}") for name in names]
    held_out = {word for pool in vars_of(*modules) for word in pool.held_out}
    assert held_out == HELD_OUT
    assert len(held_out) > 300


def test_training_shows_no_held_out_name() -> None:
    names: set[str] = set()
    allowed: set[str] = set()
    for pool in vars_of(first_names, surnames, cities, people, things, titles):
        names.update(word for word in pool.held_out if " " not in word and word[0].isupper())
        allowed.update(word for phrase in pool.train for word in phrase.split())
    # These are ordinary words as well: a kind of place, a label, a heading, an aside.
    names -= allowed | {"Bakery", "Captain", "Travel", "Spring"}
    assert len(names) > 300
    seen: set[str] = set()
    for dialogue in dialogues(Split.TRAIN, 2000, seed=1):
        for text in (dialogue.system, *(turn.question for turn in dialogue.turns)):
            seen.update(re.findall(r"[A-Z][a-z]+", text))
    assert not seen & names, sorted(seen & names)
    assert len(seen) > 2000


def vars_of(*modules: object) -> Iterator[Pool]:
    for module in modules:
        yield from (value for value in vars(module).values() if isinstance(value, Pool))


def test_held_out_splits_draw_nothing_but_held_out_values() -> None:
    for split in (Split.HELD_OUT_VALUES, Split.HELD_OUT_PHRASINGS):
        trained = set(first_names.FEMALE.train) | set(first_names.MALE.train)
        trained |= set(surnames.KNOWN.train) | set(first_names.FEMALE_SYLLABLES.train)
        trained -= {w for p in vars_of(things, titles, people, cities) for w in p.held_out}
        trained -= {"Will", "May", "Grace"}
        for dialogue in dialogues(split, 300, seed=2):
            words = set(re.findall(r"[A-Z][a-z]+", dialogue.system))
            assert not words & trained, words & trained


def test_numbers_are_held_out_by_their_rest() -> None:
    for held_out in (False, True):
        setting = Setting(Chance(random.Random(0)), held_out=held_out)
        drawn = {setting.number(10, 99) for _ in range(2000)}
        assert {is_held_out(number) for number in drawn} == {held_out}


def test_held_out_times_are_never_trained_on() -> None:
    shown = {}
    for held_out in (False, True):
        setting = Setting(Chance(random.Random(0)), held_out=held_out)
        setting.clock_has_24_hours = True
        shown[held_out] = {clock(setting, 6, 23) for _ in range(3000)}
    assert len(shown[True]) > 15
    assert len(shown[False]) > 150
    assert not shown[True] & shown[False]


@pytest.mark.parametrize(("name", "found"), list(every_list()))
def test_no_phrase_is_both_trained_on_and_held_out(name: str, found: Phrases) -> None:
    train, held_out = {bare(p) for p in found.train}, {bare(p) for p in found.held_out}
    assert len(held_out) == len(found.held_out), "one is held out twice"
    assert held_out, "nothing is held out"
    assert not train & held_out, train & held_out


def test_no_composition_is_both_trained_on_and_held_out() -> None:
    """What one attribute holds out, no other attribute trains on."""
    attributes = [attribute for domain, _ in DOMAINS for attribute in domain.attributes]
    train = [compositions(attribute, held_out=False) for attribute in attributes]
    held_out = [compositions(attribute, held_out=True) for attribute in attributes]
    assert not set().union(*train) & set().union(*held_out)
    for attribute, mine, kept in zip(attributes, train, held_out, strict=True):
        assert len(mine) >= 30, attribute.key
        assert len(kept) / (len(mine) + len(kept)) >= 0.15, attribute.key


def test_training_asks_nothing_in_a_held_out_way() -> None:
    """No question of training has the words of a held-out one around its names."""
    patterns = set()
    for name, found in every_list():
        # Clauses and openings are parts, which may be a phrase by themselves; and "I am {v}" is
        # more than one statement.
        for phrase in () if name.endswith(("clauses", "tells", "OPENINGS")) else found.held_out:
            words = re.sub(r"\{\w+\}", "", phrase).split()
            if len(words) >= 3 and not re.search(r"\{[ncfqab]", phrase):
                patterns.add(re.sub(r"\{\w+\}", "(.+)", bare(phrase)))
    assert len(patterns) > 250
    wanted = re.compile("|".join(f"(?:{pattern})" for pattern in sorted(patterns)))
    for dialogue in dialogues(Split.TRAIN, 300, seed=11):
        for turn in dialogue.turns:
            question = re.sub(r"[^a-z0-9 ]", "", turn.question.lower())
            assert not wanted.fullmatch(question), turn


def test_held_out_phrases_have_no_word_that_training_lacks() -> None:
    lists = list(every_list())
    known = {word for _, found in lists for phrase in found.train for word in bare(phrase).split()}
    for domain, _ in DOMAINS:
        for attribute in domain.attributes:
            phrases = attribute.nouns + attribute.facts
            known.update(word for phrase in phrases for word in bare(phrase).split())
    held_out = {
        (name, word)
        for name, found in lists
        for phrase in found.held_out
        for word in bare(phrase).split()
        if word not in known
    }
    assert not held_out


def test_answers_are_in_the_document_or_were_told(some: list[Dialogue]) -> None:
    """All the words with digits or capitals of an answer stand in what came before it."""
    for dialogue in some:
        before = dialogue.system.lower()
        for turn in dialogue.turns:
            before += " " + turn.question.lower()
            if turn.answer in FIXED_ANSWERS or turn.kind == "repeat":
                continue
            words = re.findall(r"\S*[\dA-Z]\S*", turn.answer)
            # The first word of these is the subject's, or its article.
            is_name = turn.kind in ABOUT_A_SUBJECT and words[0] != "The"
            for word in words if is_name else words[1:]:
                bare_word = word.strip(".,").lower().removesuffix("'s")
                assert bare_word.rstrip("s") in before, (turn, word)


def test_answers_are_short_sentences(some: list[Dialogue]) -> None:
    for dialogue in some:
        for turn in dialogue.turns:
            assert len(turn.answer.split()) <= 22, turn
            assert turn.answer[0].isupper() or turn.answer[0].isdigit(), turn
            assert turn.answer.endswith((".", "?")), turn
            assert not re.search(r"[{}]|  | \.|\.\.$|^ | $", turn.answer + turn.question), turn


def test_nothing_is_left_unfilled(some: list[Dialogue]) -> None:
    for dialogue in some:
        assert not re.search(r"\{\w*\}", dialogue.system), dialogue.system


def test_an_inverse_question_has_one_answer() -> None:
    """No other fact of the document has the value that is asked with."""
    rng = random.Random(4)
    asked = 0
    for _ in range(150):
        setting = Setting(Chance(rng), held_out=False)
        document = draw_document(setting, 2500)
        questioner = Questioner(setting, document, Wording(Chance(rng), held_out=False))
        values = [v for s in document.sections for x in s.subjects for v in x.facts.values()]
        for found in filter(None, (questioner.inverse() for _ in range(10))):
            topic = found.topic
            assert topic is not None
            value = topic.subject.facts[topic.attribute.key]
            assert value.lower() in found.turn.question.lower()
            assert topic.subject.name.lower() in found.turn.answer.lower()
            assert sum(f" {value} " in f" {other} " for other in values) == 1, found
            asked += 1
    assert asked > 500


def test_names_of_a_document_are_unique() -> None:
    rng = random.Random(8)
    # The held-out lists are the short ones: names would come twice there first.
    for _ in range(150):
        setting = Setting(Chance(rng), held_out=True)
        document = draw_document(setting, 6000)
        facts = [v for s in document.sections for x in s.subjects for v in x.facts.values()]
        assert document.counts == Counter(facts)
        names = [subject.name for s in document.sections for subject in s.subjects]
        assert len(set(names)) == len(names)
        firsts = [
            subject.shorts[0]
            for s in document.sections
            if s.domain.is_people
            for subject in s.subjects
        ]
        assert len(set(firsts)) == len(firsts)


def test_no_fact_of_a_document_is_lost() -> None:
    rng = random.Random(6)
    for _ in range(200):
        document = draw_document(Setting(Chance(rng), held_out=False), 2500)
        text = document.text.lower()
        for section in document.sections:
            for subject in section.subjects:
                assert subject.name.lower() in text
                for value in subject.facts.values():
                    assert value.lower() in text


@pytest.mark.parametrize("size", SIZES)
def test_lengths_keep_to_what_is_asked(size: int) -> None:
    rng = random.Random(size)
    lengths = []
    for _ in range(150):
        dialogue = make_dialogue(rng, split=Split.TRAIN, max_characters=size)
        talk = sum(len(turn.question) + len(turn.answer) for turn in dialogue.turns)
        lengths.append(len(dialogue.system) + talk)
        assert dialogue.turns
        assert len(dialogue.turns) <= MOST_TURNS
    assert max(lengths) <= size + 130
    assert sorted(lengths)[len(lengths) // 2] > 0.85 * size


def test_every_kind_has_its_share(some: list[Dialogue]) -> None:
    counts = Counter(turn.kind for dialogue in some for turn in dialogue.turns)
    total = counts.total()
    assert set(counts) == set(KINDS)
    for kind, share in KINDS.items():
        assert counts[kind] / total >= share, (kind, counts[kind] / total)


def test_training_asks_more_of_what_is_hard() -> None:
    shares = []
    for split in (Split.TRAIN, Split.HELD_OUT_VALUES):
        kinds = [turn.kind for dialogue in dialogues(split, 500) for turn in dialogue.turns]
        shares.append(Counter(kinds)["inverse"] / len(kinds))
    assert shares[0] > 1.2 * shares[1]


def test_what_is_told_is_asked_for_later() -> None:
    gaps = Counter[int]()
    meant = {
        bare(question): statement.fact.partition(" {")[0]
        for statement in stated.STATEMENTS
        for question in statement.asks.train
    }
    for dialogue in dialogues(Split.TRAIN, 600, seed=9):
        told: dict[str, int] = {}
        for at, turn in enumerate(dialogue.turns):
            if turn.kind == "told":
                fact = turn.answer.removeprefix("I will remember that ")
                told[fact.lower()] = at
            elif turn.kind == "stated" and turn.answer != stated.UNKNOWN_ANSWER:
                start = meant.get(bare(turn.question))
                assert start is None or turn.answer.lower().startswith(start), turn
                gaps[at - told[turn.answer.lower()]] += 1
    assert gaps.total() > 50
    assert max(gaps) >= 5


def questioners(
    count: int, *, seed: int, held_out: bool = False, size: int = 2500
) -> Iterator[Questioner]:
    """Each with a document of its own."""
    rng = random.Random(seed)
    for _ in range(count):
        setting = Setting(Chance(rng), held_out=held_out)
        document = draw_document(setting, size)
        yield Questioner(setting, document, Wording(Chance(rng), held_out=False))


def names_of(subject: Subject) -> list[str]:
    return [name.lower() for name in (subject.full, *subject.shorts)]


def test_who_is_not_in_a_document_is_not_in_it() -> None:
    """Short lists are used up by long documents: of the languages, six are held out."""
    num_strangers = 0
    for questioner in questioners(60, seed=15, held_out=True, size=4000):
        for section in questioner.document.sections:
            names = {subject.name for subject in section.subjects}
            for _ in range(4):
                stranger = questioner._stranger(section)
                assert stranger is None or stranger.name not in names
                num_strangers += stranger is not None
    assert num_strangers > 100


def test_an_absent_answer_says_what_is_absent() -> None:
    """The subject, a fact of a subject that is there, or a subject with that fact."""
    untold = frames.UNTOLD_ANSWER.removeprefix("{x}")
    counts = Counter[str]()
    for questioner in questioners(150, seed=14):
        subjects = [subject for s in questioner.document.sections for subject in s.subjects]
        unknown = questioner.unknown_subject()
        assert unknown is not None
        assert unknown.turn.answer == frames.ABSENT_ANSWER
        if (asked := questioner.unknown_value()) is not None:
            assert asked.turn.answer.startswith("The one ")
            assert asked.turn.answer.endswith(f" is {frames.UNKNOWN_VALUE}.")
            counts["value"] += 1
        if (asked := questioner.missing_attribute()) is not None:
            name = asked.turn.answer.removesuffix(untold).lower()
            assert any(name in names_of(subject) for subject in subjects), asked
            assert name.removeprefix("the ") in asked.turn.question.lower()
            counts["fact"] += 1
        topic = None if (told := questioner.direct()) is None else told.topic
        if topic is None or (asked := questioner.other_subject(topic)) is None:
            continue
        name = asked.turn.answer.removesuffix(untold).lower()
        if asked.topic is not None:
            counts["other"] += 1
        elif asked.turn.answer != frames.ABSENT_ANSWER:
            [subject] = [s for s in topic.section.subjects if name in names_of(s)]
            assert topic.attribute.part_of(subject.facts) is None
            counts["other untold"] += 1
    assert counts["value"] > 100
    assert counts["fact"] > 100
    assert counts["other"] > 80
    assert counts["other untold"] > 0


def test_an_answer_calls_its_subject_as_the_question_does() -> None:
    """In short where the question does, with its article, and as before where it points back."""
    counts = Counter[str]()
    for questioner in questioners(150, seed=12):
        makers = (questioner.direct, questioner.double, questioner.check, questioner.summary)
        for make in makers * 3:
            asked = make()
            if asked is None:
                continue
            topic = asked.topic
            assert topic is not None
            assert topic.name.lower() in names_of(topic.subject)
            assert topic.name.removeprefix("the ").lower() in asked.turn.question.lower()
            assert asked.turn.answer.lower().startswith(f"{topic.name.lower()} ")
            counts[f"{make.__name__} in short"] += topic.name != topic.subject.full
            for name, follow in (
                ("same", questioner.same_subject(topic)),
                ("other", questioner.other_subject(topic)),
            ):
                if follow is None or follow.topic is None:
                    continue
                assert follow.turn.answer.lower().startswith(f"{follow.topic.name.lower()} ")
                assert (follow.topic.name == topic.name) == (name == "same")
                counts[name] += 1
    for name in ("direct", "double", "check", "summary"):
        assert counts[f"{name} in short"] > 10, name
    assert counts["same"] > 300
    assert counts["other"] > 300


def test_a_yes_or_no_follows_from_the_fact_before_it() -> None:
    said = Counter[str]()
    for questioner in questioners(300, seed=13):
        for asked in filter(None, (questioner.check() for _ in range(6))):
            topic = asked.topic
            assert topic is not None
            right = topic.subject.facts[topic.attribute.key]
            fact, _, conclusion = asked.turn.answer.rpartition(", so ")
            assert right in fact
            assert conclusion in ("yes.", "no.")
            question = bare(asked.turn.question)
            # "Is it open on Monday?": it is closed on what is asked for, so no.
            is_opposite = any(
                re.search(re.sub(r"\\{\w\\}", ".+", re.escape(bare(template))), question)
                for template in topic.attribute.opposite.train
            )
            whole = rf"(?<!\w){re.escape(right)}(?!\w)"
            is_right = bool(re.search(whole, asked.turn.question, re.IGNORECASE))
            kind = "opposite" if is_opposite else "plain"
            said[f"{kind} {conclusion}"] += 1
            # Questions may be mistyped; another value may have this one's words: "dark red", "red".
            said["odd"] += (conclusion == "yes.") != (is_right != is_opposite)
    assert min(said["plain yes."], said["plain no."]) > 200
    assert min(said["opposite yes."], said["opposite no."]) > 2
    assert said["odd"] < 0.04 * (said.total() - said["odd"])


def test_grammar() -> None:
    assert with_article("hour") == "an hour"
    assert with_article("engineer") == "an engineer"
    assert with_article("unicorn") == "a unicorn"
    assert question_of("lives in Turin") == "Does {x} live in Turin?"
    assert question_of("is 34 years old") == "Is {x} 34 years old?"
    assert question_of("has worked here since 2009") == "Has {x} worked here since 2009?"
    assert question_of("has a flat") == "Does {x} have a flat?"
    assert question_of("joined in 2009") == "Did {x} join in 2009?"
    assert question_of("carries the plate") == "Does {x} carry the plate?"
    assert question_of("must be watered every 9 days") == "Must {x} be watered every 9 days?"
    assert plural_of("is closed on Sundays") == "are closed on Sundays"
    assert plural_of("has been here") == "have been here"
    assert plural_of("opened in 1987") == "opened in 1987"
