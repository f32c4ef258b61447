"""Books in a library or a shop."""

from radixserve.demo.corpus.attribute import attributes
from radixserve.demo.corpus.domains.domain import Domain

BOOKS = Domain(
    key="books",
    subjects="book",
    kinds=(("book", "books"), ("novel", "novels")),
    headings=("Our {kinds}", "New {kinds}", "Reading list", "From the library", "On the shelves"),
    intros=(
        "All of them can be borrowed.",
        "These are the ones our readers like.",
        "The list is in no special order.",
        "Please bring them back in time.",
    ),
    asides=(
        "Some copies have a damaged cover.",
        "Readers have asked for more of them.",
        "The reading room is quiet in the morning.",
        "Large print is marked with a dot.",
    ),
    attributes=attributes(
        """
[author: person]
labels  Author | Written by | By | Writer
nouns   author | writer
facts   was written by {v} | is a book by {v} | is the work of {v}
asks    Who wrote {o}? | Who is {xs} author? | By whom was {x} written? | Who is the author of {o}?
        Who has written {o}? | By whom is {x}? | ~Who was it that wrote {o}?
        ~By whom has {x} been written?
clauses who wrote {o} | who the author of {o} is | by whom {x} was written
        ~who has written {o}

[year: year]
labels  Year | Published | Published in | First printed
nouns   year | year of publication
facts   was published in {v} | came out in {v} | was first printed in {v}
asks    When was {x} published? | In which year was {x} published? | When did {x} come out?
        What year did {x} come out? | From which year is {x}? | How old is {x}?
        ~In which year did {x} come out? | ~What year was {x} published?
clauses when {x} was published | in which year {x} came out | ~when {x} came out

[pages: pages]
labels  Pages | Length | Number of pages
nouns   number of pages | length
facts   has {v} pages | runs to {v} pages | is {v} pages long
asks    How many pages does {x} have? | How long is {x}? | How thick is {x}?
        How many pages is {x}?
        How many pages are there in {o}? | ~How many pages long is {x}?
        ~How many pages are in {o}?
clauses how many pages {x} has | how long {x} is | ~how thick {x} is

[shelf: desk]
labels  Shelf | Place | Stands on
nouns   shelf | place | shelf number
facts   is on shelf {v} | stands on shelf {v} | can be found on shelf {v}
asks    Where is {x}? | On which shelf is {x}? | Where can I find {o}? | Where do I find {o}?
        On what shelf does {x} stand? | Where does {x} stand? | ~On what shelf can I find {o}?
        ~On which shelf does {x} stand?
clauses where {x} is | on which shelf {x} is | where I can find {o} | ~on which shelf {x} stands

[genre: genre, shared]
labels  Genre | Kind | Section
nouns   genre | section
facts   belongs to the {v} section | is in the {v} section
asks    What kind of book is {x}? | Which genre is {x}? | In which section is {x}?
        To which genre does {x} belong? | What genre is {x}? | ~To which section does {x} belong?
        ~In what section is {x}?
clauses what kind of book {x} is | in which section {x} is | ~which genre {x} is

[price: small price]
labels  Price | Costs
nouns   price | cost
facts   costs {v} | is sold for {v} | can be bought for {v}
asks    How much is {x}? | How much does {x} cost? | What does {x} cost? | How expensive is {x}?
        What do I pay for {o}? | How much do I pay for {o}? | ~How much is {x} sold for?
        ~What do you want for {o}?
clauses how much {x} is | what {x} costs | how expensive {x} is | ~how much {x} costs

[reader: person]
labels  Borrowed by | Reader | Lent to
nouns   reader
facts   is lent to {v} | has been borrowed by {v}
asks    Who has borrowed {o}? | To whom is {x} lent? | Who has {o}? | Who is reading {o}?
        By whom has {x} been borrowed? | ~By whom is {x} borrowed? | ~Who has {x} been lent to?
clauses who has borrowed {o} | who has {o} | to whom {x} is lent | ~who is reading {o}

[due: date]
labels  Due | Back on | Due on
nouns   due date | return date
facts   is due back on {v} | must be returned by {v} | will be back on {v}
asks    When is {x} due back? | When must {x} be returned? | When will {x} be back?
        By when must {x} be returned? | When is {x} due? | ~By when is {x} due back?
        ~When must {x} be back?
clauses when {x} is due back | when {x} will be back | ~when {x} must be returned
"""
    ),
)
