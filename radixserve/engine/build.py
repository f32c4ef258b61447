"""From settings to an engine core: find the checkpoint, make the runner, size the cache and what
lies below it.

The one place where runner, scheduler, cache and tiers meet. Cost: reads the weights once; with
``cache_dir`` a second time, from the system's page cache, for the fingerprint.
"""

import secrets
import time
from pathlib import Path

from radixserve.cache.policies import make_policy
from radixserve.cache.prefix_cache import PrefixCache
from radixserve.config import EngineConfig
from radixserve.engine.core import EngineCore
from radixserve.model.config import ModelConfig
from radixserve.model.fingerprint import fingerprint
from radixserve.model.resolve import resolve_model
from radixserve.runner.make import make_runner
from radixserve.runner.runner import ModelRunner
from radixserve.sampling.grammar_compiler import GrammarCompiler
from radixserve.sampling.token_table import token_table
from radixserve.scheduler.pacing import Pacer
from radixserve.scheduler.scheduler import Scheduler
from radixserve.text.tokenizer import Tokenizer, has_tokenizer
from radixserve.tiers.costs import Costs
from radixserve.tiers.disk_tier import DiskTier
from radixserve.tiers.page_directory import PageDirectory
from radixserve.tiers.page_names import PageNamer
from radixserve.tiers.tiers import Tiers
from radixserve.types import EngineInfo

_GIB = 1 << 30


def build_core(config: EngineConfig, *, progress: bool) -> EngineCore:
    """Load the model and make everything that a step needs.

    ``progress`` shows a bar while weights load. *Raises* ``ModelError`` or ``ConfigError``.
    """
    begun_s = time.perf_counter()
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
        tiers=_make_tiers(config, directory, model_config, runner, cache, progress=progress),
        cascade_costs=found.cascade_costs,
    )
    info = EngineInfo(
        model=config.model,
        model_dir=str(directory),
        architecture=found.architecture,
        num_parameters=found.num_parameters,
        device=found.device,
        dtype=found.dtype,
        quantization=found.quantization,
        attention=found.attention,
        max_model_len=found.max_model_len,
        vocab_size=found.vocab_size,
        page_size=found.page_size,
        num_pages=found.num_pages,
        kv_cache_bytes=found.kv_cache_bytes,
        num_host_pages=found.num_host_pages,
        cache_dir=config.cache_dir,
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


def _make_tiers(
    config: EngineConfig,
    directory: Path,
    model_config: ModelConfig,
    runner: ModelRunner,
    cache: PrefixCache,
    *,
    progress: bool,
) -> Tiers | None:
    """What the settings ask for below the device pool; None: nothing."""
    if runner.host_pages is None:
        return None
    buffer, page_size = runner.host_pages.buffer, runner.info.page_size
    disk = None
    if config.cache_dir is None:
        # Nobody outside this process is ever to find its pages.
        mark = secrets.token_bytes(32)
    else:
        mark = fingerprint(
            directory,
            model_config,
            dtype=runner.info.dtype,
            quantization=runner.info.quantization,
            page_size=page_size,
            progress=progress,
        )
        files = PageDirectory(
            config.cache_dir, mark, buffer.shape[1], int(config.cache_dir_gib * _GIB)
        )
        disk = DiskTier(files, buffer)
    return Tiers(PageNamer(mark, page_size), buffer, cache.public_prefixes, Costs(page_size), disk)
