"""Cars for rent."""

from radixserve.demo.corpus.attribute import attributes
from radixserve.demo.corpus.domains.domain import Domain

CARS = Domain(
    key="cars",
    subjects="car",
    kinds=(("car", "cars"), ("vehicle", "vehicles")),
    headings=("Our {kinds}", "Car rental", "{kinds} for rent", "The fleet", "Car pool"),
    intros=(
        "All of them have winter tyres.",
        "A driving licence is required.",
        "They are washed every week.",
        "Please return them with a full tank.",
    ),
    asides=(
        "The office is open all day.",
        "Child seats are free.",
        "Smoking is not allowed in any of them.",
        "Report scratches at once.",
    ),
    attributes=attributes(
        """
[plate: plate]
labels  Plate | Number plate | Licence plate
nouns   number plate | plate | licence plate
facts   has the number plate {v} | carries the plate {v} | is registered as {v}
asks    What is on {xs} number plate? | Which number plate does {x} have? | How is {x} registered?
        Under which plate is {x} registered? | What plate does {x} have?
        ~Which plate does {x} have? | ~What is on the plate of {o}? | Which plate does {x} carry?
clauses which plate {x} has | how {x} is registered | what is on {xs} number plate
        ~which number plate {x} has

[rate: price]
labels  Rate | Price per day | Daily rate | Per day
nouns   daily rate | rate | price per day | price
facts   costs {v} a day | costs {v} per day | can be rented for {v} a day
asks    How much is {x}? | What does {x} cost? | How much does {x} cost? | How much is {x} per day?
        What does it cost to rent {o}? | How much is it to rent {o}? | What does {x} cost a day?
        For how much can I rent {o}? | ~How much does it cost to rent {o}?
        ~How much does {x} cost per day?
clauses how much {x} is | what {x} costs | how much it costs to rent {o}
        ~what it costs to rent {o}

[fuel: fuel, shared]
labels  Fuel | Runs on
nouns   fuel
facts   runs on {v} | uses {v} | is driven by {v}
asks    What does {x} run on? | What kind of fuel does {x} use? | What fuel does {x} use?
        Which fuel does {x} use? | Which fuel does {x} need? | What do I fill into {o}?
        ~What kind of fuel does {x} need? | ~What fuel does {x} need?
clauses what {x} runs on | which fuel {x} uses | ~what fuel {x} needs

[seats: seats]
labels  Miles | Mileage | Thousand miles
nouns   mileage
facts   has gone {v} thousand miles | has {v} thousand miles on the clock
asks    How many miles has {x} gone? | How many miles are on {xs} clock? | How far has {x} gone?
        How many miles does {x} have? | ~How many miles are on the clock of {o}?
        ~How many thousand miles has {x} gone?
clauses how many miles {x} has gone | how far {x} has gone | ~how many miles {x} has

[colour: colour]
labels  Colour | Paint
nouns   colour
facts   is {v} | is painted {v} | has the colour {v}
asks    What colour is {x}? | Which colour is {x}? | What colour does {x} have?
        In what colour is {x} painted? | ~Which colour does {x} have?
        ~In which colour is {x} painted?
clauses what colour {x} is | which colour {x} has | ~what colour {x} has

[bay: desk]
labels  Bay | Parking bay | Parked in
nouns   parking bay | bay | parking place
facts   is parked in bay {v} | stands in bay {v} | can be found in bay {v}
asks    Where is {x}? | In which bay is {x} parked? | Where is {x} parked? | Where can I find {o}?
        Where does {x} stand? | In which bay is {x}? | ~In what bay is {x}?
        ~In which bay does {x} stand?
clauses where {x} is | where {x} is parked | in which bay {x} is | ~in which bay {x} is parked

[gears: gears, shared]
labels  Gearbox | Gears | Transmission
nouns   gearbox | transmission
facts   has {av} gearbox | comes with {av} gearbox
asks    What gearbox does {x} have? | Which kind of gearbox does {x} have?
        What kind of gearbox does {x} have? | ~Which gearbox does {x} have?
        ~What kind of gearbox does {x} come with?
clauses what gearbox {x} has | which gearbox {x} has | ~what kind of gearbox {x} has

[year: recent year]
labels  Year | Built | Built in | Year of make
nouns   year | year of make
facts   was built in {v} | is from {v} | dates from {v}
asks    When was {x} built? | In which year was {x} built? | How old is {x}?
        From which year is {x}?
        ~What year was {x} built? | ~From what year is {x}?
clauses when {x} was built | how old {x} is | ~in which year {x} was built

[user: person]
labels  Rented by | Rented to | Driver | Customer
nouns   driver | customer
facts   is rented by {v} | is out with {v} | has been rented to {v}
asks    Who has rented {o}? | Who has {o}? | By whom is {x} rented? | Who is driving {o}?
        To whom has {x} been rented? | ~To whom is {x} rented? | ~By whom has {x} been rented?
clauses who has rented {o} | who has {o} | by whom {x} is rented | ~who is driving {o}
"""
    ),
)
