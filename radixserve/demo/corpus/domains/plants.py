"""Plants in a garden or a house."""

from radixserve.demo.corpus.attribute import attributes
from radixserve.demo.corpus.domains.domain import Domain

PLANTS = Domain(
    key="plants",
    subjects="plant",
    kinds=(("plant", "plants"),),
    headings=("Our {kinds}", "The greenhouse", "Plant care", "Watering plan", "House {kinds}"),
    intros=(
        "Please take good care of them.",
        "They were all healthy when we looked last.",
        "Rain water is best.",
        "The greenhouse is never locked.",
    ),
    asides=(
        "The gloves are in the shed.",
        "Too much water does more harm than too little.",
        "Spring is the best time for new soil.",
        "The hose is a bit short.",
    ),
    attributes=attributes(
        """
[water: interval]
labels  Water | Watering | Needs water
nouns   watering interval
facts   needs water {v} | must be watered {v} | gets water {v} | should be watered {v}
asks    How often does {x} need water? | How often must {x} be watered? | When does {x} need water?
        How often do I water {o}? | How often should I water {o}? | How often does {x} get water?
        ~How often do I have to water {o}? | ~How often should {x} be watered?
clauses how often {x} needs water | how often to water {o} | ~how often I should water {o}

[light: light, shared]
labels  Light | Likes | Light needed
nouns   light
facts   likes {v} | needs {v} | grows best in {v}
asks    What light does {x} need? | How much light does {x} need? | What light does {x} like?
        In what light does {x} grow best? | What kind of light does {x} need?
        ~What kind of light does {x} like? | ~How much light does {x} like?
clauses what light {x} needs | how much light {x} needs | ~what light {x} likes

[height: height]
labels  Height | Tall | Size
nouns   height | size
facts   is {v} tall | has a height of {v} | has grown to {v}
asks    How tall is {x}? | How high is {x}? | How big is {x}? | What height has {x} grown to?
        What height does {x} have? | ~How tall has {x} grown? | ~What height is {x}?
clauses how tall {x} is | how high {x} is | ~what height {x} has

[flowers: month, shared]
labels  Flowers in | Flowering | In flower
nouns   flowering month
facts   flowers in {v} | blooms in {v} | is in flower in {v}
asks    When does {x} flower? | In which month does {x} flower? | When does {x} bloom?
        In what month is {x} in flower? | When is {x} in flower?
        ~In which month does {x} bloom? | ~In what month does {x} flower?
clauses when {x} flowers | in which month {x} blooms | ~when {x} blooms

[place: view]
labels  Stands by | Window to
nouns   window
facts   stands at the window to the {v} | has its place at the window to the {v}
asks    At which window does {x} stand? | Where does {x} stand? | Where is {x}?
        At which window is {x}?
        ~At what window does {x} stand? | ~At what window is {x}? | Where can I find {o}?
clauses where {x} stands | at which window {x} is | ~at which window {x} stands

[planted: recent year]
labels  Planted | Planted in | Year
nouns   planting year
facts   was planted in {v} | has been here since {v}
asks    When was {x} planted? | In which year was {x} planted? | How old is {x}?
        Since when has {x} been here? | ~What year was {x} planted? | ~In what year was {x} planted?
clauses when {x} was planted | in which year {x} was planted | ~what year {x} was planted

[carer: person]
labels  Cared for by | Carer | Watered by
nouns   carer
facts   is cared for by {v} | is looked after by {v}
asks    Who cares for {o}? | Who looks after {o}? | Who takes care of {o}? | Who waters {o}?
        By whom is {x} cared for? |
        ~Who is it that looks after {o}? | ~Who is it that cares for {o}?
clauses who cares for {o} | who looks after {o} | ~who takes care of {o}

[price: small price]
labels  Price | Costs
nouns   price | cost
facts   costs {v} | is sold for {v} | can be bought for {v}
asks    How much is {x}? | How much does {x} cost? | What does {x} cost? | How expensive is {x}?
        What do I pay for {o}? | ~What do you want for {o}? | How much do I pay for {o}?
clauses how much {x} is | what {x} costs | ~how much {x} costs
"""
    ),
)
