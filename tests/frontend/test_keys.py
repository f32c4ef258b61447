"""API keys: what may be written down, whose a key is, and files that change in service."""

import hashlib
import hmac
import logging
import os
from pathlib import Path

import pytest

from radixserve.errors import ConfigError
from radixserve_frontend import keys as keys_module
from radixserve_frontend.caller import Caller
from radixserve_frontend.key_store import KeyStore, open_key_store
from radixserve_frontend.keys import Key, KeyRing, keys_of_file, keys_of_variable
from tests.frontend.http_fixtures import config_of

ACME, ACME_NEXT, OPS = "acme-key-0123456789", "acme-next-0123456789", "ops-key-0123456789abc"
ACME_CALLER = Caller(tenant="acme")


def digest_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


FILE = f"""
[tenants.acme]
keys = ["sha256:{digest_of(ACME)}", "{ACME_NEXT}"]

[tenants."Ops & co"]
keys = ["sha256:{digest_of(OPS).upper()}"]
admin = true
"""


def test_keys_of_a_file() -> None:
    ring = KeyRing(keys_of_file(FILE))
    assert ring.caller_of(ACME.encode()) == ACME_CALLER
    assert ring.caller_of(ACME_NEXT.encode()) == ACME_CALLER
    assert ring.caller_of(OPS.encode()) == Caller(tenant="Ops & co", is_admin=True)
    assert ring.caller_of(digest_of(ACME).encode()) is None
    assert ring.caller_of(b"") is None
    assert ring.caller_of(b"\xff\x00") is None
    assert ring.tenants == {"acme", "Ops & co"}
    assert len(ring) == 3


def test_keys_of_the_environment() -> None:
    ring = KeyRing(
        keys_of_variable(f" acme:{ACME},acme:sha256:{digest_of(ACME_NEXT)}\nops+admin:{OPS}, ")
    )
    assert ring.caller_of(ACME.encode()) == ACME_CALLER
    assert ring.caller_of(ACME_NEXT.encode()) == ACME_CALLER
    assert ring.caller_of(OPS.encode()) == Caller(tenant="ops", is_admin=True)


def test_every_hash_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def noting(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    class Noting:
        compare_digest = staticmethod(noting)

    monkeypatch.setattr(keys_module, "hmac", Noting)
    digests = [bytes([number]) * 32 for number in range(3)]
    digests[1] = hashlib.sha256(ACME.encode()).digest()
    ring = KeyRing(Key(digest, ACME_CALLER, is_in_clear=False) for digest in digests)
    for presented in (ACME.encode(), b"nobody's"):
        compared.clear()
        ring.caller_of(presented)
        assert compared == [(digest, hashlib.sha256(presented).digest()) for digest in digests]


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("", "expected tables named"),
        ("tenants = 1", "expected tables named"),
        ("[tenants]\nacme = 1", "is not a table"),
        ("[tenants.a]\nkeys = []", "keys must be a list"),
        ("[tenants.a]", "keys must be a list"),
        ("[tenants.a]\nkeys = [1]", "keys must be a list"),
        (f'[tenants.a]\nkeys = ["{ACME}"]\nadmin = 1', "admin must be true or false"),
        (f'[tenants.a]\nkeys = ["{ACME}"]\nrate = 1', "more fields than keys and admin"),
        (f'[tenants.a]\nkeys = ["{ACME}"]\n[other]', "expected tables named"),
        ('[tenants.a]\nkeys = ["short"]', "has 5 characters or odd ones"),
        ('[tenants.a]\nkeys = ["with a space in the middle"]', "or odd ones"),
        ('[tenants.a]\nkeys = ["sha256:12"]', "64 hexadecimal digits do not follow"),
        (f'[tenants."a\\u0000b"]\nkeys = ["{ACME}"]', "name 'a\\x00b' will not do"),
        (f'[tenants.""]\nkeys = ["{ACME}"]', "name '' will not do"),
        (f'[tenants." a"]\nkeys = ["{ACME}"]', "name ' a' will not do"),
        (f'[tenants.{"a" * 129}]\nkeys = ["{ACME}"]', "will not do"),
        (f'[tenants.a]\nkeys = ["{ACME}", "{ACME}"]', "given twice"),
        (f'[tenants.a]\nkeys = ["{ACME}"]\n[tenants.b]\nkeys = ["{ACME}"]', "also to 'a'"),
        ("[tenants.a\n", "it is not TOML"),
    ],
)
def test_what_a_file_may_not_say(text: str, fragment: str) -> None:
    with pytest.raises(ConfigError) as raised:
        KeyRing(keys_of_file(text))
    assert fragment in str(raised.value)
    assert ACME not in str(raised.value)


