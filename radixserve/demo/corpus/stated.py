"""Facts that users state about themselves and ask for later.

The answers repeat the fact as it was told; what was never told gets ``UNKNOWN_ANSWER``.
"""

from dataclasses import dataclass

from radixserve.demo.corpus.attribute import Phrases, phrases

UNKNOWN_ANSWER = "You have not told me that."
TOLD_ANSWER = "I will remember that {}."


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing that users tell of themselves; ``{v}`` is the value."""

    value: str
    """Its kind of value, as in ``values.VALUES``, or "first name"."""
    fact: str
    """As answers have it, to the user."""
    tells: Phrases
    asks: Phrases


def _statement(value: str, fact: str, tells: str, asks: str) -> Statement:
    return Statement(value, fact, phrases(tells), phrases(asks))


STATEMENTS = (
    _statement(
        "first name",
        "your name is {v}",
        """
        My name is {v}. | I am called {v}. | Call me {v}. | You can call me {v}. | I'm {v}.
        I am {v}.
        Hi, I am {v}. | Hello, my name is {v}. | Please call me {v}. | By the way, my name is {v}.
        People call me {v}. | Everybody calls me {v}. | Remember that my name is {v}.
        my name is {v}
        ~Hello, I am called {v}. | ~By the way, I am {v}. | ~Please remember that my name is {v}.
        """,
        """
        What is my name? | What's my name? | Who am I? | Do you know my name?
        Do you remember my name?
        What am I called? | Can you tell me my name? | Tell me my name. | How am I called?
        my name?
        Do you know who I am? | What was my name? | Do you still know my name? | Say my name.
        ~Can you tell me who I am? | ~Do you remember who I am? | ~What was my name again?
        """,
    ),
    _statement(
        "city",
        "you live in {v}",
        """
        I live in {v}. | I come from {v}. | I am from {v}. | My home is in {v}. | I'm from {v}.
        My city is {v}. | I have a flat in {v}. | By the way, I live in {v}.
        Remember that I live in {v}.
        I am at home in {v}. | i live in {v} | ~My home is {v}. | ~By the way, I am from {v}.
        """,
        """
        Where do I live? | Where am I from? | In which city do I live? | Do you know where I live?
        Where do I come from? | Which city do I live in? | What is my city? | Where is my home?
        Do you remember where I live? | Can you tell me where I live? | What city do I live in?
        ~Do you remember where I come from? | ~Do you know where I am from?
        ~In what city do I live?
        """,
    ),
    _statement(
        "job",
        "you work as {av}",
        """
        I work as {av}. | I am {av}. | I'm {av}. | My job is being {av}. | I am {av} by profession.
        By the way, I work as {av}. | I have a job as {av}. | I make my living as {av}.
        Remember that I work as {av}. | ~By the way, I am {av}. | ~I'm {av} by profession.
        """,
        """
        What do I do? | What do I work as? | What is my job? | What's my job?
        What do I do for a living?
        Do you know my job? | Do you remember my job? | What is my profession?
        What kind of work do I do?
        Can you tell me what I do? | ~What am I by profession?
        ~Do you know what I do for a living?
        """,
    ),
    _statement(
        "food",
        "your favourite food is {v}",
        """
        My favourite food is {v}. | I like {v} best. | I love {v}. | My favourite dish is {v}.
        I like to eat {v}. | By the way, I love {v}. | I could eat {v} every day.
        Nothing beats {v}.
        Remember that my favourite food is {v}. | ~I love to eat {v}.
        ~By the way, I like {v} best.
        """,
        """
        What is my favourite food? | What do I like to eat? | What food do I like best?
        What do I love?
        Do you know my favourite food? | Which dish do I like best? | What is my favourite dish?
        Do you remember what I like to eat? | What do I like best? | What would I eat every day?
        ~Do you remember my favourite dish? | ~Which food do I like best? | ~What do I love to eat?
        """,
    ),
    _statement(
        "colour",
        "your favourite colour is {v}",
        """
        My favourite colour is {v}. | I like the colour {v} best. | {v} is my favourite colour.
        By the way, my favourite colour is {v}. | I love the colour {v}.
        The colour I like best is {v}.
        Remember that my favourite colour is {v}. | ~The colour I love is {v}.
        ~My favourite is the colour {v}.
        """,
        """
        What is my favourite colour? | What colour do I like best? | Which colour do I like best?
        Do you know my favourite colour? | What's my favourite colour? | Which colour do I love?
        Do you remember which colour I like? | my favourite colour?
        Can you tell me my favourite colour?
        ~Do you remember my favourite colour? | ~What colour do I love?
        ~Which colour is my favourite?
        """,
    ),
    _statement(
        "hobby",
        "your hobby is {v}",
        """
        My hobby is {v}. | In my free time I enjoy {v}. | I enjoy {v}.
        I spend my free time on {v}.
        My favourite hobby is {v}. | By the way, my hobby is {v}. | For fun I like {v}.
        Remember that my hobby is {v}. | ~In my free time I like {v}. | ~For fun I enjoy {v}.
        """,
        """
        What is my hobby? | What do I do in my free time? | What do I enjoy? | What do I do for fun?
        What's my hobby? | Do you know my hobby? | Do you remember my hobby?
        How do I spend my free time?
        Can you tell me my hobby? | ~What do I enjoy in my free time?
        ~Do you know what I do for fun?
        """,
    ),
    _statement(
        "pet",
        "you have {av}",
        """
        I have {av}. | I own {av}. | My pet is {av}. | I live with {av}. | At home I have {av}.
        By the way, I have {av}. | I've got {av}. | Remember that I have {av}.
        ~At home I live with {av}. | ~By the way, my pet is {av}.
        """,
        """
        What pet do I have? | Do I have a pet? | What is my pet? | Which animal do I have?
        What's my pet?
        What animal do I live with? | Do you know my pet? | Do you remember my pet?
        Which pet do I have?
        ~Do you remember what pet I have? | ~Which animal do I live with? | ~What animal do I have?
        """,
    ),
    _statement(
        "extension",
        "your phone number is {v}",
        """
        My phone number is {v}. | My number is {v}. | You can call me at {v}.
        Please call me at {v}.
        I can be reached at {v}. | By the way, my phone number is {v}. | Note my phone number: {v}.
        Remember that my phone number is {v}. | ~You can reach me at {v}. | ~Note my number: {v}.
        """,
        """
        What is my phone number? | What's my number? | Do you know my phone number?
        What is my number?
        At which number can I be reached? | Can you tell me my phone number? | my phone number?
        Do you remember my phone number? | ~Do you remember my number?
        ~What was my phone number again?
        """,
    ),
    _statement(
        "age",
        "you are {v} years old",
        """
        I am {v} years old. | I'm {v} years old. | My age is {v}. | I am {v} years of age.
        By the way, I am {v} years old. | I have just turned {v}. | I turned {v} this year.
        Remember that I am {v} years old. | ~By the way, my age is {v}. | ~I'm {v} years of age.
        """,
        """
        How old am I? | What is my age? | What age am I? | Do you know how old I am?
        What's my age?
        Do you remember my age? | Can you tell me how old I am? | Do you know my age?
        ~Do you remember how old I am? | ~Can you tell me my age?
        """,
    ),
    _statement(
        "date",
        "your birthday is on {v}",
        """
        My birthday is on {v}. | My birthday is {v}. | I have my birthday on {v}.
        I was born on {v}.
        By the way, my birthday is on {v}. | I celebrate my birthday on {v}.
        Remember that my birthday is on {v}. | ~By the way, I was born on {v}.
        ~I have birthday on {v}.
        """,
        """
        When is my birthday? | On which day is my birthday? | When was I born?
        What is my birthday?
        Do you know my birthday? | Do you remember my birthday? | When do I celebrate my birthday?
        Can you tell me when my birthday is? | ~On what day is my birthday?
        ~Do you know when I was born?
        """,
    ),
    _statement(
        "time",
        "your appointment is at {v}",
        """
        My appointment is at {v}. | I have an appointment at {v}. | I have to be there at {v}.
        By the way, my appointment is at {v}. | I have a meeting at {v}. | They expect me at {v}.
        Remember that my appointment is at {v}. | ~Remember my appointment at {v}.
        ~My meeting is at {v}.
        """,
        """
        When is my appointment? | At what time is my appointment? | What time is my appointment?
        When do I have to be there? | When is my meeting? | Do you know when my appointment is?
        Do you remember my appointment? | Can you tell me the time of my appointment?
        ~When do I have my appointment? | ~Do you remember when my appointment is?
        """,
    ),
    _statement(
        "price",
        "your budget is {v}",
        """
        My budget is {v}. | I have a budget of {v}. | I can spend {v}. | I have {v} to spend.
        By the way, my budget is {v}. | I do not want to spend more than {v}.
        Remember that my budget is {v}. | ~I want to spend {v}.
        ~By the way, I have a budget of {v}.
        """,
        """
        What is my budget? | How much can I spend? | What's my budget? | Do you know my budget?
        Do you remember my budget? | How much do I have to spend? | Can you tell me my budget?
        ~How much do I want to spend? | ~What was my budget again?
        """,
    ),
    _statement(
        "room",
        "you are staying in {v}",
        """
        I am staying in {v}. | I stay in {v}. | I am in {v}. | I have {v}. | My room is {v}.
        By the way, I am staying in {v}. | They gave me {v}. | Remember that I am staying in {v}.
        ~I'm staying in {v}. | ~By the way, they gave me {v}.
        """,
        """
        Which room am I in? | Where am I staying? | What is my room? | In which room am I staying?
        Do you know my room? | Do you remember my room? | What room do I have? | Which room is mine?
        ~Which room do I have? | ~What room am I in? | ~Do you remember which room I am in?
        """,
    ),
    _statement(
        "staff number",
        "your order number is {v}",
        """
        My order number is {v}. | I have the order number {v}. | The number of my order is {v}.
        By the way, my order number is {v}. | My order has the number {v}.
        Remember that my order number is {v}. | ~The number of my order is {v}, by the way.
        ~I have order number {v}.
        """,
        """
        What is my order number? | What is the number of my order? | Which order number do I have?
        Do you know my order number? | Do you remember my order number? | What's my order number?
        ~Which number does my order have? | ~What was my order number again?
        """,
    ),
    _statement(
        "allergen",
        "you are allergic to {v}",
        """
        I am allergic to {v}. | I'm allergic to {v}. | I have an allergy to {v}.
        I must not have {v}.
        By the way, I am allergic to {v}. | I cannot eat {v}. | Remember that I am allergic to {v}.
        ~By the way, I cannot have {v}. | ~I have an allergy: {v}.
        """,
        """
        What am I allergic to? | Which allergy do I have? | What must I not have?
        What is my allergy?
        Do you know my allergy? | Do you remember my allergy? | Do I have an allergy?
        What can I not eat? | ~Do you know what I am allergic to? | ~What must I not eat?
        """,
    ),
)
