"""What people do and like: jobs, hobbies, foods, animals and what they are called, languages."""

from radixserve.demo.corpus.pool import pool

JOBS = pool(
    """
    baker, nurse, teacher, carpenter, plumber, electrician, architect, accountant, lawyer, judge
    librarian, gardener, florist, butcher, waiter, chef, barber, tailor, dentist, surgeon
    pharmacist, biologist, chemist, geologist, physicist, astronomer, statistician, historian
    translator, interpreter, journalist, editor, novelist, illustrator, photographer, sculptor
    painter, potter, weaver, jeweller, blacksmith, welder, mechanic, engineer, pilot, sailor
    fisherman, farmer, beekeeper, shepherd, vet, zookeeper, ranger, firefighter, paramedic, guard
    cashier, receptionist, secretary, manager, consultant, auditor, banker, broker, actor, dancer
    singer, pianist, violinist, drummer, conductor, composer, tour guide, bus driver, train driver
    taxi driver, courier, postman, locksmith, glazier, roofer, bricklayer, surveyor, planner
    data analyst, web developer, graphic designer, project manager, lab technician, sound engineer
    sales manager, tax adviser, travel agent, speech therapist, school cook, piano tuner
    """
)

HOBBIES = pool(
    """
    chess, hiking, sailing, rowing, swimming, diving, surfing, skiing, skating, cycling, running
    climbing, judo, fencing, archery, tennis, golf, badminton, football, volleyball, basketball
    yoga, dancing, tango, painting, drawing, pottery, knitting, sewing, embroidery, origami
    woodcarving, baking, cooking, brewing, gardening, beekeeping, birdwatching, fishing, astronomy
    photography, calligraphy, poetry, reading, theatre, opera, jazz, playing the piano
    playing the guitar, playing the cello, singing in a choir, collecting stamps, collecting coins
    building model ships, solving crosswords, restoring old radios, flying kites, stargazing
    kayaking, horse riding, juggling, magic tricks, table tennis, board games, growing orchids
    """
)

FOODS = pool(
    """
    lasagne, risotto, ravioli, gnocchi, pizza, minestrone, tiramisu, paella, gazpacho, tortilla
    couscous, tagine, falafel, hummus, shakshuka, moussaka, dolma, goulash, pierogi, borscht
    schnitzel, dumplings, pretzels, fondue, raclette, quiche, ratatouille, croissants, pancakes
    waffles, apple pie, cheesecake, carrot cake, rice pudding, plum tart, lemon sorbet, fish soup
    onion soup, lentil soup, pumpkin soup, tomato salad, potato salad, roast chicken, lamb stew
    beef curry, fish curry, fried rice, ramen, sushi, tempura, udon, bibimbap, kimchi, pad thai
    spring rolls, tacos, burritos, enchiladas, ceviche, empanadas, chili, gumbo, baked beans
    mushroom pie, stuffed peppers, grilled trout, smoked salmon, mussels, ginger biscuits
    """
)

ANIMALS = pool(
    """
    cat, dog, parrot, rabbit, hamster, canary, tortoise, goldfish, ferret, gecko, guinea pig, horse
    goat, duck, donkey, hedgehog, pony, snake, lizard, cockatoo, chinchilla, budgie, goose, raven
    """
)

PET_NAMES = pool(
    """
    Miso, Biscuit, Pepper, Shadow, Luna, Simba, Waffles, Ziggy, Nori, Pickle, Tofu, Bandit
    Cleo, Dusty, Echo, Fudge, Gizmo, Hobbit, Indigo, Jasper, Koko, Loki, Mango, Nugget
    Oreo, Pippin, Quincy, Rocky, Scout, Truffle, Umber, Velvet, Willow, Yoshi, Zorro, Pesto
    Banjo, Cosmo, Dumpling, Freckles, Gadget, Honey, Ivy, Jelly, Kipper, Lucky, Marble, Noodle
    Olive, Pixel, Ripley, Smudge, Tango, Sesame, Widget, Nutmeg, Toffee, Clover, Poppy, Rusty
    Sprout, Peanut, Maple, Button, Domino, Ginger, Hazelnut, Cricket, Bramble, Thistle, Comet, Juno
    """
)

LANGUAGES = pool(
    """
    Italian, Spanish, Portuguese, French, German, Dutch, Danish, Swedish, Norwegian, Finnish
    Polish, Czech, Hungarian, Romanian, Greek, Turkish, Arabic, Hebrew, Persian, Hindi, Bengali
    Tamil, Thai, Vietnamese, Mandarin, Cantonese, Japanese, Korean, Swahili, Zulu, Amharic, Welsh
    Irish, Catalan, Basque, Icelandic, Estonian, Latvian, Ukrainian, Bulgarian
    """
)

TEAMS = pool(
    """
    kitchen, office, workshop, warehouse, laboratory, sales team, front desk, design team, garden
    accounts team, support team, delivery team, press office, legal team, night shift, archive
    cleaning team, training team, repair shop, mail room, data team, security team, web team
    research group
    """
)

REASONS = pool(
    """
    nuts, milk, eggs, wheat, soy, fish, shellfish, celery, mustard, sesame seeds, peanuts, pollen
    """
)