@pytest.mark.parametrize("text", [ACME, f":{ACME}", f"+admin:{ACME}", "acme:", "a:short"])
def test_what_the_environment_may_not_say(text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        KeyStore(None, text)
    assert "RADIXSERVE_API_KEYS: " in str(raised.value)
    assert ACME not in str(raised.value)


def test_without_keys_there_is_no_store_and_without_any_key_no_server() -> None:
    assert open_key_store(config_of()) is None
    with pytest.raises(ConfigError, match="RADIXSERVE_API_KEYS: there is no key"):
        open_key_store(config_of(api_keys=" , "))
    with pytest.raises(ConfigError, match="api_keys is empty"):
        config_of(api_keys="")
    with pytest.raises(ConfigError, match="public_metrics is set, but there are no API keys"):
        config_of(public_metrics=True)


def test_secrets_are_in_no_representation() -> None:
    config = config_of(api_keys=f"acme:{ACME}")
    assert ACME not in repr(config)
    store = open_key_store(config)
    assert store is not None
    assert store.caller_of(ACME.encode()) == ACME_CALLER


class Clock:
    """Time as a test says."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Stored:
    """A store over a file that the test changes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = Clock()
        self.write(f'[tenants.acme]\nkeys = ["{ACME}"]')
        self.store = KeyStore(path, f"ops+admin:{OPS}", clock=self.clock)

    def write(self, text: str) -> None:
        """In one go, as the documents say."""
        other = self.path.with_suffix(".new")
        other.write_text(text)
        other.chmod(0o600)
        os.replace(other, self.path)

    def knows(self, key: str, *, after_s: float = 1.0) -> bool:
        self.clock.now_s += after_s
        return self.store.caller_of(key.encode()) is not None


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path / "keys.toml")


def test_a_changed_file_is_read_within_a_second(stored: Stored) -> None:
    assert stored.knows(ACME)
    stored.write(f'[tenants.acme]\nkeys = ["{ACME_NEXT}"]')
    assert not stored.knows(ACME_NEXT, after_s=0.9)
    assert stored.knows(ACME, after_s=0.0)
    assert stored.knows(ACME_NEXT, after_s=0.1)
    assert not stored.knows(ACME)
    # What came from the environment stays.
    assert stored.knows(OPS)
    assert stored.store.tenants == {"acme", "ops"}


def test_reload_looks_at_once(stored: Stored) -> None:
    stored.write(f'[tenants.acme]\nkeys = ["{ACME_NEXT}"]')
    stored.store.reload()
    assert stored.knows(ACME_NEXT, after_s=0.0)


def test_an_unchanged_file_is_not_read_again(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: pytest.fail("it was read"))
    assert stored.knows(ACME, after_s=5.0)


@pytest.mark.parametrize("text", ["[tenants.acme", f'[tenants.a]\nkeys = ["{OPS}"]', ""])
def test_a_broken_file_changes_nothing_and_says_so_once(
    stored: Stored, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    stored.write(text)
    assert stored.knows(ACME)
    assert stored.knows(OPS)
    (message,) = caplog.messages
    assert "the keys before stay valid" in message
    stored.write(f'[tenants.acme]\nkeys = ["{ACME_NEXT}"]')
    assert stored.knows(ACME_NEXT)


def test_a_missing_file_changes_nothing_and_says_so_once(
    stored: Stored, caplog: pytest.LogCaptureFixture
) -> None:
    stored.path.unlink()
    assert stored.knows(ACME)
    assert stored.knows(ACME)
    assert ["cannot be read" in message for message in caplog.messages] == [True]
    stored.write(f'[tenants.acme]\nkeys = ["{ACME_NEXT}"]')
    assert stored.knows(ACME_NEXT)
    stored.path.unlink()
    assert stored.knows(ACME_NEXT)
    assert len([message for message in caplog.messages if "cannot be read" in message]) == 2


def test_at_the_start_a_file_must_be_right(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        KeyStore(path, None)
    with pytest.raises(ConfigError, match="is no name of a file"):
        KeyStore(Path("a\0b"), None)
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="it is not UTF-8: byte 0"):
        KeyStore(path, None)
    path.write_text("[tenants.a]")
    with pytest.raises(ConfigError, match=r"api_keys_file .*keys must be a list"):
        KeyStore(path, None)
    with path.open("wb") as file:
        file.truncate(17 * 2**20)
    with pytest.raises(ConfigError, match="at most"):
        KeyStore(path, None)


def test_keys_that_everybody_may_read_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    path = tmp_path / "keys.toml"
    path.write_text(f'[tenants.a]\nkeys = ["sha256:{digest_of(ACME)}"]')
    path.chmod(0o644)
    KeyStore(path, None)
    assert not caplog.messages
    path.write_text(f'[tenants.a]\nkeys = ["{ACME}"]')
    KeyStore(path, None)
    assert "keys in clear" in caplog.text
    assert ACME not in caplog.text
