"""Trains, buses and ferries."""

from radixserve.demo.corpus.attribute import attributes
from radixserve.demo.corpus.domains.domain import Domain

TRAINS = Domain(
    key="trains",
    subjects="train",
    kinds=(("train", "trains"), ("bus", "buses"), ("ferry", "ferries"), ("flight", "flights")),
    headings=("Departures", "{kinds} today", "Timetable of the {kinds}", "Travel", "Connections"),
    intros=(
        "All times are local times.",
        "Please be there ten minutes early.",
        "The timetable changes in December.",
        "There may be delays because of the weather.",
    ),
    asides=(
        "Bicycles need a ticket of their own.",
        "The waiting room is heated.",
        "Lost things are kept for a year.",
        "Children travel at half price.",
    ),
    names_say_kind=True,
    attributes=attributes(
        """
[destination: city]
labels  Destination | To | Goes to | Direction
nouns   destination
facts   goes to {v} | is bound for {v} | takes you to {v} | travels to {v}
asks    Where does {x} go? | Where is {x} going? | What is {xs} destination?
        Where is {x} bound for?
        Where does {x} take me? | To which city does {x} go? | Where will {x} take me?
        ~To which city is {x} going? | ~To what city does {x} go? | Where does {x} travel to?
clauses where {x} goes | where {x} is going | to which city {x} goes | ~where {x} takes me

[departure: time]
labels  Departure | Departs | Leaves at
nouns   departure time | departure
facts   leaves at {v} | departs at {v} | is due to leave at {v}
asks    When does {x} leave? | At what time does {x} leave? | When does {x} depart?
        What time does {x} leave? | What time is {xs} departure? | When is {x} due to leave?
        ~At what time does {x} depart? | ~What time does {x} depart?
clauses when {x} leaves | at what time {x} leaves | when {x} departs | ~what time {x} leaves

[arrival: time]
labels  Arrival | Arrives | Arrives at
nouns   arrival time | arrival
facts   arrives at {v} | is due to arrive at {v} | gets there at {v}
asks    When does {x} arrive? | At what time does {x} arrive? | What time does {x} arrive?
        When does {x} get there? | When is {x} due to arrive? | When will {x} get there?
        ~At what time does {x} get there? | ~When will {x} arrive?
clauses when {x} arrives | at what time {x} arrives | when {x} gets there | ~what time {x} arrives

[platform: platform]
labels  Platform | Stop | Gate
nouns   platform
facts   leaves from platform {v} | departs from platform {v} | stands on platform {v}
asks    From which platform does {x} leave? | Which platform does {x} leave from?
        Where does {x} leave? | On which platform is {x}? | What platform does {x} leave from?
        Which platform is {x} on? | Which platform for {o}? | From where does {x} leave?
        ~From what platform does {x} leave? | ~What platform is {x} on?
clauses from which platform {x} leaves | where {x} leaves | which platform {x} is on
        ~on which platform {x} is

[fare: small price]
labels  Fare | Ticket | Ticket price | One way
nouns   fare | ticket price | price
facts   costs {v} | has a fare of {v} | costs {v} one way
asks    How much is {x}? | How much is a ticket for {o}? | What does {x} cost?
        How much does {x} cost?
        What does a ticket for {o} cost? | What do I pay for {o}?
        What is the price of a ticket for {o}?
        ~How much do I pay for a ticket for {o}? | ~How much does a ticket for {o} cost?
clauses how much {x} is | what {x} costs | what a ticket for {o} costs | ~how much {x} costs

[duration: minutes]
labels  Duration | Travel time | Takes
nouns   travel time | duration
facts   takes {v} | is on the way for {v} | needs {v}
asks    How long does {x} take? | How long is {x} on the way? | How long is the journey with {o}?
        How much time does {x} take? | How long does {x} need? | How much time does {x} need?
        ~How long will {x} take? | ~How long does the journey with {o} take?
clauses how long {x} takes | how long {x} is on the way | ~how much time {x} takes

[driver: person]
labels  Driver | Captain | Crew
nouns   driver
facts   is driven by {v} | has {v} as its driver
asks    Who drives {o}? | Who is {xs} driver? | By whom is {x} driven? | Who is driving {o}?
        ~Who is the driver on {o}? | ~Who is it that drives {o}? | Who is the driver of {o}?
clauses who drives {o} | who the driver of {o} is | ~who is driving {o}

[seats: seats]
labels  Free seats | Seats left | Seats
nouns   number of free seats | number of seats
facts   has {v} free seats | has {v} seats left
asks    How many free seats does {x} have? | How many seats are left on {o}? | Is {x} full?
        How many seats are free on {o}? | Are there seats on {o}? | How many seats does {x} have?
        ~How many seats are there on {o}? | ~How many free seats are there on {o}?
clauses how many seats are left on {o} | how many free seats {x} has
        ~how many seats are free on {o}
"""
    ),
)
