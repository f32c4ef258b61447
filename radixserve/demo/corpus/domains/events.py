"""Concerts, talks and other events."""

from radixserve.demo.corpus.attribute import attributes
from radixserve.demo.corpus.domains.domain import Domain

EVENTS = Domain(
    key="events",
    subjects="event",
    kinds=(("event", "events"),),
    headings=("Coming {kinds}", "Programme", "What is on", "Calendar of {kinds}", "This season"),
    intros=(
        "We look forward to seeing you.",
        "The programme may still change.",
        "Children under six come in free.",
        "Here is what we have planned.",
    ),
    asides=(
        "Drinks are sold at the entrance.",
        "Please switch off your phone.",
        "The cloakroom is free.",
        "Last season was our best so far.",
        "Friends of the house get a small gift.",
    ),
    attributes=attributes(
        """
[date: date]
labels  Date | Day | Takes place on
nouns   date | day
facts   takes place on {v} | is planned for {v} | is on {v} | will be held on {v}
asks    When is {x}? | On which day is {x}? | What day is {x}? | On what date is {x}?
        When does {x} take place? | When will {x} be held? | For when is {x} planned?
        ~On which date is {x}? | ~On which day does {x} take place?
clauses when {x} is | on which day {x} is | when {x} takes place | ~on what date {x} is

[time: time]
labels  Time | Begins at | Start | Starts at
nouns   starting time | time | start
facts   starts at {v} | begins at {v} | will start at {v}
asks    When does {x} start? | ~At what time does {x} begin? | What time is {x}?
        What time does {x} start? | When does {x} begin? | At what time is {x}?
        ~At what time does {x} start? | ~What time does {x} begin?
clauses when {x} starts | at what time {x} begins | what time {x} is | ~what time {x} begins

[room: room]
labels  Room | Venue | Where
nouns   room | venue | place
facts   is in {v} | takes place in {v} | will be held in {v}
asks    Where is {x}? | In which room is {x}? | Where does {x} take place? | What room is {x} in?
        Where will {x} be held? | Which room is {x} in? | ~In what room is {x}?
        ~In which room does {x} take place? | Where do I have to go for {o}?
clauses where {x} is | in which room {x} is | where {x} takes place | ~which room {x} is in

[speaker: person]
labels  Host | Led by | Hosted by | Leader
nouns   host | leader
facts   is led by {v} | is hosted by {v} | has {v} as host
asks    Who leads {o}? | Who is the host of {o}? | Who hosts {o}? | By whom is {x} led?
        Who is {xs} host? | Who is leading {o}? | ~By whom is {x} hosted?
        ~Who is it that leads {o}?
clauses who leads {o} | who hosts {o} | who the host of {o} is | ~who is leading {o}

[fee: small price]
labels  Fee | Ticket | Entry | Ticket price
nouns   ticket price | fee | entry fee | price
facts   costs {v} | costs {v} to attend | has an entry fee of {v} | can be visited for {v}
asks    How much is {x}? | How much does {x} cost? | What does a ticket for {o} cost?
        How much is a ticket for {o}? | What is the price of a ticket for {o}? | What does {x} cost?
        What do I pay for {o}? | ~How much do I pay for a ticket for {o}?
        ~How much does a ticket for {o} cost?
clauses how much {x} is | what {x} costs | how much a ticket for {o} is | ~how much {x} costs

[seats: seats]
labels  Seats | Places | Limit
nouns   number of seats | number of places
facts   has {v} seats | is limited to {v} people | has room for {v} people
asks    How many people can come to {o}? | How many seats does {x} have? | How big is {x}?
        How many places are there at {o}? | ~How many people does {x} have room for?
        ~How many places does {x} have? | ~How many seats are there at {o}?
clauses how many people can come to {o} | how many seats {x} has | ~how many places {x} has

[duration: minutes]
labels  Duration | Length | Lasts
nouns   duration | length
facts   lasts {v} | takes {v} | is {v} long | will last {v}
asks    How long is {x}? | How long does {x} last? | How long does {x} take? | How much time is {x}?
        ~How long will {x} last? | ~How long will {x} be? | What is the length of {o}?
        How much time does {x} take? | ~How long will {x} take?
clauses how long {x} is | how long {x} lasts | ~how long {x} will last

[deadline: date]
labels  Sign up by | Deadline | Registration until
nouns   deadline | sign-up deadline
facts   has its deadline on {v} | is open for registration until {v}
asks    Until when can I sign up for {o}? | When is the deadline for {o}?
        By when do I have to sign up for {o}? | How long can I sign up for {o}?
        ~When is the deadline of {o}? | ~By when can I sign up for {o}?
clauses until when I can sign up for {o} | when the deadline of {o} is
        ~by when I have to sign up for {o}
"""
    ),
)
