"""What documents are about, one domain a file: data, in the words of ``attribute.py``."""

from radixserve.demo.corpus.domains.animals import ANIMALS
from radixserve.demo.corpus.domains.books import BOOKS
from radixserve.demo.corpus.domains.cars import CARS
from radixserve.demo.corpus.domains.courses import COURSES
from radixserve.demo.corpus.domains.dishes import DISHES
from radixserve.demo.corpus.domains.domain import Domain
from radixserve.demo.corpus.domains.events import EVENTS
from radixserve.demo.corpus.domains.orders import ORDERS
from radixserve.demo.corpus.domains.people import PEOPLE
from radixserve.demo.corpus.domains.places import PLACES
from radixserve.demo.corpus.domains.plants import PLANTS
from radixserve.demo.corpus.domains.products import PRODUCTS
from radixserve.demo.corpus.domains.rooms import ROOMS
from radixserve.demo.corpus.domains.trains import TRAINS

__all__ = ["DOMAINS", "Domain"]

DOMAINS: tuple[tuple[Domain, float], ...] = (
    (PEOPLE, 3.0),
    (PLACES, 2.5),
    (PRODUCTS, 2.5),
    (EVENTS, 1.5),
    (ROOMS, 1.0),
    (COURSES, 1.0),
    (TRAINS, 1.0),
    (PLANTS, 1.0),
    (BOOKS, 1.0),
    (ANIMALS, 1.0),
    (CARS, 1.0),
    (ORDERS, 1.0),
    (DISHES, 1.0),
)
"""The domains, each with its weight in a document's choice."""
