"""Ways to ask that fit every attribute: they take its nouns, its clauses and its facts.

``{n}`` is a noun of the attribute, ``{c}`` a clause, ``{f}`` a fact with its value; ``{x}``,
``{xs}`` and ``{o}`` are the subject as such, as a possessive and where no pronoun may stand;
``{who}`` and ``{one}`` are "who" and "the person who", or "which cafe" and "the cafe that". Phrases
after a ``~`` are held out. Data only.
"""

from radixserve.demo.corpus.attribute import phrases

NOUN_FRAMES = phrases(
    """
    What is {xs} {n}? | What is the {n} of {o}? | What is the {n} for {o}?
    Can you tell me {xs} {n}? | Could you tell me the {n} of {o}? | Can you tell me the {n} of {o}?
    Tell me {xs} {n}. | Tell me the {n} of {o}. | Give me {xs} {n}. | Give me the {n} of {o}.
    I need {xs} {n}. | I need the {n} of {o}. | I need to know {xs} {n}. | I want to know {xs} {n}.
    I am looking for {xs} {n}. | I am looking for the {n} of {o}. | I would like to know {xs} {n}.
    Do you know {xs} {n}? | Do you know the {n} of {o}? | Do you have {xs} {n}?
    Do you have the {n} of {o}?
    Look up {xs} {n}. | Look up the {n} of {o} for me. | Find {xs} {n}. | Find {xs} {n} for me.
    {xs} {n}? | {xs} {n} | {n} of {o}? | {n} of {o} | the {n} of {o}? | {x} {n}? | {x} {n} | {n} {o}
    {x}: {n}? | {n} for {o}? | What does the document say about {xs} {n}?
    Which {n} is given for {o}? | What {n} is listed for {o}? | What is given as {xs} {n}?
    I forgot {xs} {n}. | Remind me of {xs} {n}. | Please look up {xs} {n}. | Show me {xs} {n}.
    Could I have {xs} {n}? | May I have the {n} of {o}? | Can I get {xs} {n}?
    What was {xs} {n} again? | What was the {n} of {o} again? | Is the {n} of {o} known?
    ~What is listed as {xs} {n}? | ~Could you look up the {n} of {o}? | ~May I have {xs} {n}?
    ~I would like to have the {n} of {o}. | ~Find the {n} of {o}. | ~Could you tell me {xs} {n}?
    ~Do you know what {xs} {n} is? | ~Which {n} is listed for {o}? | ~Show me the {n} of {o}.
    ~I forgot the {n} of {o}.
    """
)

CLAUSE_FRAMES = phrases(
    """
    Can you tell me {c}? | Could you tell me {c}? | Do you know {c}? | Tell me {c}.
    I want to know {c}. | I would like to know {c}. | I need to know {c}. | Please tell me {c}.
    Does the document say {c}? | Find out {c}. | I wonder {c}. | Any idea {c}? | Look up {c}.
    Can you find out {c}? | Can you look up {c}? | Is it known {c}? | I forgot {c}.
    I was asking {c}.
    What does the document say: {c}? | Remind me {c}.
    ~Could you find out {c}? | ~Please look up {c}. | ~Can I know {c}? | ~Please find out {c}.
    """
)

ELLIPTIC_FRAMES = phrases(
    """
    And {xs} {n}? | And the {n}? | What about {xs} {n}? | What about the {n}? | How about {xs} {n}?
    And what is {xs} {n}? | Also {xs} {n}, please. | And {xs} {n}, please? | The {n}? | {n}?
    And the {n}, please. | I also need {xs} {n}. | And do you know {xs} {n}? | {xs} {n}, too?
    Now the {n}. | Do you have the {n}, too? | What is the {n}?
    ~How about the {n}? | ~And do you have {xs} {n}? | ~I also need the {n}.
    ~Also the {n}, please.
    """
)
"""About the subject of the turn before: another of its attributes."""

OTHER_FRAMES = phrases(
    """
    What about {o}? | And {o}? | How about {o}? | And for {o}? | And what about {o}? | {o}?
    The same for {o}, please. | Same question for {o}. | Now {o}. | And with {o}? | Also for {o}?
    What is it for {o}? | And {o}, please? | And how about {o}? | Now for {o}, please.
    I meant {o}. | No, I meant {o}. | Sorry, I meant {o}. | No, {o}. | Can you do the same for {o}?
    ~Give me the same for {o}. | ~Tell me the same for {o}. | ~What is it with {o}?
    ~Could you do the same for {o}?
    """
)
"""The question of the turn before, about another subject."""

