"""Every policy that can be compared, by name, as something that runs a trace."""

from functools import partial

from hit_rate_parts.belady import run_belady
from hit_rate_parts.real_cache import MakePolicy, run_real_cache
from hit_rate_parts.sglang import run_sglang
from hit_rate_parts.tally import Simulator
from hit_rate_parts.vllm import run_vllm
from radixserve.cache.policies import DEFAULT_POLICY, POLICIES

BOUND = "belady"
VLLM = "vllm"

OURS = (*POLICIES, "default")
"""Those that are policies of the project's own cache."""


def policy_maker(name: str) -> MakePolicy:
    """What makes one of ``OURS``."""
    return POLICIES[DEFAULT_POLICY if name == "default" else name]


def _ours(name: str) -> Simulator:
    return partial(run_real_cache, make_policy=policy_maker(name))


SIMULATORS: dict[str, Simulator] = {
    **{name: _ours(name) for name in OURS},
    VLLM: run_vllm,
    "sglang": run_sglang,
    BOUND: run_belady,
}
COMPARED = ("lru", "default", VLLM, "sglang", BOUND)
