"""``GET /cache/tree``: frames, refusals, whose it is, the text of nodes, and an end that nothing
waits for."""

import asyncio

import pytest

from radixserve.engine.interface import (
    NodeTokens,
    TreeFigures,
    TreeLost,
    TreeNodes,
    TreeWhole,
    ViewedNode,
)
from radixserve.ids import Namespace
from radixserve_frontend import cache_tree
from radixserve_frontend.caller import ANYBODY, Caller
from tests.frontend.fake_engine import FakeEngine, FakeTreeWatch
from tests.frontend.http_calls import error_of
from tests.frontend.http_fixtures import MODEL, TIMEOUT_S, config_of, serving
from tests.frontend.numbered_events import events_of

PATH = "/cache/tree"
KEYS = {
    "a": "key-of-tenant-a-0123456789",
    "b": "key-of-tenant-b-0123456789",
    "operator+admin": "key-of-the-operator-0123456789",
}


async def opened(engine: FakeEngine, count: int = 1) -> FakeTreeWatch:
    async with asyncio.timeout(TIMEOUT_S):
        while len(engine.tree_watches) < count:
            await asyncio.sleep(0)
    return engine.tree_watches[-1]


async def closed(watch: FakeTreeWatch) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not watch.is_closed:
            await asyncio.sleep(0)


async def test_every_kind_of_event_as_a_page_reads_it() -> None:
    engine = FakeEngine()
    async with (
        serving(engine) as server,
        server.client() as client,
        client.stream("GET", PATH) as response,
    ):
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        watch = await opened(engine)
        # Where there are no keys, everybody sees all.
        assert watch.viewer.sees_all
        node = ViewedNode(id=1, parent=0, start=0, tokens=40, pages=3, locks=0, age_s=2.5, owner=1)
        for event in (
            TreeNodes(0.123, [node, node._replace(id=2, locks=None, age_s=None)], []),
            TreeWhole(),
            TreeFigures(engine.stats),
            TreeNodes(1.0, [], [2, 1]),
            TreeLost(),
            None,
        ):
            watch.events.put_nowait(event)
        events = [event async for event in events_of(response)]
        stream = events[0][2].pop("stream")
        assert len(stream) >= 16
        assert events == [
            (
                0,
                "hello",
                {"model": MODEL, "page_size": 16, "total_pages": 1024, "tenant": False},
            ),
            (
                1,
                "nodes",
                {
                    "at": 0.1,
                    "gone": [],
                    "nodes": [[1, 0, 0, 40, 3, 0, 2.5, 1], [2, 0, 0, 40, 3, None, None, 1]],
                },
            ),
            (2, "whole", {}),
            (
                3,
                "figures",
                {
                    "free": 1000,
                    "cached": 20,
                    "in_use": 4,
                    "total": 1024,
                    "running": 0,
                    "waiting": 0,
                    "steps": 7,
                    "computed_tokens": 0,
                    "generated_tokens": 50,
                    "prompt_tokens": 100,
                    "cached_tokens": 25,
                    "evicted_pages": 3,
                    "preemptions": 0,
                },
            ),
            (4, "nodes", {"at": 1.0, "gone": [2, 1], "nodes": []}),
            (5, "lost", {}),
        ]
        await closed(watch)


async def test_the_text_of_a_node_is_asked_for_by_its_stream() -> None:
    engine = FakeEngine()
    async with serving(engine) as server, server.client() as client:
        async with client.stream("GET", PATH) as response:
            # Dropped, it would close the stream.
            events = events_of(response)
            _, _, hello = await anext(events)
            params = {"stream": hello["stream"]}
            watch = await opened(engine)
            # Cut inside the last character.
            first, before = "<b>ü€".encode()[:-1], list(b"so: ")
            watch.tokens[7] = NodeTokens(
                start=10, end=10 + len(first), before=before, first=[*first], last=[]
            )
            answer = (await client.get(f"{PATH}/7", params=params)).raise_for_status()
            assert answer.json() == {
                "id": 7,
                "start": 10,
                "tokens": len(first),
                "before": "so: ",
                "text": "<b>ü\ufffd",
                "end_text": "",
                "truncated": 0,
            }
            assert watch.asked == [(40, 2000, 200)]
            watch.tokens[8] = NodeTokens(
                start=0, end=5000, before=[], first=[97] * 2000, last=[98] * 200
            )
            answer = await client.get(f"{PATH}/8", params=params)
            assert answer.json()["truncated"] == 2800
            assert answer.json()["end_text"] == "b" * 200
            # What ends behind the first part and overlaps nothing.
            watch.tokens[9] = NodeTokens(start=0, end=3, before=[], first=[97, 98], last=[99])
            assert (await client.get(f"{PATH}/9", params=params)).json()["text"] == "abc"
            for name in ("10", "x", "-1", "٧", "9" * 5000):
                missing = await client.get(f"{PATH}/{name}", params=params)
                assert error_of(missing, 404)["code"] == "node_not_found"
            for wrong in ({}, {"stream": "x"}):
                missing = await client.get(f"{PATH}/7", params=wrong)
                assert error_of(missing, 404)["code"] == "stream_not_found"
        await closed(watch)
        missing = await client.get(f"{PATH}/7", params=params)
        assert error_of(missing, 404)["code"] == "stream_not_found"


