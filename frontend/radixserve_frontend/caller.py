"""Who sends a request, as far as the server knows. Data only; ``auth`` finds it out.

The tenant is on whose account requests run. What one tenant has cached no other one finds: the
cache's namespace derives from the tenant and from the request's own salt.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from starlette.types import Scope

from radixserve.ids import DEFAULT_NAMESPACE, Namespace

_SCOPE_KEY = "radixserve.caller"
_LOOK_UP_KEY = "radixserve.caller.look_up"
_LOOKED_UP_KEY = "radixserve.caller.looked_up_s"
CHECK_EVERY_S: Final = 1.0
_SEPARATOR = "\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """One sender of requests."""

    tenant: str = ""
    """Empty: there are no keys, hence one tenant."""
    is_admin: bool = False

    def namespace(self, salt: str = "") -> Namespace:
        """The radix tree's root for requests with this salt. Injective: no two tenants share one,
        whatever salts they choose."""
        # A tenant's name holds no separator (``auth`` sees to it), a salt may.
        return Namespace(f"{self.tenant}{_SEPARATOR}{salt}" if self.tenant else salt)

    def owns(self, namespace: Namespace) -> bool:
        """Whether it is this tenant's, under whatever salt. Where there are no keys there are no
        tenants: then it is what comes without a salt."""
        if self.tenant:
            return namespace.startswith(f"{self.tenant}{_SEPARATOR}")
        return namespace == DEFAULT_NAMESPACE


ANYBODY = Caller(is_admin=True)
"""Where there are no keys, everybody may do everything."""


def attach_caller(
    scope: Scope, caller: Caller, look_up: Callable[[], Caller | None] | None = None
) -> None:
    """Let the caller travel with the request. ``look_up`` finds out who would send it now, by the
    keys there are by then. *Mutates* ``scope``."""
    scope[_SCOPE_KEY] = caller
    scope[_LOOK_UP_KEY] = look_up
    scope[_LOOKED_UP_KEY] = time.monotonic()


def caller_of(scope: Scope) -> Caller:
    """Who ``attach_caller`` put there; else anybody."""
    caller = scope.get(_SCOPE_KEY, ANYBODY)
    assert isinstance(caller, Caller)
    return caller


def is_still_known(scope: Scope) -> bool:
    """Whether the request would still come from the same caller. What has no end asks each time it
    has something to tell: its key may have been removed. *Cost*: a key is looked up once in
    ``CHECK_EVERY_S``. *Mutates* ``scope``."""
    look_up = scope.get(_LOOK_UP_KEY)
    now_s = time.monotonic()
    if look_up is None or now_s - scope[_LOOKED_UP_KEY] < CHECK_EVERY_S:
        return True
    scope[_LOOKED_UP_KEY] = now_s
    return bool(look_up() == caller_of(scope))
