"""Names of subjects, put together from parts, each new to its document."""

from collections.abc import Callable

from radixserve.demo.corpus.setting import Setting
from radixserve.demo.corpus.subject import Subject
from radixserve.demo.corpus.words import first_names, people, surnames, things, titles

PLANT_SIZES = ("big", "small", "old", "young", "tall", "little")
CAR_KINDS = ("van", "estate", "coupe", "pickup", "hatchback", "minibus", "saloon", "cabriolet")


def person(setting: Setting) -> Subject:
    """A person whose first name and surname nobody else in the document has."""
    female = setting.chance.hits(0.5)
    if female:
        known, made_up = first_names.FEMALE, first_names.FEMALE_SYLLABLES
    else:
        known, made_up = first_names.MALE, first_names.MALE_SYLLABLES
    # The draw of the list is part of each try, so that a list that has run out does no harm.
    first = setting.fresh(lambda: setting.word(made_up if setting.chance.hits(0.3) else known))
    last = setting.fresh(
        lambda: setting.word(surnames.SYLLABLES if setting.chance.hits(0.5) else surnames.KNOWN)
    )
    title = "Ms" if female else "Mr"
    return Subject(
        name=f"{first} {last}",
        shorts=(first, first, f"{title} {last}"),
        pronoun="she" if female else "he",
        possessive="her" if female else "his",
    )


def animal(setting: Setting) -> Subject:
    """An animal with a name of its own."""
    female = setting.chance.hits(0.5)
    name = setting.fresh_word(people.PET_NAMES)
    return Subject(name, pronoun="she" if female else "he", possessive="her" if female else "his")


def place(setting: Setting, noun: str) -> Subject:
    """A place: the Luna Cafe, the Harbour Museum."""
    word = setting.fresh(
        lambda: setting.word(things.BRANDS if setting.chance.hits(0.3) else things.PLACE_WORDS)
    )
    return Subject(f"{word} {noun.title()}", article="the ")


def product(setting: Setting, noun: str) -> Subject:
    """A thing with a maker's word before it; "the kettle" will do where there is one kettle."""
    del noun
    kind = setting.fresh(lambda: setting.chance.pick(things.GOODS))
    brand = setting.fresh_word(things.BRANDS)
    return Subject(f"{brand} {kind}", article="the ", shorts=(f"the {kind}",))


def event(setting: Setting, noun: str) -> Subject:
    """An event: the Jazz Concert; each kind of event comes once."""
    del noun
    kind = setting.fresh(lambda: setting.chance.pick(titles.EVENTS))
    topic = setting.fresh_word(titles.TOPICS)
    return Subject(f"{topic} {kind}", article="the ", shorts=(f"the {kind.lower()}",))


def room(setting: Setting, noun: str) -> Subject:
    """A numbered room."""
    del noun
    return Subject(setting.fresh(lambda: f"room {setting.number(100, 930)}"))


def course(setting: Setting, noun: str) -> Subject:
    """A course: the Pottery course, the Italian class."""
    pool = people.LANGUAGES if setting.chance.hits(0.5) else titles.TOPICS
    return Subject(f"{setting.fresh_word(pool)} {noun}", article="the ")


def train(setting: Setting, noun: str) -> Subject:
    """A numbered train, bus or ferry."""
    return Subject(setting.fresh(lambda: f"{noun} {setting.number(100, 9800)}"))


def order(setting: Setting, noun: str) -> Subject:
    """A numbered order."""
    return Subject(setting.fresh(lambda: f"{noun} {setting.number(1000, 98000)}"))


def plant(setting: Setting, noun: str) -> Subject:
    """A plant: the big fern."""
    del noun
    kind = setting.fresh_word(things.PLANTS)
    return Subject(
        setting.fresh(lambda: f"{setting.chance.pick(PLANT_SIZES)} {kind}"), article="the "
    )


def book(setting: Setting, noun: str) -> Subject:
    """A book's title: The Silent Harbour."""
    del noun
    adjective = setting.fresh_word(titles.BOOK_ADJECTIVES)
    return Subject(f"The {adjective} {setting.fresh_word(titles.BOOK_NOUNS)}")


def car(setting: Setting, noun: str) -> Subject:
    """A car: the Velora van."""
    del noun
    brand = setting.fresh_word(things.BRANDS)
    return Subject(f"{brand} {setting.chance.pick(CAR_KINDS)}", article="the ")


def dish(setting: Setting, noun: str) -> Subject:
    """A dish: the grilled salmon."""
    del noun
    main = setting.fresh_word(titles.DISH_MAINS)
    return Subject(f"{setting.word(titles.DISH_STYLES)} {main}", article="the ")


SUBJECTS: dict[str, Callable[[Setting, str], Subject]] = {
    "person": lambda setting, _: person(setting),
    "animal": lambda setting, _: animal(setting),
    "place": place,
    "product": product,
    "event": event,
    "room": room,
    "course": course,
    "train": train,
    "order": order,
    "plant": plant,
    "book": book,
    "car": car,
    "dish": dish,
}
