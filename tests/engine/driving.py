"""An engine core driven by hand, step by step, with everything that it says kept."""

from pathlib import Path
from typing import Any

from radixserve.config import EngineConfig
from radixserve.engine.build import build_core
from radixserve.engine.core import EngineCore
from radixserve.ids import Namespace, RequestId
from radixserve.runner.runner import ModelRunner
from radixserve.sampling.params import SamplingDefaults, SamplingParams
from radixserve.types import EngineRequest, TokenDelta


def make_core(directory: Path, *, max_in_flight: int = 1, **settings: Any) -> EngineCore:
    """A core in float32 on one thread; ``settings`` are fields of ``EngineConfig``.

    With ``max_in_flight`` of 2 it plans ahead as it does on a GPU.
    """
    defaults: dict[str, Any] = {"dtype": "float32", "num_threads": 1, "num_pages": 400}
    config = EngineConfig(model=str(directory), **defaults | settings)
    core = build_core(config, progress=False)
    assert isinstance(core._runner, ModelRunner)
    core._runner.max_in_flight = max_in_flight
    return core


def make_request(
    name: str,
    prompt: list[int],
    max_tokens: int,
    *,
    seed: int = 0,
    namespace: str = "",
    end_token_ids: tuple[int, ...] = (),
    **params: Any,
) -> EngineRequest:
    """A request as intake would let it in: greedy unless ``params`` says otherwise."""
    wanted = SamplingParams(**{"temperature": 0.0, **params})
    return EngineRequest(
        request_id=RequestId(name),
        prompt_ids=prompt,
        params=wanted.resolve(SamplingDefaults(), max_tokens=max_tokens, seed=seed),
        end_token_ids=list(end_token_ids),
        namespace=Namespace(namespace),
    )


class Driver:
    """Adds, steps and aborts, and checks after each that nothing is lost."""

    def __init__(self, core: EngineCore) -> None:
        self.core = core
        self.tokens: dict[tuple[str, int], list[int]] = {}
        self.ends: dict[tuple[str, int], TokenDelta] = {}

    def add(self, request: EngineRequest) -> None:
        self.core.add(request)

    def step(self) -> None:
        self._take(self.core.step())
        self.core.check_invariants()

    def abort(self, name: str, index: int | None = None) -> None:
        self._take(self.core.abort(RequestId(name), index))
        self.core.check_invariants()

    def run(self, *, max_steps: int = 5000) -> None:
        for _ in range(max_steps):
            if not self.core.has_work:
                return
            self.step()
        raise AssertionError(f"still at work after {max_steps} steps: {self.core.stats()}")

    def rest(self) -> None:
        """Let an idle engine do what is left to be done below the device pool."""
        tiers = self.core._scheduler.tiers
        if tiers is None:
            return
        while self.core.can_step or tiers.wait():
            self.step()
        info = tiers.info()
        assert info.host_in_use_pages == 0, info
        assert info.host_free_pages + info.host_cached_pages == info.host_total_pages, info

    def assert_nothing_leaked(self) -> None:
        info = self.core.cache_info()
        assert info.in_use_pages == 0, info
        assert info.free_pages + info.cached_pages == info.total_pages, info
        assert not self.core.has_work
        stats = self.core.stats()
        assert (stats.num_waiting, stats.num_running) == (0, 0)
        self.core.check_invariants()
        self.rest()
        self.core.clear_cache()
        assert self.core.cache_info().free_pages == info.total_pages
        self.core.check_invariants()

    def _take(self, deltas: list[TokenDelta]) -> None:
        for delta in deltas:
            key = (str(delta.request_id), delta.index)
            assert key not in self.ends, f"{key} went on after its end"
            self.tokens.setdefault(key, []).extend(delta.token_ids)
            if delta.finish_reason is not None:
                self.ends[key] = delta
