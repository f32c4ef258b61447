"""The scheduler's promises, one by one, on a simulated runner that checks every page it reads."""

import pytest

from radixserve.ids import RequestId
from radixserve.scheduler.plan import StepPlan, StepResult
from tests.support.simulation import Simulation, oracle

STOP = frozenset({0})


def names(plan: StepPlan) -> list[str]:
    return [str(row.request.request_id) for row in plan.rows]


def counts(plan: StepPlan) -> dict[str, int]:
    return {str(row.request.request_id): row.num_scheduled_tokens for row in plan.rows}


def test_one_request_gets_its_answer(depth: int) -> None:
    sim = Simulation(max_in_flight=depth)
    sim.add("a", [1, 2, 3, 4, 5], max_tokens=6)
    sim.run()
    assert sim.answers["a", 0] == oracle([1, 2, 3, 4, 5], 6, stop=STOP)
    assert sim.ends["a", 0].finish_reason == "length"
    sim.assert_no_leaks()


def test_stop_token_ends_the_answer_and_is_its_last_token(depth: int) -> None:
    whole = oracle([1, 2, 3], 8, stop=STOP)
    sim = Simulation(max_in_flight=depth)
    sim.add("a", [1, 2, 3], max_tokens=8, stop_token_ids=(whole[3],))
    sim.run()
    end = whole.index(whole[3]) + 1
    assert sim.answers["a", 0] == whole[:end]
    assert sim.ends["a", 0].finish_reason == "stop"
    assert sim.ends["a", 0].stop_token_id == whole[3]


def test_one_token_rows_take_budget_before_chunks(depth: int) -> None:
    sim = Simulation(max_in_flight=depth, max_batch_tokens=8, max_running=4)
    sim.add("long", list(range(1, 40)), max_tokens=2)
    assert counts(sim.step()) == {"long": 8}
    sim.add("short", [7, 8], max_tokens=30)
    while ("short", 0) not in sim.answers:
        sim.step()
    sim.add("longer", list(range(40, 49)) * 4, max_tokens=2)
    while ("longer", 0) not in sim.ends:
        plan = sim.step()
        # Every step carries the stream's token, and nothing longer comes before it.
        sizes = [row.num_scheduled_tokens for row in plan.rows]
        assert sizes[: names(plan).index("short") + 1] == [1] * (names(plan).index("short") + 1)
        assert plan.num_scheduled_tokens <= 8
    sim.run()
    sim.assert_no_leaks()


def test_chunks_beside_streams_are_bounded_by_max_chunk_tokens(depth: int) -> None:
    sim = Simulation(max_in_flight=depth, max_batch_tokens=64)
    sim.add("stream", [1, 2, 3], max_tokens=30)
    sim.step()
    sim.add("long", list(range(1, 41)), max_tokens=1)
    plan = sim.step(max_chunk_tokens=6)
    assert counts(plan) == {"stream": 1, "long": 6}
    # Alone, a chunk may take the whole budget.
    sim.take(sim.scheduler.abort(RequestId("stream")))
    assert counts(sim.step(max_chunk_tokens=6)) == {"long": 34}


def test_short_prompt_does_not_wait_for_a_long_one_to_be_computed(depth: int) -> None:
    sim = Simulation(max_in_flight=depth, max_batch_tokens=16, num_pages=256)
    sim.add("long", [1 + i % 40 for i in range(400)], max_tokens=1)
    sim.step()
    sim.add("short", [44, 45, 46], max_tokens=1)
    assert counts(sim.step()) == {"short": 3, "long": 13}
    sim.run()
    assert sim.answers["short", 0] == oracle([44, 45, 46], 1, stop=STOP)


