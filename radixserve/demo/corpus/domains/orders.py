"""Orders and parcels."""

from radixserve.demo.corpus.attribute import attributes
from radixserve.demo.corpus.domains.domain import Domain

ORDERS = Domain(
    key="orders",
    subjects="order",
    kinds=(("order", "orders"), ("parcel", "parcels"), ("ticket", "tickets")),
    headings=("Open {kinds}", "{kinds} of this week", "List of {kinds}", "Deliveries", "Dispatch"),
    intros=(
        "The list is updated every hour.",
        "All of them have been paid.",
        "Please check the number before you call.",
        "The oldest ones come first.",
    ),
    asides=(
        "The van leaves every morning.",
        "Nothing was lost this year.",
        "Fragile things get a red sticker.",
        "The phone is always busy after lunch.",
    ),
    names_say_kind=True,
    attributes=attributes(
        """
[customer: person]
labels  Customer | Ordered by | Placed by | Client
nouns   customer | client
facts   was placed by {v} | belongs to {v} | is for {v} | comes from {v}
asks    Who placed {o}? | Who is {x} for? | Whom does {x} belong to? | Whose is {x}?
        Who is the customer of {o}? | By whom was {x} placed? | For whom is {x}?
        Who does {x} belong to? | ~For whom was {x} placed? | ~Who has placed {o}?
clauses who placed {o} | who {x} is for | who {x} belongs to | ~for whom {x} is

[item: thing]
labels  Item | Contents | Product | Article
nouns   item | contents
facts   contains {av} | is about {av} | consists of {av}
asks    What is in {o}? | What does {x} contain? | What is {x} about? | What was ordered with {o}?
        Which item is in {o}? | ~Which item does {x} contain? | ~What is there in {o}?
clauses what is in {o} | what {x} contains | ~which item is in {o}

[status: status, shared]
labels  Status | State
nouns   status | state
facts   is marked as {v} | has the status {v}
asks    How far is {x}? | What has happened to {o}? | What state is {x} in? | Where is {x} now?
        What is the status of {o}? | In what state is {x}? | What is happening with {o}?
        ~In which state is {x}? | ~Which state is {x} in?
clauses how far {x} is | what has happened to {o} | ~what state {x} is in

[delivery: date]
labels  Delivery | Delivery date | Arrives on | Due
nouns   delivery date | delivery | day of delivery
facts   will be delivered on {v} | arrives on {v} | is due on {v}
asks    When will {x} be delivered? | When does {x} arrive? | When is {x} due? | When will {x} come?
        On which day does {x} arrive? | On what day will {x} be delivered?
        ~On what date will {x} be delivered? | ~On which date does {x} arrive?
clauses when {x} will be delivered | when {x} arrives | when {x} is due | ~on which day {x} arrives

[total: price]
labels  Total | Amount | Sum
nouns   total | amount | sum
facts   comes to {v} | has a total of {v} | adds up to {v}
asks    How much is {x}? | What does {x} come to? | How much does {x} cost? | What does {x} cost?
        How much does {x} come to? | What is the total of {o}? | How much do I pay for {o}?
        ~How much does {x} come to in all? | ~What do I have to pay for {o}?
clauses how much {x} is | what {x} comes to | ~how much {x} comes to

[address: address]
labels  Address | Ship to | Deliver to
nouns   address | delivery address
facts   goes to {v} | will be sent to {v} | is addressed to {v}
asks    Where does {x} go? | Where will {x} be sent? | To which address does {x} go?
        What address does {x} go to? | Where is {x} going? | Where is {x} addressed to?
        ~To what address will {x} be sent? | ~To which address will {x} be sent?
clauses where {x} goes | to which address {x} goes | where {x} will be sent
        ~what address {x} goes to

[weight: weight]
labels  Weight | Weighs
nouns   weight
facts   weighs {v} | has a weight of {v}
asks    How heavy is {x}? | How much does {x} weigh? | What does {x} weigh?
        How many kilos does {x} weigh? | ~How many kilos is {x}? | ~What weight does {x} have?
clauses how heavy {x} is | how much {x} weighs | ~what {x} weighs

[code: code]
labels  Tracking code | Tracking | Code
nouns   tracking code | code | tracking number
facts   has the tracking code {v} | can be tracked under {v} | carries the code {v}
asks    How can I track {o}? | Under which code can I track {o}?
        Which tracking code does {x} have?
        Which code does {x} have? | What is the tracking code for {o}?
        ~Under which code can {x} be tracked? | ~What tracking code does {x} have?
clauses how I can track {o} | which tracking code {x} has | ~which code {x} has
"""
    ),
)
