"""People who work somewhere."""

from radixserve.demo.corpus.attribute import attributes
from radixserve.demo.corpus.domains.domain import Domain

PEOPLE = Domain(
    key="people",
    subjects="person",
    kinds=(("person", "people"), ("colleague", "colleagues"), ("employee", "employees")),
    headings=("Our {kinds}", "Staff", "Who is who", "The team", "Contacts", "List of {kinds}"),
    intros=(
        "These are the people you may meet here.",
        "A few words about the team.",
        "The list was checked last week.",
        "Everybody here is happy to help.",
        "New members of the team come last.",
    ),
    asides=(
        "The coffee machine is for everybody.",
        "Please knock before you enter.",
        "The summer party was a great success.",
        "Visitors are asked to sign the guest book.",
        "Some of them share an office.",
    ),
    is_people=True,
    attributes=attributes(
        """
[job: job]
labels  Job | Profession | Occupation | Works as
nouns   job | profession | occupation
facts   works as {av} | is {av} | is {av} by profession | earns {her} living as {av}
asks    What does {x} do? | What does {x} do for a living? | What does {x} work as?
        What is {x} by profession? | What kind of work does {x} do? | What is {xs} work?
        ~What work does {x} do? | ~What kind of job does {x} have?
clauses what {x} does | what {x} does for a living | what {x} works as | ~what work {x} does

[city: city]
labels  City | Lives in | Home town | Home
nouns   city | home town | place of residence
facts   lives in {v} | has a flat in {v} | has {her} home in {v} | has a house in {v}
asks    Where does {x} live? | In which city does {x} live? | What city does {x} live in?
        Where is {xs} home? | In what town does {x} live? | Where does {x} have {her} home?
        Which town does {x} live in? | ~Which city does {x} live in? | ~What town does {x} live in?
clauses where {x} lives | in which city {x} lives | where {xs} home is | ~what city {x} lives in

[age: age]
labels  Age | Years old
nouns   age
facts   is {v} years old | is {v} | is {v} years of age
asks    How old is {x}? | What age is {x}? | How many years old is {x}? | What is the age of {o}?
        ~Of what age is {x}? | At what age is {x} now?
clauses how old {x} is | what age {x} is | ~how many years old {x} is

[extension: extension]
labels  Extension | Phone extension | Ext. | Phone
nouns   phone extension | extension | extension number | phone number
facts   has extension {v} | can be reached at extension {v} | answers the phone at extension {v}
        has the phone extension {v}
asks    How can I reach {o} by phone? | What number do I dial for {o}? | How do I call {o}?
        Which extension does {x} have? | What number is {x} on? | How do I reach {o} by phone?
        At which extension can I reach {o}? | ~Which number do I dial for {o}?
        ~At which number can I call {o}?
clauses how to call {o} | what number to dial for {o} | how I can reach {o} by phone
        ~how to reach {o} by phone

[number: staff number]
labels  Employee number | Staff number | Employee no. | Staff ID
nouns   employee number | staff number | staff ID
facts   has employee number {v} | has the staff number {v} | is registered under number {v}
asks    Under which number is {x} registered? | Which employee number does {x} have?
        What number is on {xs} badge? | What is {xs} number as an employee?
        ~Which staff number does {x} have? | Which number is {x} registered under?
clauses which employee number {x} has | under which number {x} is registered
        ~which staff number {x} has

[hobby: hobby]
labels  Hobby | Likes | Free time | Interest
nouns   hobby | favourite hobby | pastime
facts   enjoys {v} in {her} free time | likes {v} | spends {her} free time on {v} | loves {v}
asks    What does {x} do in {her} free time? | What does {x} enjoy? | What does {x} like to do?
        What does {x} do for fun? | How does {x} spend {her} free time? | What does {x} love?
        ~What does {x} like to do in {her} free time? | What is {x} interested in?
        ~What does {x} enjoy in {her} free time?
clauses what {x} does in {her} free time | what {x} likes to do | what {x} does for fun
        ~what {x} enjoys

[pet: pet]
labels  Pet | Animal
nouns   pet | animal
facts   has {av} | owns {av} | lives with {av} | keeps {av}
asks    What pet does {x} have? | What animal does {x} keep? | Does {x} have a pet?
        Which pet does {x} have? | What is {xs} pet? | Does {x} have any pets?
        ~What kind of pet does {x} have? | ~Which animal does {x} keep?
clauses what pet {x} has | which animal {x} keeps | ~which pet {x} has

[food: food]
labels  Favourite food | Favourite dish | Likes to eat
nouns   favourite food | favourite dish | favourite meal
facts   likes {v} best | loves to eat {v} | likes to eat {v} | would eat {v} every day
asks    What does {x} like to eat? | What food does {x} like best? | What would {x} eat every day?
        Which dish does {x} like best? | What does {x} love to eat? | What should I cook for {o}?
        ~Which food does {x} like best? | ~What does {x} like to eat best?
clauses what {x} likes to eat | which food {x} likes best | ~what dish {x} likes best

[manager: person]
labels  Manager | Boss | Reports to | Supervisor
nouns   manager | boss | supervisor
facts   reports to {v} | works for {v} | has {v} as manager | takes orders from {v}
asks    Who is {xs} manager? | Who does {x} report to? | Who is {xs} boss? | Who manages {o}?
        Whom does {x} report to? | Who is in charge of {o}? | Who does {x} work for?
        ~Who gives orders to {o}? | ~For whom does {x} work? | To whom does {x} report?
clauses who {xs} manager is | who {x} reports to | who manages {o} | ~who {xs} boss is

[since: recent year, shared]
labels  Since | Start year | Joined | Works here since
nouns   start year | year of joining
facts   joined in {v} | has worked here since {v} | started in {v} | came to us in {v}
asks    When did {x} join? | Since when has {x} worked here? | In which year did {x} start?
        When did {x} start? | When did {x} come to us? | What year did {x} join?
        How long has {x} worked here? | ~In which year did {x} join? | ~What year did {x} start?
clauses when {x} joined | since when {x} has worked here | when {x} started
        ~in which year {x} joined

[team: team, shared]
labels  Team | Department | Works in
nouns   team | department
facts   works in the {v} | is part of the {v} | belongs to the {v} | has a job in the {v}
asks    Which team is {x} in? | Where does {x} work? | Which department does {x} belong to?
        What team does {x} work in? | In which department is {x}? | Which team does {x} belong to?
        ~Which department is {x} in? | ~Which department does {x} work in?
clauses where {x} works | which team {x} is in | which department {x} works in
        ~which team {x} works in

[desk: desk]
labels  Desk | Seat | Desk number
nouns   desk | desk number | seat
facts   sits at desk {v} | has desk {v} | can be found at desk {v}
asks    Where does {x} sit? | At which desk does {x} sit? | Where can I find {o}?
        Which desk does {x} have? | Which desk is {xs}? | What desk does {x} sit at?
        ~Which desk does {x} sit at? | ~At what desk can I find {o}?
clauses where {x} sits | which desk {x} has | where I can find {o} | ~at which desk {x} sits
"""
    ),
)
