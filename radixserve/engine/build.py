"""From settings to an engine core: find the checkpoint, make the runner, size the cache.

The one place where runner, scheduler and cache meet. Cost: reads the weights once.
"""

import time

from radixserve.cache.policies import make_policy
from radixserve.cache.prefix_cache import PrefixCache
from radixserve.config import DEMO_MODEL, EngineConfig
from radixserve.demo import ensure_demo_model
from radixserve.engine.core import EngineCore
from radixserve.model.config import ModelConfig
from radixserve.model.resolve import resolve_model
from radixserve.runner.make import make_runner
from radixserve.sampling.grammar_compiler import GrammarCompiler
from radixserve.sampling.token_table import token_table
from radixserve.scheduler.pacing import Pacer
from radixserve.scheduler.scheduler import Scheduler
from radixserve.text.tokenizer import Tokenizer, has_tokenizer
from radixserve.types import EngineInfo


def build_core(config: EngineConfig, *, progress: bool) -> EngineCore:
    """Load the model and make everything that a step needs.

    ``progress`` shows a bar while weights load. *Raises* ``ModelError`` or ``ConfigError``.
    """
    begun_s = time.perf_counter()
    if config.model == DEMO_MODEL:
        directory = ensure_demo_model()
    else:
        directory = resolve_model(config.model, revision=config.revision)
    model_config = ModelConfig.from_dir(directory)
    runner = make_runner(config, directory, model_config, progress=progress)
    found = runner.info
    policy = make_policy(config.eviction_policy, time.monotonic, found.num_pages, found.page_size)
    cache = PrefixCache(found.num_pages, found.page_size, policy)
    scheduler = Scheduler(
        cache,
        max_batch_tokens=found.limits.max_batch_tokens,
        max_running=found.limits.max_running,
        enable_prefix_cache=config.enable_prefix_cache,
    )
    info = EngineInfo(
        model=config.model,
        model_dir=str(directory),
        architecture=found.architecture,
        num_parameters=found.num_parameters,
        device=found.device,
        dtype=found.dtype,
        attention=found.attention,
        max_model_len=found.max_model_len,
        vocab_size=found.vocab_size,
        page_size=found.page_size,
        num_pages=found.num_pages,
        kv_cache_bytes=found.kv_cache_bytes,
        eos_token_ids=list(model_config.eos_token_ids),
        sampling_defaults=model_config.sampling_defaults,
        load_seconds=time.perf_counter() - begun_s,
    )
    grammars = None
    if has_tokenizer(directory):
        # The tokenizer is read when the first grammar comes, by the thread that compiles it.
        grammars = GrammarCompiler(
            lambda: token_table(Tokenizer.from_dir(directory), found.vocab_size)
        )
    return EngineCore(info, runner, scheduler, cache, Pacer(config.max_itl_stretch), grammars)
