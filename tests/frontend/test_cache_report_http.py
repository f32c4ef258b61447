"""``cache_report`` in the answers of both endpoints, and the operator's three cache endpoints."""

from dataclasses import replace
from typing import Any

import httpx
import pytest

from radixserve.types import EngineStats, TierInfo
from radixserve_frontend.app import create_app
from tests.frontend.fake_engine import FakeEngine, fails, says
from tests.frontend.http_calls import CHAT, MESSAGES, PROMPT, chat, complete, error_of, events_of
from tests.frontend.http_fixtures import MODEL, calling, config_of
from tests.frontend.test_metrics_health import scrape

REPORT = {
    "prompt_tokens": 24,
    "sources": {"device": 10, "host": 0, "disk": 0, "in_flight": 6, "computed": 8},
    "matched_tokens": 16,
    "cause": "diverged",
    "evicted_seconds_ago": None,
    "text_around": {"before": PROMPT[4:16], "after": PROMPT[16:]},
}


async def get(engine: FakeEngine, path: str) -> httpx.Response:
    async with calling(create_app(engine, config_of())) as client:
        return await client.get(path)


async def post_json(engine: FakeEngine, path: str, body: Any) -> httpx.Response:
    async with calling(create_app(engine, config_of())) as client:
        return await client.post(path, json=body)


# -- in an answer ---------------------------------------------------------------------------------


async def test_a_chat_tells_how_its_prompt_fared_if_asked() -> None:
    assert (await chat(FakeEngine(), cache_report=True)).json()["cache_report"] == REPORT
    for off in ({}, {"cache_report": False}, {"cache_report": None}):
        assert "cache_report" not in (await chat(FakeEngine(), **off)).json()


async def test_the_report_comes_once_whatever_n_is() -> None:
    answer = (await chat(FakeEngine(), cache_report=True, n=3)).json()
    assert len(answer["choices"]) == 3
    assert answer["cache_report"] == REPORT


async def test_a_stream_tells_it_in_the_last_event() -> None:
    events = events_of(await chat(FakeEngine(), cache_report=True, stream=True))
    assert events[-1] == "[DONE]"
    assert events[-2]["choices"] == []
    assert events[-2]["object"] == "chat.completion.chunk"
    assert events[-2]["cache_report"] == REPORT
    assert "usage" not in events[-2]
    assert not any("cache_report" in event for event in events[:-2])


async def test_a_stream_with_usage_tells_both_in_one_event() -> None:
    events = events_of(
        await complete(
            FakeEngine(), cache_report=True, stream=True, stream_options={"include_usage": True}
        )
    )
    assert events[-2]["object"] == "text_completion"
    assert events[-2]["usage"]["prompt_tokens"] == 5
    assert events[-2]["cache_report"]["text_around"] == {"before": "Hell", "after": "o"}


async def test_several_prompts_make_a_list() -> None:
    answer = (await complete(FakeEngine(), prompt=["Hello", "Bye"], cache_report=True)).json()
    assert [report["prompt_tokens"] for report in answer["cache_report"]] == [5, 3]
    assert [report["text_around"]["after"] for report in answer["cache_report"]] == ["o", "e"]


async def test_half_a_character_is_shown_as_such() -> None:
    answer = (await complete(FakeEngine(), prompt="ab\N{EURO SIGN}", cache_report=True)).json()
    assert answer["cache_report"]["text_around"] == {"before": "ab\ufffd", "after": "\ufffd"}


async def test_who_was_never_admitted_has_no_report() -> None:
    assert (await chat(FakeEngine(says("Hi")), cache_report=True)).json()["cache_report"] is None


async def test_a_stream_that_fails_ends_without_a_report() -> None:
    events = events_of(await chat(FakeEngine(fails("Hi", "no")), cache_report=True, stream=True))
    assert "error" in events[-1]
    assert not any("cache_report" in event for event in events)


