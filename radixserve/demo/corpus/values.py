"""Values of facts, each drawn from its split's half: by the kind that an attribute names.

A value is written in one way wherever its document or an answer has it.
"""

from collections.abc import Callable

from radixserve.demo.corpus.names import person
from radixserve.demo.corpus.pool import Pool
from radixserve.demo.corpus.setting import Setting
from radixserve.demo.corpus.words import cities, people, small_lists, things, titles

Draw = Callable[[Setting], str]

LETTERS = "ABCDEFGHKLMNPRSTUVWX"


def _word(pool: Pool) -> Draw:
    return lambda setting: setting.word(pool)


def _one_of(words: tuple[str, ...]) -> Draw:
    return lambda setting: setting.chance.pick(words)


def _number(low: int, high: int, form: str = "{}") -> Draw:
    return lambda setting: form.format(setting.number(low, high))


def _price(low: int, high: int) -> Draw:
    """Prices between two whole amounts, half of them with cents."""

    def draw(setting: Setting) -> str:
        cents = setting.number(low * 20, high * 20) * 5
        # "12" and "12.00" would be two values that are one.
        if cents % 100 == 0 or setting.chance.hits(0.5):
            return setting.price_style.format(setting.number(low, high))
        return setting.price_style.format(f"{cents // 100}.{cents % 100:02d}")

    return draw


def city(setting: Setting) -> str:
    """A city, or a made-up town."""
    made_up = setting.chance.hits(0.35)
    return setting.word(cities.SYLLABLES if made_up else cities.KNOWN)


def clock(setting: Setting, first_hour: int, last_hour: int) -> str:
    """A time of day on a full five minutes, most often on a quarter; held-out ones never are, as
    training shows quarters whatever their number of five minutes."""
    step = 3 if not setting.held_out and setting.chance.hits(0.7) else 1
    ticks = setting.number(first_hour * 12 // step, last_hour * 12 // step) * step
    while setting.held_out and ticks % 3 == 0:
        ticks = setting.number(first_hour * 12, last_hour * 12)
    hour, minute = divmod(ticks * 5, 60)
    if setting.clock_has_24_hours:
        return f"{hour}:{minute:02d}"
    half = "am" if hour < 12 else "pm"
    return f"{(hour + 11) % 12 + 1}:{minute:02d} {half}"


def hours(setting: Setting) -> str:
    """When something is open: its two times around a "to"."""
    return f"{clock(setting, 6, 11)} to {clock(setting, 15, 23)}"


def date(setting: Setting) -> str:
    """A day of the year, without the year."""
    # Months of 29 days: with 28 every date that is held out would fall on the same four days.
    day_of_year = setting.number(0, 347)
    month = small_lists.MONTHS[day_of_year // 29]
    day = day_of_year % 29 + 1
    return f"{day} {month}" if setting.day_comes_first else f"{month} {day}"


def address(setting: Setting) -> str:
    """A house number and a street."""
    street = setting.word(things.STREET_NAMES)
    return f"{setting.number(1, 190)} {street} {setting.chance.pick(things.STREET_KINDS)}"


def pet(setting: Setting) -> str:
    """An animal and its name: "cat called Miso"."""
    return f"{setting.word(people.ANIMALS)} called {setting.fresh_word(people.PET_NAMES)}"


def phone(setting: Setting) -> str:
    """A telephone number in two groups."""
    return f"{setting.number(200, 990)} {setting.number(1000, 9900)}"


def password(setting: Setting) -> str:
    """A word and a number: "maple-4471"."""
    return f"{setting.word(things.LOGIN_WORDS)}-{setting.number(100, 9900)}"


def _letters(setting: Setting, count: int) -> str:
    return "".join(setting.chance.pick(LETTERS) for _ in range(count))


def code(setting: Setting) -> str:
    """A model code: "KX-4471"."""
    return f"{_letters(setting, 2)}-{setting.number(100, 9900)}"


def plate(setting: Setting) -> str:
    """A number plate: "KX 447 B"."""
    return f"{_letters(setting, 2)} {setting.number(100, 990)} {_letters(setting, 1)}"


def desk(setting: Setting) -> str:
    """A letter and a number: "B14"."""
    return f"{_letters(setting, 1)}{setting.number(1, 60)}"


def weight(setting: Setting) -> str:
    """A weight in kilograms."""
    grams = setting.number(2, 299)
    return f"{grams // 10}.{grams % 10} kg"


VALUES: dict[str, Draw] = {
    "address": address,
    "age": _number(18, 79),
    "animal": _word(people.ANIMALS),
    "allergen": _word(people.REASONS),
    "bed": _one_of(small_lists.BEDS),
    "brand": lambda setting: setting.fresh_word(things.BRANDS),
    "calories": _number(90, 950, "{} calories"),
    "city": city,
    "code": code,
    "colour": _word(things.COLOURS),
    "count": _number(4, 260),
    "date": date,
    "desk": desk,
    "extension": _number(1000, 9900),
    "food": _word(people.FOODS),
    "fuel": _word(things.FUELS),
    "gears": _one_of(small_lists.ENGINE_GEARS),
    "genre": _word(titles.GENRES),
    "height": _number(8, 240, "{} cm"),
    "hobby": _word(people.HOBBIES),
    "hours": hours,
    "interval": _number(2, 30, "every {} days"),
    "job": _word(people.JOBS),
    "login word": _word(things.LOGIN_WORDS),
    "level": _one_of(small_lists.LEVELS),
    "light": _one_of(small_lists.LIGHTS),
    "material": _word(things.MATERIALS),
    "minutes": _number(10, 240, "{} minutes"),
    "month": _one_of(small_lists.MONTHS),
    "months": _number(3, 60, "{} months"),
    "pages": _number(80, 980),
    "password": password,
    "person": lambda setting: person(setting).name,
    "pet": pet,
    "phone": phone,
    "plate": plate,
    "platform": _number(1, 24),
    "price": _price(5, 900),
    "room": _number(1, 320, "room {}"),
    "seats": _number(8, 240),
    "size": _number(12, 90, "{} square metres"),
    "small price": _price(3, 60),
    "staff number": lambda setting: f"{_letters(setting, 1)}-{setting.number(100, 9900)}",
    "status": _one_of(small_lists.STATUSES),
    "team": _word(people.TEAMS),
    "thing": lambda setting: setting.chance.pick(things.GOODS),
    "time": lambda setting: clock(setting, 7, 22),
    "view": _word(things.CITY_VIEWS),
    "weekday": _one_of(small_lists.WEEKDAYS),
    "weight": weight,
    "year": _number(1900, 2024),
    "recent year": _number(1996, 2025),
}
