"""Which running request is about to compute which page: sharing between requests in flight.

Pages enter the tree when they are full and computed, so two requests that arrive together with the
same cold prefix would both compute it. To prevent that, every running request announces the next
page that it will commit:

    committed (in the tree)      next page         later
    |=========|=========|=========|---------|---------|----
                                  ^ key = (owner, page index, the page's tokens)

A newcomer that matches ``m`` tokens looks under the key of *its* page ``m // P``: a request with
the same prefix has committed exactly what the tree holds of it, so its next page is the newcomer's
next page. Hits are verified token by token from the start: different prefixes may share a
key. The owner of a page is its request's namespace, or everybody if all tokens up to its end are
public; behind those nobody waits for another namespace.

Knows requests' tokens, not pages or budgets. Costs: ``announce``, ``withdraw`` O(P); ``find`` O(P)
without a hit, O(shared tokens) with one.
"""

from dataclasses import dataclass

from radixserve.cache.lookup import common_prefix
from radixserve.cache.public_prefixes import PublicPrefixes
from radixserve.ids import Namespace, TokenArray
from radixserve.request import Request

_Key = tuple[Namespace | None, int, bytes]


@dataclass(frozen=True, slots=True)
class Production:
    """A producer and how many of the newcomer's tokens it will have committed, in whole pages."""

    producer: Request
    num_shared_tokens: int


class Producers:
    """The announced next pages of all running requests. Owned by the scheduler."""

    def __init__(self, page_size: int, public: PublicPrefixes) -> None:
        self._page_size = page_size
        self._public = public
        self._by_key: dict[_Key, list[Request]] = {}
        self._keys: dict[Request, _Key] = {}

    def announce(self, request: Request, num_committed_tokens: int) -> None:
        """(Re)announce the page that follows the committed ones, if all its tokens are known."""
        self.withdraw(request)
        page = num_committed_tokens // self._page_size
        key = self._key(request.namespace, request.token_ids, page)
        if key is not None:
            self._by_key.setdefault(key, []).append(request)
            self._keys[request] = key

    def withdraw(self, request: Request) -> None:
        """Forget a request that has progressed or left. Does nothing if it is not announced."""
        key = self._keys.pop(request, None)
        if key is not None:
            requests = self._by_key[key]
            requests.remove(request)
            if not requests:
                del self._by_key[key]

    def find(self, request: Request, num_cached_tokens: int) -> Production | None:
        """Who will compute at least one whole page of those that ``request`` lacks; the best one.

        "Whole": none of the page's tokens is cached for ``request`` yet.
        """
        size = self._page_size
        tokens = request.token_ids
        key = self._key(request.namespace, tokens, num_cached_tokens // size)
        if key is None:
            return None
        first_whole_page = -(-num_cached_tokens // size)
        best: Production | None = None
        for producer in self._by_key.get(key, ()):
            num_shared = common_prefix(tokens, producer.token_ids)
            if producer.namespace != request.namespace:
                num_shared = min(num_shared, self._public.length(tokens))
            shared_pages = num_shared // size
            if shared_pages > first_whole_page and (
                best is None or shared_pages * size > best.num_shared_tokens
            ):
                best = Production(producer, shared_pages * size)
        return best

    def _key(self, namespace: Namespace, tokens: TokenArray, page: int) -> _Key | None:
        end = (page + 1) * self._page_size
        if len(tokens) < end:
            return None
        owner = None if self._public.covers(tokens[:end]) else namespace
        return owner, page, tokens[end - self._page_size : end].tobytes()