@pytest.mark.parametrize("value", ["yes", 1, {}])
async def test_a_report_is_wanted_or_not(value: Any) -> None:
    error = error_of(await chat(FakeEngine(), cache_report=value), 400)
    assert error["param"] == "cache_report"


# -- the operator's endpoints ---------------------------------------------------------------------


async def test_stats() -> None:
    response = await get(FakeEngine(), "/cache/stats")
    assert response.status_code == 200
    assert response.json() == {
        "pages": {"free": 1000, "cached": 20, "in_use": 4, "total": 1024, "size_tokens": 16},
        "prompt_tokens": 100,
        "sources": {"device": 20, "host": 0, "disk": 0, "in_flight": 5, "computed": 75},
        "hit_rate": 0.25,
        "admissions": {
            "complete": 1,
            "never_seen": 0,
            "diverged": 0,
            "evicted": 2,
            "whole_pages": 0,
            "cache_off": 0,
            "scored": 0,
        },
        "evicted_pages": 3,
        "tiers": None,
        "namespaces": 2,
        "nodes": 7,
        "eviction_policy": "LRU",
    }


async def test_metrics_by_source_and_cause() -> None:
    samples = await scrape(create_app(FakeEngine(), config_of()))
    by_source = "radixserve_prompt_tokens_by_source_total{source=%s}"
    assert samples[by_source % "device"] == 20
    assert samples[by_source % "in_flight"] == 5
    assert samples[by_source % "computed"] == 75
    assert samples[by_source % "host"] == samples[by_source % "disk"] == 0
    assert not any("disk_" in name or "host_pages" in name for name in samples)
    assert samples["radixserve_admissions_total{cause=evicted}"] == 2
    assert samples["radixserve_admissions_total{cause=never_seen}"] == 0


TIERS = TierInfo(
    host_free_pages=1,
    host_cached_pages=2,
    host_in_use_pages=3,
    host_total_pages=6,
    disk_pages=7,
    disk_bytes=800,
    disk_limit_bytes=9000,
    host_loaded_pages=10,
    disk_loaded_pages=11,
    disk_stored_pages=12,
    rejected_files=13,
    lost_pages=14,
)


class TieredEngine(FakeEngine):
    """One with tiers, out of which prompts were served."""

    @property
    def stats(self) -> EngineStats:
        return replace(super().stats, host_tokens=8, disk_tokens=4, prefilled_tokens=9, tiers=TIERS)


async def test_stats_and_metrics_of_tiers() -> None:
    told = (await get(TieredEngine(), "/cache/stats")).json()
    by_source = {"device": 8, "host": 8, "disk": 4, "in_flight": 5, "computed": 75}
    assert told["sources"] == by_source
    assert told["tiers"] == {
        "host_pages": {"free": 1, "cached": 2, "in_use": 3, "total": 6},
        "disk": {"pages": 7, "bytes": 800, "limit_bytes": 9000},
        "loaded_pages": {"host": 10, "disk": 11},
        "stored_files": 12,
        "rejected_files": 13,
        "lost_pages": 14,
    }
    samples = await scrape(create_app(TieredEngine(), config_of()))
    for source, num_tokens in by_source.items():
        name = f"radixserve_prompt_tokens_by_source_total{{source={source}}}"
        assert samples[name] == num_tokens
    for name, value in (
        ("host_pages{state=free}", 1),
        ("host_pages{state=cached}", 2),
        ("host_pages{state=in_use}", 3),
        ("disk_pages", 7),
        ("disk_bytes", 800),
        ("disk_limit_bytes", 9000),
        ("loaded_pages_total{source=host}", 10),
        ("loaded_pages_total{source=disk}", 11),
        ("disk_stored_pages_total", 12),
        ("rejected_files_total", 13),
        ("lost_pages_total", 14),
        ("prefilled_tokens_total", 9),
    ):
        assert samples[f"radixserve_{name}"] == value, name