def test_long_prompt_gets_on_however_many_short_ones_come(depth: int) -> None:
    sim = Simulation(max_in_flight=depth, max_batch_tokens=16, num_pages=256)
    sim.add("long", [1 + i % 40 for i in range(200)], max_tokens=1)
    num_left = 200 - counts(sim.step())["long"]
    for index in range(400):
        sim.add(f"s{index}", [41 + index % 7, 1 + index % 40, 41 + index // 40], max_tokens=1)
        if ("long", 0) in sim.ends:
            break
        num_scheduled_tokens = counts(sim.step(check=False)).get("long", 0)
        assert num_scheduled_tokens >= min(8, num_left)
        num_left -= num_scheduled_tokens
    assert ("long", 0) in sim.ends


def test_smaller_request_is_admitted_past_one_that_finds_no_room(depth: int) -> None:
    sim = Simulation(max_in_flight=depth, num_pages=16, page_size=4, max_batch_tokens=64)
    sim.add("running", [1, 2, 3], max_tokens=20)
    sim.step()
    sim.add("big", [4 + i % 40 for i in range(60)], max_tokens=1)
    sim.add("small", [46, 47], max_tokens=1)
    assert set(names(sim.step())) == {"running", "small"}
    sim.run()
    assert sim.answers["big", 0] == oracle([4 + i % 40 for i in range(60)], 1, stop=STOP)
    sim.assert_no_leaks()


def test_request_past_its_deadline_is_not_passed_over(depth: int) -> None:
    sim = Simulation(
        max_in_flight=depth, num_pages=16, page_size=4, max_batch_tokens=64, max_overtakes=2
    )
    sim.add("running", [1, 2, 3], max_tokens=20)
    sim.step()
    sim.add("big", [4 + i % 40 for i in range(60)], max_tokens=1)
    for index in range(6):
        sim.add(f"small{index}", [46, 41 + index], max_tokens=1)
    sim.run()
    assert sim.admitted.index("big") == 3


def test_newcomer_waits_for_the_running_producer_of_its_prefix() -> None:
    sim = Simulation(max_batch_tokens=8, num_pages=64)
    shared = list(range(1, 25))
    sim.add("first", [*shared, 30], max_tokens=3)
    sim.step()
    sim.add("second", [*shared, 31], max_tokens=3)
    assert names(sim.step()) == ["first"]
    assert names(sim.step()) == ["first"]
    plan = sim.step()
    assert counts(plan) == {"first": 1, "second": 1}
    sim.run()
    # Each shared token was computed once: 24 + (1 + 2) + (1 + 2).
    assert sim.runner.num_computed_tokens == 30
    assert sim.ends["second", 0].num_cached_tokens == 24
    sim.assert_no_leaks()


def test_two_arriving_together_compute_their_prefix_once(depth: int) -> None:
    sim = Simulation(max_in_flight=depth, max_batch_tokens=64)
    shared = list(range(1, 22))
    for index in range(6):
        sim.add(f"r{index}", [*shared, 40 + index], max_tokens=2)
    sim.run()
    # Whole pages are shared in flight (5 of 4 tokens), so 20 tokens once, then 2 + 1 each.
    assert sim.runner.num_computed_tokens == 20 + 6 * 3
    for index in range(6):
        assert sim.answers[f"r{index}", 0] == oracle([*shared, 40 + index], 2, stop=STOP)


def test_request_sharing_less_than_a_whole_page_does_not_wait(depth: int) -> None:
    sim = Simulation(max_in_flight=depth, max_batch_tokens=64)
    sim.add("first", [1, 2, 3, 9, 9, 9], max_tokens=2)
    sim.add("second", [1, 2, 3, 8, 8, 8], max_tokens=2)
    assert names(sim.step()) == ["first", "second"]


@pytest.mark.parametrize("how", ["abort", "fail"])
def test_oldest_waiter_takes_over_when_the_producer_leaves(depth: int, how: str) -> None:
    sim = Simulation(max_in_flight=depth, max_batch_tokens=8)
    shared = list(range(1, 33))
    sim.add("producer", [*shared, 40], max_tokens=2)
    sim.step()
    for name in ("w1", "w2", "w3"):
        sim.add(name, [*shared, 41], max_tokens=2)
    assert names(sim.step()) == ["producer"]
    if how == "abort":
        sim.take(sim.scheduler.abort(RequestId("producer")))
    else:
        sim.take(sim.scheduler.fail(sim.scheduler.schedule(), "broken"))
    assert sim.ends["producer", 0].finish_reason == ("abort" if how == "abort" else "error")
    assert names(sim.step()) == ["w1"]
    sim.run()
    for name in ("w1", "w2", "w3"):
        assert sim.answers[name, 0] == oracle([*shared, 41], 2, stop=STOP)
    sim.assert_no_leaks()


def test_failed_step_ends_its_requests_only() -> None:
    sim = Simulation(max_batch_tokens=8, max_running=1)
    sim.add("bad", [1, 2, 3, 4, 5, 6], max_tokens=5)
    sim.step()
    sim.add("good", [9, 8, 7], max_tokens=2)
    sim.take(sim.scheduler.fail(sim.scheduler.schedule(), "out of luck"))
    assert sim.ends["bad", 0].finish_reason == "error"
    assert sim.ends["bad", 0].error == "out of luck"
    sim.run()
    assert sim.answers["good", 0] == oracle([9, 8, 7], 2, stop=STOP)
    sim.assert_no_leaks()


def test_row_without_finite_logits_fails_alone_and_leaves_nothing_uncommitted() -> None:
    sim = Simulation()
    sim.add("bad", [1, 2, 3, 4, 5, 6], max_tokens=5)
    sim.add("good", [9, 8, 7], max_tokens=2)
    plan = sim.scheduler.schedule()
    result = sim.runner.run(plan)
    broken = StepResult(((None,), *result.sampled[1:]))
    sim.take(sim.scheduler.update(plan, broken))
    assert sim.ends["bad", 0].finish_reason == "error"
    assert sim.cache.match(sim.scheduler.running[0].namespace, plan.rows[0].request.token_ids) == 0
    sim.run()
    assert sim.answers["good", 0] == oracle([9, 8, 7], 2, stop=STOP)
    sim.assert_no_leaks()


def test_fork_shares_every_page_and_copies_the_partial_one_n_minus_1_times() -> None:
    sim = Simulation(page_size=4, num_pages=64)
    prompt = list(range(1, 11))
    sim.add("a", prompt, max_tokens=3, n=4)
    sim.step()
    in_use = sim.cache.info().in_use_pages
    # Two full pages shared by all, and one partial page each.
    assert in_use == 2 + 4
    plan = sim.step()
    assert len(plan.copies) == 3
    assert len(plan.rows) == 4
    sim.run()
    for index in range(4):
        assert sim.answers["a", index] == oracle(prompt, 3, seed=index, stop=STOP)
    assert sim.runner.num_computed_tokens == 10 + 4 * 2
    sim.assert_no_leaks()


def test_fork_at_a_page_border_copies_nothing() -> None:
    sim = Simulation(page_size=4)
    sim.add("a", list(range(1, 9)), max_tokens=3, n=3)
    sim.step()
    assert sim.step().copies == ()
    sim.run()
    sim.assert_no_leaks()


def test_fork_without_room_lets_the_choice_wait_and_loses_nothing(depth: int) -> None:
    sim = Simulation(max_in_flight=depth, page_size=4, max_running=2)
    prompt = list(range(1, 11))
    sim.add("a", prompt, max_tokens=5, n=5)
    sim.run()
    for index in range(5):
        assert sim.answers["a", index] == oracle(prompt, 5, seed=index, stop=STOP)
    sim.assert_no_leaks()


def test_abort_of_one_choice_leaves_the_others() -> None:
    sim = Simulation()
    sim.add("a", [1, 2, 3, 4, 5], max_tokens=6, n=3)
    sim.step()
    sim.take(sim.scheduler.abort(RequestId("a"), 1))
    sim.run()
    assert sim.ends["a", 1].finish_reason == "abort"
    for index in (0, 2):
        assert sim.answers["a", index] == oracle([1, 2, 3, 4, 5], 6, seed=index, stop=STOP)
    sim.assert_no_leaks()


def test_abort_while_waiting_and_of_unknown_ids(depth: int) -> None:
    sim = Simulation(max_in_flight=depth, max_running=1)
    sim.add("a", [1, 2], max_tokens=3)
    sim.add("b", [3, 4], max_tokens=3)
    sim.step()
    sim.take(sim.scheduler.abort(RequestId("b")))
    assert sim.scheduler.abort(RequestId("nobody")) == []
    sim.run()
    assert sim.ends["b", 0].finish_reason == "abort"
    assert sim.scheduler.abort(RequestId("a")) == []
    sim.assert_no_leaks()


def test_duplicate_id_is_refused() -> None:
    sim = Simulation()
    sim.add("a", [1])
    with pytest.raises(ValueError, match="already in use"):
        sim.add("a", [2])


def test_preemption_never_hits_the_oldest_and_keeps_every_token(depth: int) -> None:
    # 12 pages of 4: three requests of up to 8 pages each cannot all finish together.
    sim = Simulation(
        max_in_flight=depth, num_pages=12, page_size=4, max_running=3, max_batch_tokens=16
    )
    prompts = {
        name: [base + i for i in range(6)] for name, base in (("a", 1), ("b", 11), ("c", 21))
    }
    for name, prompt in prompts.items():
        sim.add(name, prompt, max_tokens=24)
    while sim.scheduler.has_work:
        before = sim.scheduler.running[:1]
        sim.step()
        if before and before[0].finish_reason is None:
            assert before[0] in sim.scheduler.running, "the oldest was preempted"
    assert sim.scheduler.stats().preemptions > 0
    for name, prompt in prompts.items():
        assert sim.answers[name, 0] == oracle(prompt, 24, stop=STOP)
    sim.assert_no_leaks()


def test_request_that_needs_the_whole_pool_gets_it(depth: int) -> None:
    # The border copy after a partial match would be one page too many for it.
    sim = Simulation(max_in_flight=depth, num_pages=8, page_size=4)
    sim.add("warm", [1, 2, 3, 4, 5, 6], max_tokens=1)
    sim.run()
    sim.add("full", [1, 2, 3, 4, 5, 7, *range(8, 20)], max_tokens=32 - 18)
    sim.run()
    assert sim.ends["full", 0].finish_reason == "length"
    assert sim.ends["full", 0].num_cached_tokens == 4
    sim.assert_no_leaks()


def test_without_prefix_cache_nothing_is_found_and_nothing_left(depth: int) -> None:
    sim = Simulation(max_in_flight=depth, enable_prefix_cache=False)
    for _ in range(2):
        sim.add("a", [1, 2, 3, 4, 5, 6, 7, 8, 9], max_tokens=3)
        sim.run()
        assert sim.ends.pop(("a", 0)).num_cached_tokens == 0
        assert sim.answers.pop(("a", 0)) == oracle(
            [1, 2, 3, 4, 5, 6, 7, 8, 9], 3, namespace="private:a", stop=STOP
        )
    info = sim.cache.info()
    assert info.free_pages == info.total_pages


def test_namespaces_share_nothing(depth: int) -> None:
    sim = Simulation(max_in_flight=depth)
    for namespace in ("alice", "bob"):
        sim.add(namespace, [1, 2, 3, 4, 5, 6], max_tokens=2, namespace=namespace)
        sim.run()
        assert sim.ends[namespace, 0].num_cached_tokens == 0
    sim.add("again", [1, 2, 3, 4, 5, 6], max_tokens=2, namespace="alice")
    sim.run()
    assert sim.ends["again", 0].num_cached_tokens == 5


def test_exact_hits_for_every_overlap_up_to_three_pages(depth: int) -> None:
    for k in range(13):
        sim = Simulation(max_in_flight=depth, page_size=4)
        sim.add("first", [1 + i % 40 for i in range(14)], max_tokens=1)
        sim.run()
        sim.add("second", [1 + i % 40 for i in range(k)] + [49] * 3, max_tokens=1)
        sim.run()
        assert sim.ends["second", 0].num_cached_tokens == k
        # The same prompt, exactly as long as the overlap: one token must run.
        if k:
            sim.add("third", [1 + i % 40 for i in range(k)], max_tokens=1)
            sim.run()
            assert sim.ends["third", 0].num_cached_tokens == k - 1
        sim.assert_no_leaks()


def test_finished_request_leaves_prompt_and_answer_to_the_token(depth: int) -> None:
    sim = Simulation(max_in_flight=depth, page_size=4)
    prompt = [1, 2, 3, 4, 5, 6]
    sim.add("turn1", prompt, max_tokens=5)
    sim.run()
    history = [*prompt, *sim.answers["turn1", 0]]
    sim.add("turn2", [*history, 30, 31, 32], max_tokens=2)
    sim.run()
    # The last sampled token has no keys and values.
    assert sim.ends["turn2", 0].num_cached_tokens == len(history) - 1


def test_longest_cached_prefix_is_admitted_first(depth: int) -> None:
    sim = Simulation(max_in_flight=depth, max_running=1, page_size=4)
    sim.add("warm", list(range(1, 17)), max_tokens=1)
    sim.run()
    sim.admitted.clear()
    sim.add("busy", [40, 41], max_tokens=2)
    sim.step()
    sim.add("cold", [42, 43, 44], max_tokens=1)
    sim.add("some", [1, 2, 3, 4, 45], max_tokens=1)
    sim.add("most", [*range(1, 15), 46], max_tokens=1)
    sim.run()
    assert sim.admitted == ["busy", "most", "some", "cold"]


@pytest.mark.parametrize("max_overtakes", [0, 1, 3, 10])
@pytest.mark.parametrize("num_ahead", [0, 2])
def test_aging_bound_nobody_is_overtaken_more_often(
    depth: int, max_overtakes: int, num_ahead: int
) -> None:
    sim = Simulation(
        max_in_flight=depth, max_running=1, page_size=4, num_pages=256, max_overtakes=max_overtakes
    )
    hot = list(range(1, 17))
    sim.add("warm", hot, max_tokens=1)
    sim.run()
    sim.add("busy", [48, 48], max_tokens=2)
    sim.step()
    for index in range(num_ahead):
        sim.add(f"ahead{index}", [47, 47, index + 1], max_tokens=1)
    sim.add("cold", [46, 45, 44], max_tokens=1)
    sim.admitted.clear()
    for index in range(60):
        sim.add(f"hot{index}", [*hot, 20 + index % 20, 1 + index // 20], max_tokens=1)
    sim.run(check=False)
    overtakers = [name for name in sim.admitted if name not in ("busy",)].index("cold")
    assert overtakers <= num_ahead + max_overtakes
    # And the bound is used: hot requests did go first.
    assert overtakers >= max_overtakes


def test_aging_bound_holds_while_hot_requests_keep_arriving(depth: int) -> None:
    sim = Simulation(
        max_in_flight=depth, max_running=2, page_size=4, num_pages=256, max_overtakes=8
    )
    hot = list(range(1, 17))
    sim.add("warm", hot, max_tokens=1)
    sim.run()
    sim.admitted.clear()
    for index in range(4):
        sim.add(f"early{index}", [*hot, 20, 20 + index], max_tokens=1)
    sim.add("cold", [46, 45, 44], max_tokens=1)
    index = 0
    while ("cold", 0) not in sim.ends:
        for _ in range(3):
            sim.add(f"hot{index}", [*hot, 21 + index % 20, 1 + index // 20 % 40], max_tokens=1)
            index += 1
        sim.step(check=False)
    assert sim.admitted.index("cold") <= 4 + 8


def test_planned_tokens_of_a_victim_leave_the_plan() -> None:
    sim = Simulation(num_pages=8, page_size=2, max_running=4, max_batch_tokens=16)
    for index in range(4):
        sim.add(f"r{index}", [10 * index + 1, 10 * index + 2, 10 * index + 3], max_tokens=9)
    while sim.scheduler.has_work:
        before = sim.scheduler.stats().preemptions
        plan = sim.scheduler.schedule()
        for row in plan.rows:
            assert row.request in sim.scheduler.running
        if sim.scheduler.stats().preemptions > before:
            assert len(plan.rows) <= len(sim.scheduler.running)
        sim.take(sim.scheduler.update(plan, sim.runner.run(plan)))
        sim.scheduler.check_invariants()
    assert sim.scheduler.stats().preemptions > 0
    for index in range(4):
        prompt = [10 * index + 1, 10 * index + 2, 10 * index + 3]
        assert sim.answers[f"r{index}", 0] == oracle(prompt, 9, stop=STOP)