INVERSE_FRAMES = phrases(
    """
    {who} {f}? | {who} {f}? | Do you know {who} {f}? | Tell me {who} {f}.
    Can you tell me {who} {f}?
    I am looking for {one} {f}. | Name {one} {f}. | Find {one} {f}. | Could you tell me {who} {f}?
    I want to know {who} {f}. | I would like to know {who} {f}. | What is the name of {one} {f}?
    Look up {who} {f}. | I need {one} {f}. | Please tell me {who} {f}. | Find out {who} {f}.
    Is there {aone} {f}? | Which one {f}? | I forgot {who} {f}.
    What does the document say: {who} {f}? | {who} is it that {f}?
    ~Can you find {one} {f}? | ~Please find {one} {f}. | ~Can you find out {who} {f}?
    ~I need to know {who} {f}. | ~Give me the name of {one} {f}.
    """
)

INVERSE_NOUN_FRAMES = phrases(
    """
    {who} has the {n} {v}? | {whose} {n} is {v}? | {n} {v}: {who} is it? | {who} has {v} as {n}?
    I am looking for {one} has the {n} {v}. | Tell me {who} has the {n} {v}. | {n} {v}?
    With {n} {v}, {who} is there? | To {whom} does the {n} {v} belong?
    ~Find {one} has the {n} {v}. | ~Do you know {who} has the {n} {v}?
    """
)

CHECK_FRAMES = phrases(
    """
    {q} | {q} | {q} | Is it true that {x} {f}? | Is it right that {x} {f}? | {x} {f}, right?
    {x} {f}, is that right? | Am I right that {x} {f}? | I think that {x} {f}. Is that right?
    Can you confirm that {x} {f}? | Does the document say that {x} {f}? | So {x} {f}?
    ~{x} {f}. Is that true? | ~I think that {x} {f}. Is it true? | ~Can you tell me if {x} {f}?
    """
)

LIST_FRAMES = phrases(
    """
    Which {nouns} {fs}? | Which of the {nouns} {fs}? | Tell me which {nouns} {fs}.
    List the {nouns} that {fs}. | Name the {nouns} that {fs}. | Which are the {nouns} that {fs}?
    Can you tell me which {nouns} {fs}? | Give me the {nouns} that {fs}.
    Are there {nouns} that {fs}?
    Name all {nouns} that {fs}. | I am looking for {nouns} that {fs}.
    ~Tell me the {nouns} that {fs}. | ~List all {nouns} that {fs}.
    """
)

SUMMARY_FRAMES = phrases(
    """
    Tell me about {o}. | What do you know about {o}? | What does the document say about {o}?
    Can you tell me about {o}? | Tell me something about {o}. | Describe {o}.
    I would like to know more about {o}. | What can you tell me about {o}? | Any facts about {o}?
    What is known about {o}? | Give me some facts about {o}.
    ~Could you tell me something about {o}? | ~What can you say about {o}?
    ~Tell me more about {o}.
    """
)

TOPIC_QUESTIONS = phrases(
    """
    What is the document about? | What is this document about? | What does the document say?
    What is in the document? | What is this about? | What can I ask about? | Sum up the document.
    What kind of document is this? | What does the document talk about? | Summarise the document.
    What topics are in the document? | Tell me what the document is about. | Give me an overview.
    What do you know? | What is your document about?
    ~What does this document talk about? | ~Can you tell me what the document is about?
    ~What does your document say?
    """
)

REPEAT_REQUESTS = phrases(
    """
    Again, please. | Can you say that again? | Could you repeat that? | Please repeat that. | Sorry?
    Say that again. | What did you say? | Can you repeat your answer? | Repeat that, please. | What?
    Pardon? | Once more, please. | Could you say it once more? | I did not get that. | Come again?
    ~Could you say that again? | ~Please say that again. | ~Can you repeat that, please?
    """
)

DOUBLE_FRAMES = phrases(
    """
    {a} and {b}? | {a} and {b}? | {a}, and {b}? | {a}? And {b}? | {a} and also {b}?
    ~{a}? Also, {b}? | ~I want to know two things: {a} and {b}?
    """
)
"""Two questions about one subject at once, each without its mark."""

OPENINGS = phrases(
    """
    Hi, | Hello, | Hi! | Hello! | Good morning, | Hey, | Please, | Excuse me, | Sorry, | OK, | Okay,
    Thanks. | Thank you. | Thanks, and | Great. | Good. | Well, | So, | Now, | And | Also,
    One more thing:
    Another question: | Quick question: | I have a question. | Hello there, | Right. | Fine. | Ah,
    Then
    ~Good day! | ~Thanks a lot. | ~Hi again! | ~I have one more question. | ~Very good.
    """
)

ENDINGS = (", please?", " please", ", please", " please?", " Thanks!", " Thank you.", " Thanks")
"""In place of a question's mark; those that begin with a capital follow the mark."""

ABSENT_ANSWER = "That is not in the document."
UNTOLD_ANSWER = "{x} is in the document, but that is not."
"""Of a subject that the document tells of."""
UNKNOWN_VALUE = "not in the document"
"""In place of the subject that has a value."""
NO_DOCUMENT_ANSWER = "There is no document to look in."
