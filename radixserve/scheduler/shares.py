"""How much each tenant has been served: the counters by which admission is fair between tenants.

What counts is what a tenant makes the engine do: each prompt token that is computed counts 1 when
its request is first admitted, each generated token ``GENERATED_TOKEN_COST`` when it is there.

- Cached tokens count nothing, since they cost next to nothing: who builds on prefixes is not to be
  served less for it.
- A generated token costs more than a token of a prompt, which shares its reading of the weights
  with the rest of its chunk. Two is what the source reckons; prices in the field say 2 to 5.
- Prompts count at admission, before they are computed: else one tenant could be admitted many times
  over before anything of it showed.
- What a preemption makes the engine compute again is the engine's choice, and counts nothing.

A tenant that comes back is lifted to those who wait (``lift``). Counters therefore say who is
behind among tenants that wait together; having asked for little yesterday gives no claim today.

Knows no requests. Costs: O(1); ``forget`` O(tenants).
*Source*: "Fairness in Serving Large Language Models" (VTC), https://arxiv.org/abs/2401.00588
"""

from collections.abc import Container


class Shares:
    """A counter of served tokens per tenant. Counters only rise."""

    def __init__(self) -> None:
        self._served: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._served)

    def served(self, tenant: str) -> int:
        """The tenant's counter."""
        return self._served.get(tenant, 0)

    def charge(self, tenant: str, num_tokens: int) -> None:
        """The tenant has been served so much more. *Mutates* the counter."""
        self._served[tenant] = self._served.get(tenant, 0) + num_tokens

    def lift(self, tenant: str, floor: int) -> None:
        """Raise the tenant's counter to ``floor`` if it is below."""
        if self._served.get(tenant, 0) < floor:
            self._served[tenant] = floor

    def forget(self, floor: int, keep: Container[str]) -> None:
        """Drop counters that the next lift, to at least ``floor``, makes up for."""
        self._served = {
            tenant: served
            for tenant, served in self._served.items()
            if served > floor or tenant in keep
        }
