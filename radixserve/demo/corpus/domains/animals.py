"""Animals in a shelter."""

from radixserve.demo.corpus.attribute import attributes
from radixserve.demo.corpus.domains.domain import Domain

ANIMALS = Domain(
    key="animals",
    subjects="animal",
    kinds=(("animal", "animals"),),
    headings=("Our {kinds}", "The shelter", "{kinds} that need a home", "New in the shelter"),
    intros=(
        "All of them are looking for a new home.",
        "Come and visit them on any afternoon.",
        "They have all been seen by a vet.",
        "Most of them like children.",
    ),
    asides=(
        "Blankets are always needed.",
        "Feeding time is fun to watch.",
        "The shelter lives on gifts.",
        "Please do not put your hand into the cages.",
    ),
    attributes=attributes(
        """
[species: animal]
labels  Species | Kind | Kind of animal
nouns   species | kind of animal
facts   is {av} | came to us as {av}
asks    What kind of animal is {x}? | What is {x}? | What animal is {x}? | Which animal is {x}?
        What sort of animal is {x}? | ~Which kind of animal is {x}? | ~Of what species is {x}?
clauses what kind of animal {x} is | what animal {x} is | ~which animal {x} is

[age: months]
labels  Age | Old
nouns   age
facts   is {v} old | has reached the age of {v}
asks    How old is {x}? | What age is {x}? | How many months old is {x}? | What is the age of {o}?
        ~Of what age is {x}? | ~How many months has {x} reached?
clauses how old {x} is | what age {x} is | ~how many months old {x} is

[weight: weight]
labels  Weight | Weighs
nouns   weight
facts   weighs {v} | has a weight of {v}
asks    How heavy is {x}? | How much does {x} weigh? | What does {x} weigh?
        How many kilos does {x} weigh? | ~How many kilos is {x}? | ~What weight does {x} have?
clauses how heavy {x} is | how much {x} weighs | ~what {x} weighs

[colour: colour]
labels  Colour | Coat
nouns   colour
facts   is {v} | has the colour {v}
asks    What colour is {x}? | Which colour is {x}? | What colour does {x} have?
        What does {x} look like?
        ~Which colour does {x} have? | ~Of what colour is {x}?
clauses what colour {x} is | which colour {x} has | ~what colour {x} has

[cage: desk]
labels  Cage | Place | Kept in
nouns   cage | cage number | place
facts   is in cage {v} | lives in cage {v} | can be seen in cage {v}
asks    Where is {x}? | In which cage is {x}? | Which cage is {x} in? | Where can I find {o}?
        Where does {x} live? | In which cage does {x} live? | ~In what cage is {x}?
        ~Which cage does {x} live in?
clauses where {x} is | in which cage {x} is | where {x} lives | ~in which cage {x} lives

[food: food]
labels  Food | Favourite food | Eats
nouns   favourite food | food
facts   likes {v} best | loves {v} | is fond of {v}
asks    What does {x} like to eat? | What food does {x} like best? | What does {x} eat?
        What does {x} love to eat? | What do I feed {o}? | ~Which food does {x} like best?
        ~What food does {x} love? | What should I feed {o}?
clauses what {x} likes to eat | what {x} eats | ~what food {x} likes best

[arrived: date]
labels  Arrived | Arrived on | Came in | Here since
nouns   arrival date | date of arrival
facts   arrived on {v} | came to us on {v} | has been here since {v}
asks    When did {x} arrive? | When did {x} come to us? | Since when has {x} been here?
        On what date did {x} arrive? | How long has {x} been here? | On which day did {x} arrive?
        ~On which date did {x} arrive? | ~On what date did {x} come to us?
clauses when {x} arrived | since when {x} has been here | when {x} came to us
        ~on what date {x} arrived

[keeper: person]
labels  Keeper | Cared for by
nouns   keeper | carer
facts   is cared for by {v} | is looked after by {v} | has {v} as keeper
asks    Who cares for {o}? | Who looks after {o}? | Who takes care of {o}? | Who is {xs} keeper?
        By whom is {x} cared for? | ~Who is it that looks after {o}?
        ~Who is it that cares for {o}?
clauses who cares for {o} | who looks after {o} | ~who takes care of {o}

[fee: price]
labels  Fee | Adoption fee
nouns   adoption fee | fee
facts   can be adopted for {v} | has an adoption fee of {v}
asks    How much is the adoption of {o}? | How much does it cost to adopt {o}? | How much is {x}?
        What do I pay to adopt {o}? | For how much can {x} be adopted?
        ~How much do I pay to adopt {o}? | ~What does it cost to adopt {o}?
clauses how much it costs to adopt {o} | what I pay to adopt {o} | ~for how much {x} can be adopted
"""
    ),
)
