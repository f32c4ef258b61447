"""Shops, cafes and other places that open and close."""

from radixserve.demo.corpus.attribute import attributes
from radixserve.demo.corpus.domains.domain import Domain

PLACES = Domain(
    key="places",
    subjects="place",
    kinds=(
        ("cafe", "cafes"),
        ("shop", "shops"),
        ("restaurant", "restaurants"),
        ("museum", "museums"),
        ("library", "libraries"),
        ("bakery", "bakeries"),
        ("pharmacy", "pharmacies"),
        ("hotel", "hotels"),
        ("theatre", "theatres"),
        ("gallery", "galleries"),
        ("bar", "bars"),
        ("market", "markets"),
    ),
    headings=("Our {kinds}", "The {kinds} of the town", "Guide to the {kinds}", "Local {kinds}"),
    intros=(
        "All of them are worth a visit.",
        "The town is small, but there is much to see.",
        "This guide is printed every spring.",
        "Most of them are in the old part of the town.",
    ),
    asides=(
        "Parking is difficult on market days.",
        "Dogs are welcome almost everywhere.",
        "The bus stops around the corner.",
        "Many visitors come back every year.",
        "There is a small fountain nearby.",
    ),
    names_say_kind=True,
    attributes=attributes(
        """
[address: address]
labels  Address | Street | Location | Where
nouns   address | location | street address
facts   is at {v} | is located at {v} | can be found at {v} | stands at {v}
asks    Where is {x}? | Where can I find {o}? | Where is {x} located? | How do I find {o}?
        In which street is {x}? | On what street is {x}? | Where do I find {o}?
        ~On which street is {x}? | ~In what street is {x} located?
clauses where {x} is | where I can find {o} | where {x} is located | ~where to find {o}

[hours: hours]
labels  Opening hours | Hours | Open | Open from
nouns   opening hours | opening times | hours
facts   is open from {v} | opens its doors from {v} | welcomes guests from {v}
asks    When is {x} open? | What are {xs} opening hours? | From when to when is {x} open?
        What are the opening hours of {o}? | What hours is {x} open? | At what times is {x} open?
        ~At which hours is {x} open? | ~What are the hours of {o}?
clauses when {x} is open | what the opening hours of {o} are | ~at what times {x} is open

[opens: hours, first]
labels  Opens
nouns   opening time
facts   opens at {v} | is open from {v} on
asks    When does {x} open? | At what time does {x} open? | From when is {x} open?
        How early does {x} open? | What time does {x} open? | When do they open {o}?
        ~At which time does {x} open? | ~How early is {x} open?
clauses when {x} opens | at what time {x} opens | ~what time {x} opens

[closes: hours, last]
labels  Closes
nouns   closing time
facts   closes at {v} | is open until {v}
asks    When does {x} close? | At what time does {x} close? | Until when is {x} open?
        How late is {x} open? | What time does {x} close? | How long is {x} open?
        ~At which time does {x} close? | ~How late does {x} close?
clauses when {x} closes | until when {x} is open | ~at what time {x} closes

[closed: weekday, shared]
labels  Closed on | Closed | Closing day | Day off
nouns   closing day | day off
facts   is closed on {v}s | does not open on {v}s | stays closed on {v}s
asks    When is {x} closed? | On which day is {x} closed? | What day is {x} closed?
        On which day does {x} not open? | Which day of the week is {x} closed?
        ~On what day is {x} closed? | ~Which day is {x} closed?
clauses on which day {x} is closed | when {x} is closed | ~what day {x} is closed
opposite Is {x} open on {v}? | Is {x} open on {v}s? | Can I visit {o} on {v}?
         Does {x} open on {v}s?
         Is {x} open on a {v}? | Can I go to {o} on {v}s? | I want to go to {o} on {v}. Is it open?
         ~Can I visit {o} on a {v}? | ~Can I go to {o} on a {v}? | ~Does {x} open on a {v}?
otherwise is closed only on {v}s

[owner: person]
labels  Owner | Run by | Owned by | Proprietor
nouns   owner | proprietor
facts   belongs to {v} | is owned by {v} | is run by {v}
asks    Who owns {o}? | Who is {xs} owner? | Who runs {o}? | Whom does {x} belong to?
        Who does {x} belong to? | By whom is {x} run? | Who is the owner of {o}?
        ~By whom is {x} owned? | ~Who is it that runs {o}?
clauses who owns {o} | who runs {o} | who {x} belongs to | ~who the owner of {o} is

[founded: year]
labels  Founded | Since | Opened in | Year
nouns   founding year | opening year
facts   was founded in {v} | opened in {v} | has been there since {v} | was opened in {v}
asks    When was {x} founded? | How old is {x}? | In which year was {x} founded?
        Since when has {x} been there? | What year was {x} opened? | When was {x} opened?
        ~In which year was {x} opened? | ~What year was {x} founded?
clauses when {x} was founded | in which year {x} was opened | ~when {x} was opened

[seats: seats]
labels  Seats | Places | Number of seats
nouns   number of seats | seat count
facts   has {v} seats | has room for {v} people | offers {v} seats | can seat {v} people
asks    How many seats does {x} have? | How many people can {x} seat? | How big is {x}?
        How many people fit into {o}? | How many seats are there in {o}?
        ~How many seats are in {o}? | ~How many people does {x} have room for?
clauses how many seats {x} has | how many people fit into {o} | ~how many people {x} can seat

[wifi: password]
labels  Wifi password | Wi-Fi | Wifi | Password
nouns   wifi password | password
facts   has the wifi password {v} | uses {v} as its wifi password | has {v} as its wifi password
asks    What is the password for the wifi at {o}? | How do I get into the wifi of {o}?
        Which wifi password does {x} have? | What is the wifi password at {o}?
        ~Which password does {x} use for the wifi? | What is the password of {xs} wifi?
        Which password does {x} have? | ~Which wifi password does {x} use?
clauses what the wifi password of {o} is | how to get into the wifi of {o}
        ~what the password for the wifi at {o} is

[phone: phone]
labels  Phone | Telephone | Tel. | Phone number
nouns   phone number | telephone number | number
facts   has the phone number {v} | can be called at {v} | answers the phone at {v}
asks    How can I call {o}? | What number do I call for {o}? | How do I reach {o} by phone?
        Which phone number does {x} have? | ~At which number can I call {o}?
        ~What number must I dial for {o}? | ~At what number can I reach {o}?
clauses how to call {o} | what number to call for {o} | ~how I can call {o}
"""
    ),
)
