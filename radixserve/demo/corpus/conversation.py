"""The turns of one dialogue: what is asked next, what refers back, what was told before."""

from collections.abc import Callable

from radixserve.demo.corpus import frames, small_talk
from radixserve.demo.corpus.dialogue import Turn
from radixserve.demo.corpus.document import Document
from radixserve.demo.corpus.domains import DOMAINS
from radixserve.demo.corpus.grammar import with_article
from radixserve.demo.corpus.names import SUBJECTS, person
from radixserve.demo.corpus.questions import Asked, Questioner, Topic
from radixserve.demo.corpus.setting import Setting
from radixserve.demo.corpus.stated import STATEMENTS, TOLD_ANSWER, UNKNOWN_ANSWER, Statement
from radixserve.demo.corpus.values import VALUES
from radixserve.demo.corpus.wording import Wording

FOLLOW_UP_SHARE = 0.3
"""How many of the turns that could refer back do so."""
HARD_ONES_MORE = 1.8
"""What their weights are multiplied with in training, which asks them some 1.4 times as often."""


class Conversation:
    """Draws turn after turn. *Mutates* the stream behind its setting."""

    def __init__(self, setting: Setting, document: Document | None, wording: Wording) -> None:
        self.setting = setting
        self.chance = setting.chance
        self.wording = wording
        self.topic: Topic | None = None
        self._answer = ""
        self._told: dict[str, tuple[Statement, str]] = {}
        self._to_recall: list[str] = []
        self._questioner = None if document is None else Questioner(setting, document, wording)
        self._makers = self._kinds(self._questioner)

    def turns(self, max_characters: int, most: int) -> list[Turn]:
        """Turns of at most about that many characters, at least one and at most ``most``."""
        turns: list[Turn] = []
        left = max_characters
        while len(turns) < most:
            asked = self._opening() if not turns and self.chance.hits(0.12) else self._next()
            if asked is None:
                continue
            left -= len(asked.turn.question) + len(asked.turn.answer)
            if turns and left < 0:
                break
            turns.append(asked.turn)
            self._answer = asked.turn.answer
        return turns

    def _next(self) -> Asked | None:
        chance = self.chance
        if self.topic is not None and self._questioner is not None and chance.hits(FOLLOW_UP_SHARE):
            same = chance.hits(0.6)
            follow = self._questioner.same_subject if same else self._questioner.other_subject
            asked = follow(self.topic)
            if asked is not None:
                self.topic = asked.topic
                return asked
        make = chance.weighted(self._makers)
        asked = make()
        if asked is not None and asked.turn.kind not in ("thanks", "told", "repeat"):
            self.topic = asked.topic
        return asked

    def _kinds(
        self, questioner: Questioner | None
    ) -> list[tuple[Callable[[], Asked | None], float]]:
        """The kinds of turns, each with its weight."""
        common: list[tuple[Callable[[], Asked | None], float]] = [
            (self._tell, 0.04),
            (self._recall, 0.15),
            (self._unknown_statement, 0.012),
            (self._small_talk, 0.05),
            (self._repeat, 0.008),
        ]
        if questioner is None:
            return [*common, (self._no_document, 0.06)]
        # Training asks more of what is hard; what measures it asks as people would.
        often = 1.0 if self.setting.held_out else HARD_ONES_MORE
        return [
            *common,
            (questioner.direct, 0.50),
            (questioner.double, 0.03),
            (questioner.inverse, 0.20 * often),
            (questioner.check, 0.09 * often),
            (questioner.several, 0.08 * often),
            (questioner.summary, 0.03),
            (questioner.contents, 0.015),
            (questioner.unknown_subject, 0.035),
            (questioner.unknown_value, 0.02 * often),
            (questioner.missing_attribute, 0.045 * often),
            (self._world, 0.01),
        ]

    def _opening(self) -> Asked:
        return self._said(small_talk.GREETING)

    def _small_talk(self) -> Asked:
        talks = small_talk.SMALL_TALKS
        return self._said(self.chance.weighted([(talk, talk.weight) for talk in talks]))

    def _said(self, talk: small_talk.SmallTalk) -> Asked:
        return Asked(Turn(self._plain(self.wording.phrase(talk.says)), talk.answer, talk.kind))

    def _plain(self, text: str) -> str:
        """Small talk as typed: its openings are its own, so none is put before it."""
        if self.chance.hits(0.1):
            return text.lower()
        return text.rstrip(".!?") if self.chance.hits(0.1) else text

    def _repeat(self) -> Asked | None:
        """The answer before, once more."""
        if not self._answer:
            return None
        question = self._plain(self.wording.phrase(frames.REPEAT_REQUESTS))
        return Asked(Turn(question, self._answer, "repeat"))

    def _world(self) -> Asked:
        question = self._plain(self.wording.phrase(small_talk.WORLD_QUESTIONS))
        return Asked(Turn(question, frames.ABSENT_ANSWER, "absent"))

    def _no_document(self) -> Asked:
        """A question for a document where there is none."""
        if self.chance.hits(0.2):
            question = self._plain(self.wording.phrase(small_talk.WORLD_QUESTIONS))
        elif self.chance.hits(0.2):
            question = self.wording.put(self.wording.phrase(frames.TOPIC_QUESTIONS))
        else:
            question = self._stray_question()
        return Asked(Turn(question, frames.NO_DOCUMENT_ANSWER, "absent"))

    def _stray_question(self) -> str:
        domain = self.chance.weighted(DOMAINS)
        subject = SUBJECTS[domain.subjects](self.setting, self.chance.pick(domain.kinds)[0])
        return self.wording.ask(self.chance.pick(domain.attributes), self.wording.refer(subject))

    def _tell(self) -> Asked | None:
        statement = self.chance.pick(STATEMENTS)
        if statement.fact in self._told:
            return None
        if statement.value == "first name":
            value = person(self.setting).name.partition(" ")[0]
        else:
            value = VALUES[statement.value](self.setting)
        self._told[statement.fact] = (statement, value)
        self._to_recall.append(statement.fact)
        template = self.wording.phrase(statement.tells)
        said = template.replace("{av}", with_article(value)).replace("{v}", value)
        answer = TOLD_ANSWER.format(_fact(statement, value))
        return Asked(Turn(self._plain(said), answer, "told"))

    def _recall(self) -> Asked | None:
        """What the user told, a few turns ago or just now; most things are asked for once."""
        if not self._told:
            return None
        again = self.chance.hits(0.2) or not self._to_recall
        fact = self.chance.pick(list(self._told) if again else self._to_recall)
        if fact in self._to_recall:
            self._to_recall.remove(fact)
        statement, value = self._told[fact]
        question = self.wording.put(self.wording.phrase(statement.asks))
        answer = _fact(statement, value)
        return Asked(Turn(question, f"{answer[0].upper()}{answer[1:]}.", "stated"))

    def _unknown_statement(self) -> Asked | None:
        statement = self.chance.pick(STATEMENTS)
        if statement.fact in self._told:
            return None
        question = self.wording.put(self.wording.phrase(statement.asks))
        return Asked(Turn(question, UNKNOWN_ANSWER, "stated"))


def _fact(statement: Statement, value: str) -> str:
    return statement.fact.replace("{av}", with_article(value)).replace("{v}", value)