async def test_who_leaves_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_tree, "MAX_WATCHERS", 1)
    engine = FakeEngine()
    async with serving(engine) as server, server.client() as client:
        async with client.stream("GET", PATH):
            assert error_of(await client.get(PATH), 429)["code"] == "too_many_watchers"
            assert len(engine.tree_watches) == 1
        await closed(engine.tree_watches[0])
        async with client.stream("GET", PATH) as response:
            assert response.status_code == 200


async def test_a_shutdown_ends_it() -> None:
    engine = FakeEngine()
    engine.gate.hold(1)
    async with (
        serving(engine) as server,
        server.client() as client,
        client.stream("GET", PATH) as response,
    ):
        await opened(engine)
        server.server.request_stop("test")
        assert [name async for _, name, _ in events_of(response)] == ["hello"]
        async with asyncio.timeout(TIMEOUT_S):
            await server.stopped()


async def test_a_dead_engine_is_not_watched() -> None:
    engine = FakeEngine()
    async with serving(engine) as server, server.client() as client:
        await engine.die()
        assert error_of(await client.get(PATH), 503)["code"] == "engine_dead"
    assert engine.tree_watches == []


async def test_with_keys_each_tenant_has_a_tree_and_streams_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cache_tree, "MAX_TENANT_WATCHERS", 1)
    # All tenants together leave some room to administrators.
    monkeypatch.setattr(cache_tree, "MAX_WATCHERS", 1 + cache_tree.NUM_KEPT)
    engine = FakeEngine()
    config = config_of(api_keys=",".join(f"{name}:{key}" for name, key in KEYS.items()))
    headers = {
        name.removesuffix("+admin"): {"Authorization": f"Bearer {key}"}
        for name, key in KEYS.items()
    }
    async with serving(engine, config) as server, server.client() as client:
        assert (await client.get(PATH)).status_code == 401
        async with client.stream("GET", PATH, headers=headers["a"]) as response:
            # Dropped, it would close the stream.
            events = events_of(response)
            _, _, hello = await anext(events)
            assert (hello["tenant"], hello["total_pages"]) == (True, None)
            viewer = (await opened(engine)).viewer
            assert not viewer.sees_all
            assert viewer.owns(Caller(tenant="a").namespace("salt"))
            assert not viewer.owns(Caller(tenant="b").namespace("a"))
            assert not viewer.owns(Namespace("a"))
            engine.tree_watches[0].tokens[1] = NodeTokens(
                start=0, end=1, before=[], first=[97], last=[]
            )
            params = {"stream": hello["stream"]}
            own = await client.get(f"{PATH}/1", params=params, headers=headers["a"])
            assert own.json()["text"] == "a"
            for name in ("b", "operator"):
                found = await client.get(f"{PATH}/1", params=params, headers=headers[name])
                assert error_of(found, 404)["code"] == "stream_not_found"
            refused = await client.get(PATH, headers=headers["a"])
            assert error_of(refused, 429)["code"] == "too_many_watchers"
            refused = await client.get(PATH, headers=headers["b"])
            assert error_of(refused, 429)["code"] == "too_many_watchers"
            assert int(refused.headers["Retry-After"]) > 0
            async with client.stream("GET", PATH, headers=headers["operator"]) as other:
                events_of_other = events_of(other)
                _, _, hello = await anext(events_of_other)
                assert (hello["tenant"], hello["total_pages"]) == (False, 1024)
                assert (await opened(engine, 2)).viewer.sees_all


def test_without_keys_what_has_no_salt_is_ones_own() -> None:
    assert ANYBODY.owns(Namespace(""))
    assert not ANYBODY.owns(Namespace("salt"))
    assert not Caller(tenant="a").owns(Namespace(""))
    assert not Caller(tenant="a").owns(Namespace("ab\0"))
