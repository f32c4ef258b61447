"""The store of answers: bounded in number, tokens and age, and nobody reads another's."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from radixserve_frontend.openai.responses.store import ResponseStore, StoredResponse

TTL_S = 10.0


def stored(num_tokens: int, num_bytes: int = 0) -> StoredResponse:
    return StoredResponse(
        response={},
        input_items=[],
        messages=[],
        num_tokens=num_tokens,
        num_bytes=num_bytes,
    )


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def make(
    max_responses: int = 4, max_tokens: int = 100, clock: Clock | None = None
) -> ResponseStore:
    return ResponseStore(
        max_responses=max_responses,
        max_tokens=max_tokens,
        ttl_s=TTL_S,
        clock=clock or Clock(),
    )


def test_a_tenant_reads_and_deletes_its_own_alone() -> None:
    store = make()
    own = stored(3)
    assert store.put("ann", "r", own)
    assert store.get("ann", "r") is own
    assert store.get("ben", "r") is None
    assert not store.delete("ben", "r")
    assert store.delete("ann", "r")
    assert not store.delete("ann", "r")
    assert store.get("ann", "r") is None
    assert store.num_tokens == 0


def test_two_tenants_may_use_one_id() -> None:
    store = make()
    ann, ben = stored(1), stored(2)
    store.put("ann", "r", ann)
    store.put("ben", "r", ben)
    assert store.get("ann", "r") is ann
    assert store.get("ben", "r") is ben


def test_what_is_too_old_is_gone_and_its_room_with_it() -> None:
    clock = Clock()
    store = make(clock=clock)
    store.put("ann", "r", stored(60))
    clock.now_s = TTL_S
    assert store.get("ann", "r") is not None
    clock.now_s = TTL_S + 0.1
    assert store.get("ann", "r") is None
    assert not store.delete("ann", "r")
    assert store.num_tokens == 0


def test_who_holds_most_makes_room() -> None:
    store = make()
    store.put("ann", "first", stored(10))
    for name in ("a", "b", "c"):
        store.put("ben", name, stored(30))
    store.put("ben", "d", stored(30))
    assert store.get("ann", "first") is not None
    assert store.get("ben", "a") is None
    store.put("cem", "e", stored(10))
    assert store.get("ben", "b") is None
    assert store.get("ben", "c") is not None


def test_text_weighs_too() -> None:
    store = make()
    assert not store.put("ann", "r", stored(1, num_bytes=400))
    assert store.put("ann", "r", stored(1, num_bytes=396))
    assert store.num_tokens == 100


def test_a_store_may_be_off() -> None:
    store = make(max_responses=0)
    assert not store.put("ann", "r", stored(1))
    assert store.get("ann", "r") is None


TENANTS = st.sampled_from(["ann", "ben", "cem"])


class StoreMachine(RuleBasedStateMachine):
    """Against plain lists of what each tenant was given, which say what may be found."""

    @initialize(max_responses=st.integers(1, 5), max_tokens=st.integers(5, 40))
    def start(self, max_responses: int, max_tokens: int) -> None:
        self.clock = Clock()
        self.store = make(max_responses, max_tokens, self.clock)
        self.given: dict[str, list[tuple[str, float, StoredResponse]]] = {}
        self.deleted: set[tuple[str, str]] = set()
        self.max_tokens = max_tokens
        self.serial = 0

    @rule(tenant=TENANTS, num_tokens=st.integers(0, 45), num_bytes=st.integers(0, 30))
    def put(self, tenant: str, num_tokens: int, num_bytes: int) -> None:
        self.serial += 1
        response = stored(num_tokens, num_bytes)
        name = f"r{self.serial}"
        fits = self.store.put(tenant, name, response)
        assert fits == (response.weight <= self.max_tokens)
        if fits:
            # The newest is never what makes room.
            assert self.store.get(tenant, name) is response
            self.given.setdefault(tenant, []).append((name, self.clock.now_s, response))

    @rule(tenant=TENANTS, seconds=st.integers(0, 12))
    def wait(self, tenant: str, seconds: int) -> None:
        self.clock.now_s += seconds

    @rule(tenant=TENANTS, pick=st.integers(0, 20))
    def delete(self, tenant: str, pick: int) -> None:
        given = self.given.get(tenant, [])
        if given:
            name = given[pick % len(given)][0]
            was_there = self.store.get(tenant, name) is not None
            assert self.store.delete(tenant, name) == was_there
            self.deleted.add((tenant, name))

    @invariant()
    def found_is_what_was_given_and_the_newest_of_it(self) -> None:
        self.store.check_invariants()
        for tenant, given in self.given.items():
            found = []
            for name, came_s, response in given:
                kept = self.store.get(tenant, name)
                assert kept is None or kept is response
                if (tenant, name) not in self.deleted:
                    found.append(kept is not None)
                if kept is not None:
                    assert self.clock.now_s - came_s <= TTL_S
                    assert (tenant, name) not in self.deleted
            assert found == sorted(found), "an older one outlived a newer one"


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=60, stateful_step_count=25)
