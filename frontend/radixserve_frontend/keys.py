"""API keys as they are configured: whose they are, and who a presented key belongs to.

A file (TOML), a table a tenant:

    [tenants.acme]
    keys = ["sha256:..."]

    [tenants.ops]
    keys = ["a key in clear, if it must be", "another one, while clients move to it"]
    admin = true

or the environment, ``TENANT:KEY`` with commas or spaces between; ``TENANT+admin:KEY`` for an
administrator's. A key in either may be given as ``sha256:`` and the 64 hexadecimal digits of its
hash (``printf %s KEY | sha256sum``), so that what is written down is no secret.

Only hashes are kept. A presented key is hashed, and compared with *every* hash in constant time, so
that the time of an answer tells nothing of any key. Knows no HTTP and no files' times.
"""

import hashlib
import hmac
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from radixserve.errors import ConfigError
from radixserve_frontend.caller import Caller

MIN_KEY_CHARS: Final = 16
MAX_KEY_CHARS: Final = 512
MAX_TENANT_CHARS: Final = 128

_HASH_PREFIX: Final = "sha256:"
_HASH = re.compile(r"[0-9a-fA-F]{64}\Z")
_ADMIN_SUFFIX: Final = "+admin"
_FIELDS: Final = frozenset({"keys", "admin"})


@dataclass(frozen=True, slots=True)
class Key:
    """One key's hash and whose it is."""

    digest: bytes
    """SHA-256."""
    caller: Caller
    is_in_clear: bool
    """It was written down as it is."""


class KeyRing:
    """Every key there is. *Raises* ``ConfigError`` for none at all, or for one given twice."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = tuple(keys)
        if not self._keys:
            raise ConfigError("there is no key, so nobody could call the server; add one")
        owners: dict[bytes, str] = {}
        for key in self._keys:
            if key.digest in owners:
                raise ConfigError(
                    f"a key of tenant {key.caller.tenant!r} is given twice (also to "
                    f"{owners[key.digest]!r}); a key belongs to one tenant, once"
                )
            owners[key.digest] = key.caller.tenant

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def tenants(self) -> frozenset[str]:
        return frozenset(key.caller.tenant for key in self._keys)

    def caller_of(self, presented: bytes) -> Caller | None:
        """Whose key this is; None: nobody's. *Cost*: O(keys), whatever is presented."""
        digest = hashlib.sha256(presented).digest()
        found = None
        for key in self._keys:
            # No early end: how long this takes says nothing of which key it was.
            if hmac.compare_digest(key.digest, digest):
                found = key.caller
        return found


def keys_of_file(text: str) -> list[Key]:
    """The keys in a file's text. *Raises* ``ConfigError``, which quotes no key."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # The message tells where, and at most one character of what.
        raise ConfigError(f"it is not TOML: {error}") from None
    tenants = content.pop("tenants", None)
    if content or not isinstance(tenants, dict):
        raise ConfigError("expected tables named [tenants.NAME], and nothing else")
    return [key for name, table in tenants.items() for key in _keys_of_tenant(name, table)]


def keys_of_variable(text: str) -> list[Key]:
    """The keys in an environment variable's text. *Raises* ``ConfigError``, which quotes no key."""
    keys = []
    for number, entry in enumerate(text.replace(",", " ").split(), start=1):
        name, colon, key = entry.partition(":")
        if not colon:
            raise ConfigError(f"entry {number} has no colon; expected TENANT:KEY")
        is_admin = name.endswith(_ADMIN_SUFFIX)
        caller = _caller(name.removesuffix(_ADMIN_SUFFIX), is_admin=is_admin)
        keys.append(_key(key, caller))
    return keys


def _keys_of_tenant(name: str, table: Any) -> list[Key]:
    if not isinstance(table, dict):
        raise ConfigError(f"tenants.{name[:40]!r} is not a table; expected [tenants.NAME]")
    fields: Mapping[str, Any] = table
    unknown = fields.keys() - _FIELDS
    if unknown:
        raise ConfigError(f"tenant {name[:40]!r} has more fields than keys and admin: {unknown}")
    is_admin, keys = fields.get("admin", False), fields.get("keys")
    if not isinstance(is_admin, bool):
        raise ConfigError(f"tenant {name[:40]!r}: admin must be true or false")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or not keys:
        raise ConfigError(f'tenant {name[:40]!r}: keys must be a list of strings: keys = ["..."]')
    caller = _caller(name, is_admin=is_admin)
    return [_key(key, caller) for key in keys]


def _caller(tenant: str, *, is_admin: bool) -> Caller:
    # Names go into logs and metrics, and in front of a NUL into namespaces.
    if not (
        0 < len(tenant) <= MAX_TENANT_CHARS and tenant.isprintable() and tenant == tenant.strip()
    ):
        raise ConfigError(
            f"the tenant's name {tenant[:40]!r} will not do; expected 1 to {MAX_TENANT_CHARS} "
            "printable characters, without spaces around them"
        )
    return Caller(tenant=tenant, is_admin=is_admin)


def _key(text: str, caller: Caller) -> Key:
    if text.startswith(_HASH_PREFIX):
        digits = text.removeprefix(_HASH_PREFIX)
        if not _HASH.match(digits):
            raise ConfigError(
                f"a key of tenant {caller.tenant!r} begins with {_HASH_PREFIX!r}, but 64 "
                "hexadecimal digits do not follow"
            )
        return Key(bytes.fromhex(digits), caller, is_in_clear=False)
    # Headers can carry no others safely; and what is shorter can be guessed.
    is_plain = text.isascii() and text.isprintable() and " " not in text
    if not (is_plain and MIN_KEY_CHARS <= len(text) <= MAX_KEY_CHARS):
        raise ConfigError(
            f"a key of tenant {caller.tenant!r} has {len(text)} characters or odd ones; expected "
            f"{MIN_KEY_CHARS} to {MAX_KEY_CHARS} printable ASCII characters without spaces (make "
            "one with: openssl rand -hex 32)"
        )
    return Key(hashlib.sha256(text.encode("ascii")).digest(), caller, is_in_clear=True)