async def test_explain_a_conversation() -> None:
    engine = FakeEngine()
    body = {"model": MODEL, "messages": MESSAGES, "cache_salt": "tenant"}
    response = await post_json(engine, "/cache/explain", body)
    assert response.json() == {
        "prompt_tokens": 24,
        "matched_tokens": 20,
        "cause": "evicted",
        "evicted_seconds_ago": 1,
        "text_around": {"before": PROMPT[8:20], "after": PROMPT[20:]},
        "loadable": {"host": 2, "disk": 1},
        "in_other_namespaces": True,
    }
    assert engine.asked == [(list(PROMPT.encode()), "tenant")]
    assert engine.submitted == []


@pytest.mark.parametrize("prompt", ["Hello", list(b"Hello")])
async def test_explain_a_prompt(prompt: Any) -> None:
    engine = FakeEngine()
    response = await post_json(engine, "/cache/explain", {"model": MODEL, "prompt": prompt})
    assert response.json()["prompt_tokens"] == 5
    assert engine.asked == [(list(b"Hello"), "")]


@pytest.mark.parametrize(
    ("changes", "status", "param"),
    [
        ({"prompt": "a", "messages": MESSAGES}, 400, "prompt"),
        ({}, 400, "messages"),
        ({"prompt": ["a", "b"]}, 400, "prompt"),
        ({"prompt": []}, 400, "prompt"),
        ({"prompt": [[1], [2]]}, 400, "prompt"),
        ({"prompt": "a", "temperature": 0}, 400, "temperature"),
        ({"prompt": "a" * 5000}, 400, "prompt"),
        ({"messages": [{"role": "user", "content": "a" * 5000}]}, 400, "messages"),
        ({"prompt": "a", "cache_salt": "s" * 513}, 400, "cache_salt"),
        ({"prompt": "a", "model": "another"}, 404, "model"),
    ],
)
async def test_what_cannot_be_explained(
    changes: dict[str, Any], status: int, param: str | None
) -> None:
    response = await post_json(FakeEngine(), "/cache/explain", {"model": MODEL, **changes})
    assert error_of(response, status)["param"] == param


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, None),
        ({"cache_salt": None}, None),
        ({"cache_salt": ""}, ""),
        ({"cache_salt": "s"}, "s"),
    ],
)
async def test_clear(body: Any, expected: str | None) -> None:
    engine = FakeEngine()
    response = await post_json(engine, "/cache/clear", body)
    assert (response.status_code, response.json()) == (200, {"freed_pages": 20})
    assert engine.cleared == [expected]


async def test_clear_takes_nothing_that_a_foreign_web_page_can_send() -> None:
    engine = FakeEngine()
    async with calling(create_app(engine, config_of())) as client:
        error_of(await client.post("/cache/clear"), 415)
        error_of(await client.post("/cache/clear", content=b"{}"), 415)
        headers = {"content-type": "text/plain"}
        error_of(await client.post("/cache/clear", content=b"{}", headers=headers), 415)
        error_of(await client.post("/cache/clear", json={"all": True}), 400)
    assert engine.cleared == []


async def test_a_dead_engine_answers_503() -> None:
    engine = FakeEngine()
    engine.is_alive = False
    async with calling(create_app(engine, config_of())) as client:
        error_of(await client.get("/cache/stats"), 503)
        error_of(await client.post("/cache/clear", json={}), 503)
        body = {"model": MODEL, "prompt": "a"}
        error_of(await client.post("/cache/explain", json=body), 503)


async def test_the_index_names_them() -> None:
    endpoints = (await get(FakeEngine(), "/")).json()["endpoints"]
    assert endpoints["cache_stats"] == "GET /cache/stats"
    assert endpoints["cache_explain"] == "POST /cache/explain"
    assert endpoints["cache_clear"] == "POST /cache/clear"


async def test_chat_still_refuses_unknown_fields() -> None:
    response = await post_json(
        FakeEngine(), CHAT, {"model": MODEL, "messages": MESSAGES, "cache_reports": True}
    )
    assert error_of(response, 400)["param"] == "cache_reports"
