"""Things that are sold."""

from radixserve.demo.corpus.attribute import attributes
from radixserve.demo.corpus.domains.domain import Domain

PRODUCTS = Domain(
    key="products",
    subjects="product",
    kinds=(("product", "products"), ("item", "items"), ("article", "articles")),
    headings=("Our {kinds}", "Catalogue", "Price list", "{kinds} in the shop", "New {kinds}"),
    intros=(
        "All of these are sold in our shop.",
        "This is a part of our catalogue.",
        "Tax is included.",
        "Ask us if you are looking for something else.",
    ),
    asides=(
        "Gift wrapping is free.",
        "Most of our customers pay by card.",
        "The catalogue is printed twice a year.",
        "Returns are accepted with the receipt.",
        "Our staff will gladly help you choose.",
    ),
    attributes=attributes(
        """
[price: price]
labels  Price | Costs | Our price | Retail price
nouns   price | cost | retail price
facts   costs {v} | is sold for {v} | can be bought for {v} | is on sale for {v}
asks    How much is {x}? | How much does {x} cost? | What does {x} cost? | How expensive is {x}?
        What do I pay for {o}? | How much do I pay for {o}? | How much do you want for {o}?
        ~How much is {x} sold for? | ~What do you want for {o}? | For how much is {x} sold?
clauses how much {x} is | what {x} costs | how expensive {x} is | ~how much {x} costs

[colour: colour]
labels  Colour | Finish | Comes in
nouns   colour
facts   comes in {v} | is {v} | is painted {v}
asks    What colour is {x}? | In which colour does {x} come? | What colour does {x} come in?
        Which colour is {x}? | ~Which colour does {x} have? | In what colour is {x} painted?
        ~In what colour does {x} come? | ~Which colour does {x} come in?
clauses what colour {x} is | in which colour {x} comes | ~what colour {x} comes in

[weight: weight]
labels  Weight | Weighs | Net weight
nouns   weight
facts   weighs {v} | has a weight of {v} | brings {v} to the scales
asks    How heavy is {x}? | How much does {x} weigh? | What does {x} weigh? | Is {x} heavy?
        How many kilos does {x} weigh? | ~How many kilos is {x}? | ~What weight does {x} have?
clauses how heavy {x} is | how much {x} weighs | ~what {x} weighs

[warranty: months]
labels  Warranty | Guarantee | Warranty period
nouns   warranty | guarantee | warranty period
facts   has a warranty of {v} | comes with {v} of warranty | is covered for {v}
asks    How long is the warranty of {o}? | How long is {xs} warranty? | For how long is {x} covered?
        What warranty does {x} have? | What warranty comes with {o}? | How long is {x} covered?
        ~How long a warranty does {x} have? | ~What guarantee does {x} come with?
clauses how long the warranty of {o} is | how long {x} is covered | ~for how long {x} is covered

[stock: count]
labels  In stock | Stock | Available | Pieces left
nouns   stock | number in stock
facts   is in stock {v} times | has a stock of {v} pieces | is available {v} times
asks    How many pieces of {o} are left? | How many of {o} are in stock? | Is {x} in stock?
        How many pieces are there of {o}? | How many do you have of {o}? | Is {x} available?
        ~How many of {o} are left? | ~How many pieces of {o} are in stock?
clauses how many of {o} are left | if {x} is in stock | ~how many of {o} are in stock

[maker: brand]
labels  Maker | Made by | Manufacturer | Producer
nouns   maker | manufacturer | producer
facts   is made by {v} | comes from the maker {v} | is produced by {v} | is built by {v}
asks    Who makes {o}? | Who made {o}? | Which company makes {o}? | Who is {xs} maker?
        ~By whom is {x} made? | Who produces {o}? | ~Which company produces {o}?
        ~Who is the manufacturer of {o}? | Who is the maker of {o}?
clauses who makes {o} | which company made {o} | who produces {o} | ~which company makes {o}

[code: code]
labels  Model | Code | Model code | Article no.
nouns   model code | code | article number
facts   has the model code {v} | is listed under {v} | has the code {v}
asks    Under which code is {x} listed? | Which model code does {x} have? | What code is {x}?
        Which code does {x} have? | What is the code for {o}? | Which model is {x}?
        ~What model code does {x} have? | ~Under what code is {x} listed?
clauses which model code {x} has | under which code {x} is listed | ~which code {x} has

[material: material, shared]
labels  Material | Made of
nouns   material
facts   is made of {v} | is built from {v} | consists of {v}
asks    What is {x} made of? | Which material is {x} made of? | What does {x} consist of?
        Of what material is {x}? | What material is {x}? | What is {x} built from?
        ~Of which material is {x} made? | ~What material is {x} made of?
clauses what {x} is made of | of which material {x} is | ~which material {x} is made of

[shelf: desk]
labels  Shelf | Place | Aisle
nouns   shelf | shelf number | place
facts   stands on shelf {v} | is kept on shelf {v} | can be found on shelf {v}
asks    Where do I find {o}? | On which shelf is {x}? | Where is {x}? | Where is {x} kept?
        Where do you keep {o}? | On what shelf is {x} kept? | Where can I find {o}?
        ~On which shelf do I find {o}? | ~On which shelf can I find {o}?
clauses where {x} is kept | on which shelf {x} is | where I can find {o} | ~where to find {o}
"""
    ),
)
