"""Dishes on a menu."""

from radixserve.demo.corpus.attribute import attributes
from radixserve.demo.corpus.domains.domain import Domain

DISHES = Domain(
    key="dishes",
    subjects="dish",
    kinds=(("dish", "dishes"), ("meal", "meals")),
    headings=("Menu", "Our {kinds}", "{kinds} of the day", "From our kitchen", "What we cook"),
    intros=(
        "Everything is cooked fresh.",
        "Bread is on the house.",
        "We cook with what the season offers.",
        "Ask the waiter if you cannot eat something.",
    ),
    asides=(
        "The kitchen closes at night.",
        "Our guests come back for more.",
        "Half portions are possible.",
        "The wine list is on the back.",
    ),
    attributes=attributes(
        """
[price: small price]
labels  Price | Costs
nouns   price | cost
facts   costs {v} | is served for {v} | can be ordered for {v}
asks    How much is {x}? | How much does {x} cost? | What does {x} cost? | How expensive is {x}?
        What do I pay for {o}? | How much do I pay for {o}? | ~For how much is {x} served?
        ~What do you want for {o}? | How much do you want for {o}?
clauses how much {x} is | what {x} costs | how expensive {x} is | ~how much {x} costs

[calories: calories]
labels  Calories | Energy
nouns   number of calories
facts   has {v} | contains {v} | comes to {v}
asks    How many calories does {x} have? | How many calories are in {o}? | Is {x} healthy?
        How many calories does {x} contain? | ~How many calories is {x}?
        ~How many calories are there in {o}?
clauses how many calories {x} has | how many calories are in {o} | ~how many calories {x} contains

[cook: person]
labels  Cook | Cooked by | Chef
nouns   cook | chef
facts   is cooked by {v} | is made by {v} | is prepared by {v}
asks    Who cooks {o}? | Who makes {o}? | By whom is {x} cooked? | Who prepares {o}?
        Who is the cook of {o}? | ~By whom is {x} made? | ~Who is cooking {o}?
clauses who cooks {o} | who makes {o} | ~who prepares {o}

[minutes: minutes]
labels  Takes | Time | Cooking time
nouns   cooking time | waiting time
facts   takes {v} | takes {v} to cook | needs {v} | is ready in {v}
asks    How long does {x} take? | How long do I wait for {o}? | How long does {x} need?
        How long does {x} take to cook? | How much time does {x} need?
        In how many minutes is {x} ready?
        ~In how many minutes do I get {o}? | ~How long do I have to wait for {o}?
clauses how long {x} takes | how long {x} needs | ~how long I wait for {o}

[side: food]
labels  Side | Served with | Comes with
nouns   side dish | side
facts   comes with {v} | is served with {v} | has {v} on the side
asks    What comes with {o}? | What is {x} served with? | What does {x} come with?
        What is served with {o}? | Which side comes with {o}? | What do I get with {o}?
        ~What is there with {o}? | ~Which side dish comes with {o}?
clauses what comes with {o} | what {x} is served with | what is served with {o}
        ~what {x} comes with

[allergen: allergen, shared]
labels  Allergens | Contains | Allergy note
nouns   allergen | allergy note
facts   contains traces of {v} | may contain {v}
asks    What must I know about {o} if I have an allergy? | Which allergen does {x} contain?
        What allergens are in {o}? | Which allergens are in {o}? | What allergen does {x} contain?
        ~Which allergens does {x} contain? | ~What allergens does {x} contain?
clauses which allergen {x} contains | what allergens are in {o} | ~which allergens are in {o}

[day: weekday, shared]
labels  Day | Served on | Every
nouns   day
facts   is served on {v}s | can be had on {v}s | is on the menu on {v}s
asks    On which day is {x} served? | When is {x} on the menu? | When can I have {o}?
        On what day can I have {o}? | What day is {x} on the menu? | When is {x} served?
        ~On what day is {x} served? | ~On which day can I have {o}?
clauses when {x} is on the menu | on which day {x} is served | ~on what day {x} is served
"""
    ),
)
