"""Serving mode: its clock and its waits counted by hand, its traffic, its verdict on starvation."""

import json
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

import hit_rate
from hit_rate_parts.policies import policy_maker
from hit_rate_parts.prompts import Piece, Prompt
from hit_rate_parts.served import ServingResult, Spread, Waits, serving_table
from hit_rate_parts.simulation import Outcome, Server, Service, Simulation, StepTime
from hit_rate_parts.trace import Trace, TraceError, TraceRequest
from hit_rate_parts.traffic import (
    Call,
    TokenRun,
    Traffic,
    middle_rate,
    traffic_of_prompts,
    traffic_of_trace,
)
from hit_rate_parts.workloads import generate_prompts
from radixserve.cache.eviction import LRU, EvictionPolicy
from radixserve.scheduler.policy import MAX_OVERTAKES

STEP = StepTime(step_s=1.0, token_s=0.25, running_s=0.125)
UNPACED = Server(page_size=4, max_itl_stretch=None, step_time=STEP)
ONE_BY_ONE = Server(page_size=4, max_running=1, max_itl_stretch=None, step_time=STEP)


def call(time_s: float, prompt: str, num_reply: int = 1, after: int | None = None) -> Call:
    """A letter is a token; the reply is a token of its own."""
    reply = TokenRun(1000 + ord(prompt[-1]), num_reply)
    return Call(time_s, tuple(TokenRun(ord(letter), 1) for letter in prompt), reply, after)


def serve(
    *calls: Call, server: Server = UNPACED, num_pages: int = 100, saturated: bool = False
) -> Outcome:
    traffic = Traffic("letters", 4, calls)
    return Simulation(traffic, server, num_pages, policy_maker("lru"), saturated=saturated).run()


def services(outcome: Outcome) -> list[Service]:
    """What became of the calls, of which none was refused."""
    served = [one for one in outcome.services if one is not None]
    assert len(served) == len(outcome.services)
    return served


# The clock


def test_a_step_takes_what_its_tokens_and_requests_take() -> None:
    (alone,) = services(serve(call(5.0, "abcdef", 3)))
    prompt_step_s, token_step_s = 1.0 + 6 * 0.25 + 0.125, 1.0 + 0.25 + 0.125
    assert (alone.arrival_s, alone.admission_s) == (5.0, 5.0)
    assert alone.ttft_s == prompt_step_s
    assert alone.end_s == 5.0 + prompt_step_s + 2 * token_step_s
    first, second = services(serve(call(0.0, "abcdef", 3), call(0.0, "uvwx", 3)))
    assert first.ttft_s == second.ttft_s == 1.0 + 10 * 0.25 + 2 * 0.125


def test_who_comes_during_a_step_is_queued_at_its_end_and_has_waited() -> None:
    first, second = services(serve(call(0.0, "abcdef", 5), call(0.5, "uvwx", 1)))
    assert second.arrival_s == 0.5
    assert second.admission_s == first.first_token_s == 2.625
    assert second.wait_s == 2.125
    assert second.ttft_s == 2.125 + 1.0 + 5 * 0.25 + 2 * 0.125


def test_a_turn_waits_for_the_reply_that_it_repeats_and_finds_it() -> None:
    question = call(0.0, "abcdef", 4)
    follow_up = Call(
        1.0, (*question.prompt, question.reply, TokenRun(1, 5)), TokenRun(2, 1), after=0
    )
    asked, followed = services(serve(question, follow_up))
    assert followed.arrival_s == asked.end_s > 1.0
    # All of prompt and reply but the reply's last token, which was never run.
    assert followed.num_cached_tokens == 6 + 4 - 1
    late = Call(99.0, follow_up.prompt, follow_up.reply, after=0)
    assert services(serve(question, late))[1].arrival_s == 99.0


def test_policies_read_the_simulated_clock() -> None:
    clocks: list[Callable[[], float]] = []

    def make(clock: Callable[[], float], num_pages: int, page_size: int) -> EvictionPolicy:
        assert (num_pages, page_size) == (50, 4)
        clocks.append(clock)
        return LRU()

    simulation = Simulation(Traffic("", 4, (call(7.0, "abc"),)), UNPACED, 50, make)
    assert clocks[0]() == 0.0
    outcome = simulation.run()
    assert clocks[0]() == outcome.end_s == 7.0 + 1.0 + 3 * 0.25 + 0.125


# Waits


def test_waits_are_counted_in_admissions_of_others() -> None:
    warm = [call(0.5, "abcdef" + letter) for letter in "xyz"]
    first, cold, *others = services(
        serve(call(0.0, "abcdef"), call(0.5, "uvwx"), *warm, server=ONE_BY_ONE)
    )
    assert (first.position, first.num_overtakes) == (0, 0)
    assert (cold.position, cold.bound) == (0, MAX_OVERTAKES)
    # The three that find their prefix go first.
    assert cold.num_overtakes == 3
    assert cold.num_cached_tokens == 0
    assert [one.position for one in others] == [1, 2, 3]
    assert [one.num_overtakes for one in others] == [0, 1, 2]
    assert all(one.num_cached_tokens == 6 for one in others)


