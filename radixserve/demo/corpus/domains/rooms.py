"""Hotel rooms."""

from radixserve.demo.corpus.attribute import attributes
from radixserve.demo.corpus.domains.domain import Domain

ROOMS = Domain(
    key="rooms",
    subjects="room",
    kinds=(("room", "rooms"),),
    headings=("Our {kinds}", "Hotel {kinds}", "Room list", "{kinds} tonight"),
    intros=(
        "Breakfast is included in all rooms.",
        "The hotel has a lift.",
        "All the rooms have been painted this year.",
        "Keys are kept at the front desk.",
    ),
    asides=(
        "Towels are changed every day.",
        "The bar closes late.",
        "Pets are welcome in most rooms.",
        "Some guests stay for weeks.",
    ),
    attributes=attributes(
        """
[guest: person]
labels  Guest | Booked by | Name of guest | Occupied by
nouns   guest
facts   is booked by {v} | is occupied by {v} | is taken by {v} | is kept for {v}
asks    Who is in {o}? | Who has booked {o}? | Who stays in {o}? | Who is the guest in {o}?
        By whom is {x} booked? | Who has {o}? | Who lives in {o}? | For whom is {x} kept?
        ~Who is staying in {o}? | ~Who booked {o}?
clauses who is in {o} | who has booked {o} | who stays in {o} | ~who the guest in {o} is

[rate: price]
labels  Rate | Price | Per night | Price per night
nouns   rate | price | price per night
facts   costs {v} a night | costs {v} per night | has a rate of {v}
asks    How much is {x}? | What does {x} cost? | How much does {x} cost? | How expensive is {x}?
        How much is a night in {o}? | What does a night in {o} cost? | What is the rate for {o}?
        ~How much does a night in {o} cost? | ~What do I pay for a night in {o}?
        What do I pay for {o}? | How much is {x} per night?
clauses how much {x} is | what {x} costs | how much a night in {o} is | ~what a night in {o} costs

[bed: bed, shared]
labels  Bed | Beds
nouns   bed
facts   has {v} | is furnished with {v} | comes with {v}
asks    What kind of bed does {x} have? | Which beds does {x} have? | What bed is in {o}?
        How many beds does {x} have? | What bed is there in {o}? | What bed does {x} have?
        ~Which bed does {x} have? | ~What kind of bed is in {o}?
clauses what bed {x} has | which beds {x} has | ~what kind of bed {x} has

[view: view]
labels  View | Overlooks
nouns   view
facts   has a view of the {v} | looks out on the {v} | overlooks the {v}
asks    What is the view from {o}? | What view does {x} have? | What does {x} overlook?
        What do I see from {o}? | What can I see from {o}? | What does {x} look out on?
        ~What can you see from {o}? | ~Which view does {x} have?
clauses what view {x} has | what I can see from {o} | what {x} overlooks | ~which view {x} has

[size: size]
labels  Size | Area | Floor space
nouns   size | area
facts   has a size of {v} | measures {v} | covers {v}
asks    How big is {x}? | How large is {x}? | How much space does {x} have? | What size is {x}?
        How many square metres does {x} have? | ~How many square metres is {x}?
        ~What size does {x} have?
clauses how big {x} is | how large {x} is | what size {x} is | ~how much space {x} has

[key: desk]
labels  Key | Key number | Key hook
nouns   key hook | hook
facts   has its key on hook {v} | has its key hanging on hook {v}
asks    Where is the key of {o}? | On which hook is the key of {o}? | Where is the key to {o}?
        Where do I find the key of {o}? | Which hook has the key of {o}? | Where is {xs} key?
        ~Where do I find the key to {o}? | ~On which hook is {xs} key?
clauses where the key of {o} is | on which hook the key of {o} is | ~where the key to {o} is

[until: date]
labels  Until | Checkout | Leaves on
nouns   checkout date | checkout
facts   is taken until {v} | will be free on {v} | has its checkout on {v}
asks    When will {x} be free? | Until when is {x} taken? | How long is {x} taken?
        When is the checkout of {o}? | When is {x} free? | From when is {x} free?
        ~When is the checkout for {o}? | ~How long will {x} be taken?
clauses when {x} will be free | until when {x} is taken | ~when {x} is free
"""
    ),
)
