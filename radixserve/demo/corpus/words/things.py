"""What products, plants, places and their parts are called."""

from radixserve.demo.corpus.pool import combinations, pool, word_list

# The kinds of things are words of the language, in training as in every held-out split.
GOODS = word_list(
    """
    kettle, lamp, chair, table, toaster, blender, radio, camera, backpack, tent, bicycle, helmet
    scooter, heater, fan, vacuum, printer, keyboard, headset, speaker, monitor, charger, drill
    hammer, ladder, umbrella, suitcase, wallet, watch, clock, mirror, carpet, pillow, blanket
    mattress, sofa, desk, bookcase, teapot, mug, frying pan, knife set, rice cooker, coffee maker
    juicer, scale, thermometer, torch, sleeping bag, raincoat, scarf, jacket, guitar, flute
    microphone, telescope, microscope, puzzle, kite, skateboard, tablet, router, projector
    air filter, lawn mower, watering can, bird feeder
    """
)

BRANDS = combinations(
    "Vel Nor Or Lum Zan Kor Tal Bri Sol Hex Pax Quil Ren Sab Tor Umb Vex Wex Xan Yol Cal Del Fen",
    "ora ix bit ano ea eon ux ica ado elle ent iva oro ust ande ym",
)

PLACE_WORDS = pool(
    """
    Luna, Harbour, Castle, River, Garden, Station, Lantern, Compass, Anchor, Acorn, Willow, Falcon
    Heron, Swan, Otter, Badger, Copper, Silver, Amber, Coral, Ivory, Crimson, Velvet, Cedar
    Juniper, Rosemary, Thyme, Saffron, Pepper, Clover, Orchard, Meadow, Valley, Summit, Bridge
    Tower
    Market, Mill, Abbey, Chapel, Lighthouse, Canal, Island, Pebble, Marble, Granite, Sapphire
    Emerald
    Comet, Aurora, Eclipse, Horizon, Sunrise, Twilight, Winter, Autumn, Monsoon, Thunder, Breeze
    Tide
    Phoenix, Griffin, Unicorn, Sparrow, Magpie, Robin, Kingfisher, Pelican, Dolphin, Salmon, Walnut
    Chestnut
    Maple, Birch, Hazel, Laurel, Olive, Fig, Cherry, Peach, Quince, Plum, Tulip, Dahlia
    Violin, Trumpet, Cello, Piano, Mosaic, Ribbon, Feather, Crystal, Mirror, Candle, Barrel, Wagon
    """
)

STREET_NAMES = pool(
    """
    Mill, Church, High, Station, Park, Garden, Bridge, Castle, King, Queen, Market, School
    Elm, Oak, Ash, Cedar, Birch, Maple, Willow, Poplar, Linden, Hawthorn, Juniper, Sycamore
    North, South, East, West, River, Lake, Harbour, Canal, Hill, Valley, Meadow, Forest
    Baker, Cooper, Fuller, Mason, Potter, Weaver, Fisher, Miller, Smith, Tanner, Thatcher, Glover
    Victoria, Albert, Nelson, Wellington, Darwin, Newton, Mozart, Goethe, Dante, Cervantes, Galileo
    Kepler
    Abbey, Chapel, Priory, Bishop, Friar, Temple, Tower, Gate, Wall, Well, Cross, Green
    Amber, Copper, Silver, Golden, Crystal, Marble, Rose, Lily, Violet, Daisy, Orchid, Tulip
    """
)

STREET_KINDS = ("Street", "Road", "Lane", "Avenue", "Square", "Way", "Row", "Close")

PLANTS = pool(
    """
    fern, fig, ivy, orchid, cactus, palm, aloe, jasmine, begonia, geranium, fuchsia, lavender
    basil, rosemary, thyme, sage, mint, parsley, sorrel, oregano, dill, coriander, bay tree
    lemon tree
    olive tree, banana plant, rubber plant, spider plant, snake plant, peace lily, tulip, daffodil
    hyacinth, iris, peony, dahlia
    hydrangea, azalea, camellia, magnolia, wisteria, clematis, honeysuckle, bamboo, yucca, agave
    primrose, sunflower
    """
)

MATERIALS = pool(
    """
    oak, pine, steel, glass, copper, leather, cotton, wool, bamboo, aluminium, plastic, ceramic
    walnut, brass, linen, silk, rubber, granite, marble, titanium, canvas, nylon, cork, beech
    """
)

COLOURS = pool(
    """
    red, blue, green, yellow, black, white, grey, brown, orange, purple, pink, silver
    dark blue, light green, cream, turquoise, beige, violet, dark red, light blue, gold, navy
    olive, crimson
    """
)

FUELS = pool(
    """
    petrol, diesel, electricity, biogas, hydrogen, ethanol, methane, batteries, autogas, biodiesel
    kerosene, alcohol
    """
)

CITY_VIEWS = pool(
    """
    garden, sea, harbour, river, old town, park, courtyard, mountains, castle, lake, market, canal
    square, vineyard, forest, bay, bridge, cathedral, roof terrace, pool, station, valley, beach
    tower
    """
)

LOGIN_WORDS = pool(
    """
    maple, tiger, coffee, sunset, rocket, pepper, violet, marble, lemon, harbour, penguin, cactus
    velvet, thunder, biscuit, orbit, falcon, garlic, meadow, copper, puzzle, walnut, island, jacket
    candle, dragon, forest, guitar, honey, igloo, jungle, kitten, ladder, mango, needle, oyster
    """
)
