"""A pool that says it is exhausted when told to."""

from radixserve.cache.page_pool import PagePool
from radixserve.errors import OutOfPagesError
from radixserve.ids import PageArray


class FailingPool(PagePool):
    """Fails once, at the next allocation, when ``fails`` is set."""

    def __init__(self, num_pages: int) -> None:
        super().__init__(num_pages)
        self.fails = False

    def allocate(self, num_pages: int, after: int | None = None) -> PageArray:
        if self.fails:
            self.fails = False
            raise OutOfPagesError("injected")
        return super().allocate(num_pages, after)
