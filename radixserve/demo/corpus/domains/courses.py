"""Courses and classes."""

from radixserve.demo.corpus.attribute import attributes
from radixserve.demo.corpus.domains.domain import Domain

COURSES = Domain(
    key="courses",
    subjects="course",
    kinds=(("course", "courses"), ("class", "classes")),
    headings=("Our {kinds}", "Evening school", "{kinds} this term", "Timetable", "Adult {kinds}"),
    intros=(
        "The new term begins soon.",
        "Anybody can sign up.",
        "Books are not included.",
        "We offer something for everybody.",
    ),
    asides=(
        "The school is closed in the holidays.",
        "Bring a pen and some paper.",
        "Nobody has ever complained.",
        "There is a short break in the middle.",
    ),
    names_say_kind=True,
    attributes=attributes(
        """
[teacher: person]
labels  Teacher | Taught by | Instructor | Tutor
nouns   teacher | instructor | tutor
facts   is taught by {v} | is given by {v} | has {v} as its teacher
asks    Who teaches {o}? | Who is {xs} teacher? | By whom is {x} taught? | Who gives {o}?
        Who is the teacher of {o}? | Who is teaching {o}? | With whom is {x}?
        ~By whom is {x} given? | ~Who is the teacher in {o}? | Who is the teacher for {o}?
clauses who teaches {o} | who gives {o} | who the teacher of {o} is | ~who is teaching {o}

[day: weekday, shared]
labels  Day | Weekday | Every
nouns   day | weekday
facts   meets on {v}s | takes place on {v}s | is held on {v}s
asks    On which day is {x}? | On what day does {x} meet? | On which day does {x} meet?
        What day is {x}? | Which day of the week is {x}? | On which day is {x} held?
        ~On what day is {x}? | ~Which day does {x} meet?
clauses on which day {x} is | on what day {x} meets | ~on which day {x} meets

[time: time]
labels  Time | Starts at | Begins at
nouns   time | starting time
facts   starts at {v} | begins at {v}
asks    ~At what time does {x} start? | When does {x} begin? | What time does {x} start?
        At what time is {x}? | What time is {x}? | When do I have to be there for {o}?
        ~What time does {x} begin? | ~At what time does {x} begin? | When does {x} start?
clauses at what time {x} starts | when {x} begins | what time {x} is | ~what time {x} starts

[classroom: desk]
labels  Classroom | Room | Held in
nouns   classroom | room
facts   is held in classroom {v} | meets in room {v} | takes place in room {v}
asks    Where is {x}? | In which room is {x}? | In which classroom is {x}? | Where is {x} held?
        Where does {x} meet? | Which room is {x} in? | ~In what room does {x} meet?
        ~In which classroom is {x} held? | What room is {x} in?
clauses where {x} is | in which room {x} is | where {x} meets | ~in which classroom {x} is

[fee: price]
labels  Fee | Price | Course fee | Costs
nouns   fee | price | cost
facts   costs {v} | has a fee of {v} | can be booked for {v}
asks    How much is {x}? | What does {x} cost? | How much does {x} cost? | What do I pay for {o}?
        How expensive is {x}? | How much do I pay for {o}? | ~How much do I have to pay for {o}?
        ~For how much can {x} be booked?
clauses how much {x} is | what {x} costs | how expensive {x} is | ~how much {x} costs

[begins: date]
labels  Begins on | First meeting | Start date
nouns   start date | first day
facts   begins on {v} | has its first meeting on {v}
asks    On which date does {x} begin? | When is the first meeting of {o}? | What is {xs} first day?
        On what date does {x} begin? | From what date on is {x}?
        ~On which date is the first meeting of {o}? | ~When does {x} have {her} first meeting?
clauses on which date {x} begins | when the first meeting of {o} is
        ~on what date {x} begins

[students: count]
labels  Students | Enrolled | Participants
nouns   number of students | number of participants
facts   has {v} students | is attended by {v} people | counts {v} participants
asks    How many students does {x} have? | How many people are in {o}? | How big is {x}?
        How many students are in {o}? | How many participants does {x} have?
        ~How many participants are in {o}? | ~How many people does {x} have?
clauses how many students {x} has | how many people are in {o} | ~how many students are in {o}

[level: level, shared]
labels  Level | For
nouns   level | difficulty
facts   is on the {v} level | is meant for the {v} level
asks    What level is {x}? | On which level is {x}? | How difficult is {x}? | How hard is {x}?
        Which level is {x}? | What level is {x} on? | ~Which level is {x} on?
        ~On what level is {x}?
clauses what level {x} is | how difficult {x} is | ~which level {x} is
"""
    ),
)