def test_a_cold_request_is_overtaken_as_often_as_the_scheduler_says_and_no_more() -> None:
    # Warm ones come faster than they can be served; letters of their own keep them apart.
    warm = [
        Call(0.1 * n, (*call(0, "abcdef").prompt, TokenRun(5000 + n, 2)), TokenRun(2, 1))
        for n in range(200)
    ]
    cold = call(0.65, "uvwxyz")
    calls = sorted([*warm, cold], key=lambda one: one.time_s)
    served = services(serve(*calls, server=ONE_BY_ONE))
    starved = served[calls.index(cold)]
    assert starved.num_cached_tokens == 0
    assert starved.num_overtakes == starved.bound > MAX_OVERTAKES
    assert Waits.of(served).num_beyond_bound == 0
    assert Waits.of([starved]).worst_overtakes == starved.bound


def waited(num_overtakes: int, position: int) -> Service:
    return Service(0.0, 1, position=position, num_overtakes=num_overtakes)


def test_the_bound_is_each_requests_own() -> None:
    early, late = waited(MAX_OVERTAKES + 1, 0), waited(MAX_OVERTAKES + 1, 5)
    waits = Waits.of([late] * 99 + [early])
    assert (waits.num_beyond_bound, waits.worst_overtakes) == (1, MAX_OVERTAKES + 1)
    assert waits.worst_bound == MAX_OVERTAKES
    assert waits.is_within_bound
    assert not Waits.of([late] * 98 + [early]).is_within_bound
    assert Waits.of([]).is_within_bound


def test_percentiles_are_values_that_occur() -> None:
    assert Spread.of([float(n) for n in range(200, 0, -1)]) == Spread(100.5, 100.0, 198.0, 200.0)
    assert Spread.of([3.0]) == Spread(3.0, 3.0, 3.0, 3.0)
    assert Spread.of([]) == Spread(0.0, 0.0, 0.0, 0.0)


# Memory


def test_what_fits_no_pool_is_refused_and_its_follower_goes_on() -> None:
    giant = call(0.0, "abcdefghij", 30)
    outcome = serve(giant, call(0.0, "abc", after=0), num_pages=9)
    assert outcome.services[0] is None
    assert outcome.services[1] is not None
    assert outcome.services[1].arrival_s == 0.0


def random_traffic(seed: int, num_calls: int = 40) -> Traffic:
    rng = random.Random(seed)
    stems = [TokenRun(n, rng.randint(5, 30)) for n in range(4)]
    calls = [
        Call(
            rng.uniform(0, 60),
            (rng.choice(stems), TokenRun(100 + n, rng.randint(1, 20))),
            TokenRun(500 + n, rng.randint(1, 30)),
        )
        for n in range(num_calls)
    ]
    return Traffic(f"random {seed}", 8, tuple(sorted(calls, key=lambda one: one.time_s)))


@pytest.mark.parametrize("policy", ["lru", "default"])
def test_without_room_requests_are_preempted_and_all_end_all_the_same(policy: str) -> None:
    traffic = random_traffic(1)
    server = Server(page_size=4, step_time=StepTime(0.1, 0.0, 0.0))
    outcome = Simulation(traffic, server, 24, policy_maker(policy)).run()
    assert outcome.stats.preemptions > 0
    assert outcome.stats.evicted_pages > 0
    assert all(one.end_s >= one.first_token_s > one.admission_s for one in services(outcome))
    assert outcome.stats.generated_tokens == sum(one.reply.num_tokens for one in traffic.calls)
    assert outcome == Simulation(traffic, server, 24, policy_maker(policy)).run()


def test_saturated_nobody_waits_for_the_time_that_the_traffic_states() -> None:
    calls = [call(1000.0 * n, f"abc{chr(300 + n)}") for n in range(6)]
    saturated = serve(*calls, server=ONE_BY_ONE, saturated=True)
    # One runs, one waits: the next comes when that one runs.
    assert [one.position for one in services(saturated)] == [0] * 6
    assert saturated.end_s < 20
    assert serve(*calls, server=ONE_BY_ONE).end_s > 5000


# Traffic


def test_a_rate_is_that_of_the_middle_half() -> None:
    times = [0.0, 100.0, 101.0, 102.0, 103.0, 104.0, 105.0, 900.0]
    assert middle_rate(times) == 4 / (105.0 - 101.0)
    traffic = Traffic("", 4, tuple(call(time, "ab") for time in times))
    faster = [one.time_s for one in traffic.at_rate(4.0).calls]
    assert faster == [time / 4 for time in times]
    for same in ([], [1.0], [2.0] * 50):
        with pytest.raises(TraceError, match="have no rate"):
            middle_rate(same)


