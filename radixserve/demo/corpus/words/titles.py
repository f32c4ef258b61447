"""What events, courses, books and dishes are called."""

from radixserve.demo.corpus.pool import pool, word_list

EVENTS = word_list(
    """
    Workshop, Concert, Lecture, Meeting, Festival, Fair, Dinner, Seminar, Exhibition, Contest
    Auction, Tour, Reading, Recital, Debate, Party, Parade, Picnic, Tournament, Quiz
    """
)

TOPICS = pool(
    """
    Pottery, Jazz, Poetry, Chess, Cooking, Baking, Wine, Cheese, Coffee, Tea, Garden, Flower
    Film, Theatre, Opera, Dance, Tango, Guitar, Piano, Violin, Choir, Robot, Physics, History
    Science, Math, Astronomy, Biology, Chemistry, Geology, Climate, Energy, Bicycle, Sailing
    Hiking, Running
    Yoga, Judo, Football, Tennis, Photography, Painting, Drawing, Design, Fashion, Knitting, Quilt
    Paper
    Book, Comics, Language, Grammar, Writing, Music, Folk, Blues, Rock, Winter, Summer, Spring
    Harvest, Lantern, Charity, Startup, Data, Software, Network, Safety, First Aid, Budget, Tax
    Travel
    """
)

BOOK_ADJECTIVES = pool(
    """
    Silent, Hidden, Last, Golden, Broken, Distant, Empty, Frozen, Burning, Forgotten, Secret, Second
    Quiet, Crooked, Wandering, Borrowed, Painted, Stolen, Lonely, Endless, Faithful, Paper, Glass
    Iron
    Midnight, Winter, Scarlet, Hollow, Restless, Invisible, Patient, Curious, Drowned, Sleeping
    Wild, Tender
    """
)

BOOK_NOUNS = pool(
    """
    Harbour, Garden, Letter, Island, Clockmaker, River, Orchard, Tower, Key, Map, Window, Voyage
    Lighthouse, Mirror, Bridge, Summer, Daughter, Captain, Gardener, Ocean, Library, Station
    Mountain, Kingdom
    Violin, Shadow, Lantern, Forest, Stranger, Song, Road, Planet, Machine, Painter, Promise, Storm
    Widow, Compass, Desert, Museum, Theatre, Bakery, Alphabet, Circus, Astronomer, Beekeeper
    Cartographer, Nightingale
    """
)

GENRES = pool(
    """
    crime, fantasy, romance, history, travel, poetry, comedy, horror, adventure, biography, drama
    satire
    """
)

DISH_STYLES = pool(
    """
    grilled, roasted, smoked, baked, fried, steamed, stuffed, spicy, sweet, warm, cold, glazed
    pickled, braised, creamy, crispy, marinated, toasted, peppered, salted, poached, buttered
    herbed, candied
    """
)

DISH_MAINS = pool(
    """
    salmon, trout, chicken, duck, lamb, tofu, mushroom soup, aubergine, pepper stew, potato pie
    pumpkin
    beetroot, carrot soup, leek, fennel, lentil stew, chickpea curry, noodle soup, rice, squid, cod
    spinach, cabbage, cauliflower, artichoke, bean soup, asparagus, plum cake, pear, apple tart
    halibut
    fig, apricot tart, cherry pie, turkey, goose, venison, tuna, lobster, crab cake, beef
    onion tart
    polenta, broccoli, celery soup
    """
)