def test_prompts_repeat_replies_and_come_after_them() -> None:
    system, question = Piece(("system",), 3), Piece(("question",), 2)
    reply, other = Piece(("reply",), 4), Piece(("other",), 5)
    prompts = [
        Prompt(0.0, (system, question), reply),
        Prompt(1.0, (system,), other),
        Prompt(2.0, (system, question, Piece(("reply",), 9), question), Piece(("end",), 1)),
        Prompt(3.0, (system, other, question, reply), Piece(("end",), 2)),
    ]
    first, second, third, fourth = traffic_of_prompts("four", prompts, 512).calls
    assert [one.after for one in (first, second, third, fourth)] == [None, None, 0, 1]
    said = [one.token_ids().tolist() for one in (first, second, third, fourth)]
    assert said[0] == [0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert said[1] == [0, 0, 0, 3, 3, 3, 3, 3]
    assert said[2] == [0, 0, 0, 1, 1, *[2] * 9, 1, 1, 4]
    assert (third.num_prompt_tokens, third.num_tokens) == (16, 17)


def test_every_later_turn_of_a_chat_waits_for_the_one_before() -> None:
    calls = traffic_of_prompts("chat", generate_prompts("chat", 2)[:1500], 512).calls
    assert all((one.after is None) == (len(one.prompt) == 2) for one in calls)
    for one in calls:
        if one.after is not None:
            before = calls[one.after]
            said = (*before.prompt, before.reply)
            assert one.prompt[: len(said)] == said


def test_a_trace_is_served_with_replies_that_nothing_repeats() -> None:
    requests = (TraceRequest(0.0, 6, (7, 9), 3), TraceRequest(1.0, 4, (7,), 0))
    traffic = traffic_of_trace(Trace("two", 4, requests))
    assert traffic.calls[0].token_ids().tolist() == [7, 7, 7, 7, 9, 9, 10, 10, 10]
    assert traffic.calls[1].token_ids().tolist() == [7, 7, 7, 7, 11]
    with pytest.raises(TraceError, match="request 2 has no output_length"):
        traffic_of_trace(Trace("three", 4, (requests[0], TraceRequest(1.0, 4, (7,)))))


# The figures, and the script


def test_the_figures_of_a_run() -> None:
    warm = [call(0.5, "abcdef" + letter) for letter in "xyz"]
    traffic = Traffic("five", 4, (call(0.0, "abcdef"), call(0.5, "uvwx"), *warm))
    outcome = Simulation(traffic, ONE_BY_ONE, 40, policy_maker("lru")).run()
    result = ServingResult.of(traffic, "lru", 40, 4, outcome, capacity_rate=None, run_s=0.5)
    assert result.num_prompt_tokens == 6 + 4 + 3 * 7
    assert result.num_cached_tokens == 3 * 6
    assert result.token_hit_rate == 18 / 31
    assert (result.no_hit_waits.num_requests, result.all_waits.num_requests) == (2, 5)
    assert result.no_hit_waits.overtakes.max == 3
    assert result.requests_per_s == 5 / result.simulated_s == 5 / outcome.end_s
    assert result.generated_tokens_per_s == 5 / outcome.end_s
    assert asdict(result)["no_hit_waits"]["num_beyond_bound"] == 0
    head, row, verdict = serving_table([result]).splitlines()
    assert head.split()[:4] == ["policy", "blocks", "hits", "%"]
    assert row.split()[:3] == ["lru", "40", "58.1"]
    assert verdict.endswith("closest 3 of 64, beyond 0: met")


def test_the_script_serves_a_workload_at_a_load(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "served.svg"
    arguments = ["--mode", "serving", "--workload", "few-shot+cold", "--load", "0.95", "--json"]
    arguments += ["--requests", "80", "--capacity-blocks", "40,400", "--max-running", "4"]
    assert hit_rate.main([*arguments, "--plot", str(path)]) == 0
    output = capsys.readouterr().out
    assert "few-shot+cold: 80 requests, pages of 16, up to 4 running" in output
    report = json.loads(output.splitlines()[-1])
    assert report["mode"] == "serving"
    rows = report["results"]
    assert [(row["policy"], row["capacity_blocks"]) for row in rows] == [
        ("lru", 40), ("default", 40), ("lru", 400), ("default", 400),
    ]  # fmt: skip
    for row in rows:
        assert row["num_requests"] == 80
        assert 0 < row["token_hit_rate"] < 1
        assert row["load"] == pytest.approx(0.95, abs=0.01)
        assert 5 < row["no_hit_waits"]["num_requests"] < 80
    assert rows[0]["evicted_pages"] > rows[2]["evicted_pages"]
    assert rows[0]["token_hit_rate"] < rows[2]["token_hit_rate"]
    assert "p99 TTFT, s" in path.read_text()


def test_the_script_serves_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = {"timestamp": 0, "input_length": 600, "output_length": 2, "hash_ids": [1, 2]}
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps(line) + "\n" + json.dumps({**line, "timestamp": 9000}) + "\n")
    arguments = ["--mode", "serving", "--trace", str(path), "--capacity-blocks", "4", "--json"]
    assert hit_rate.main(arguments) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    # The second finds all of the first but the token that must run.
    assert [row["num_cached_tokens"] for row in rows] == [599, 599]
    del line["output_length"]
    path.write_text(json.dumps(line) + "\n")
    assert hit_rate.main(arguments) == 1
    assert "has no output_length" in capsys.readouterr().err
