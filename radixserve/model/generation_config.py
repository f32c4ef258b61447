"""What a checkpoint recommends for generating: when to stop, and how to sample where nobody says.

``generation_config.json`` is optional. Of its fields only those are read that a request of ours may
also carry. ``do_sample`` is not: it chooses between transformers' generation modes, and it is
absent (that is, false) in files whose temperature and top-p the authors plainly recommend. As vLLM
does, we take the recommended numbers as they stand; a request that wants greedy decoding says
temperature 0. No torch here.
"""

from pathlib import Path

from radixserve.errors import CheckpointError, InvalidRequestError
from radixserve.model.json_config import JsonConfig, read_json
from radixserve.sampling.params import SamplingDefaults, SamplingParams

FILE_NAME = "generation_config.json"

_FIELDS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def read_generation_config(directory: Path) -> JsonConfig:
    """The file's fields; none if there is no such file. *Raises* ``CheckpointError``."""
    path = directory / FILE_NAME
    return read_json(path) if path.is_file() else JsonConfig(str(path), {})


def read_sampling_defaults(generation: JsonConfig) -> SamplingDefaults:
    """The recommended sampling parameters. *Raises* ``CheckpointError`` if one is out of range."""
    given = {name: generation.get(name) for name in _FIELDS if generation.get(name) is not None}
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise generation.wrong(name, "a number")
    if "top_k" in given:
        # transformers writes 0, others -1, for "keep all"; some write a float.
        given["top_k"] = max(0, int(given["top_k"]))
    try:
        # The same ranges as a request's, found out now and not at every request.
        SamplingParams(**given)
    except InvalidRequestError as error:
        raise CheckpointError(
            f"{generation.source}: {error.message}; correct the file or remove the field"
        ) from error
    return SamplingDefaults(**given)


def read_eos_token_ids(
    config: JsonConfig, generation: JsonConfig, *, default: int | None, vocab_size: int
) -> tuple[int, ...]:
    """The union of both files' end-of-sequence ids, ascending.

    Where both are silent it is ``default``, the id that the family had when its first checkpoints
    were written. Ids outside the vocabulary, which no model can produce, are left out.
    """
    found: set[int] = set()
    silent = True
    for source in (config, generation):
        silent = silent and "eos_token_id" not in source
        value = source.get("eos_token_id")
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if any(isinstance(token_id, bool) or not isinstance(token_id, int) for token_id in ids):
            raise source.wrong("eos_token_id", "a token id or a list of token ids")
        found.update(ids)
    if silent and default is not None:
        found.add(default)
    return tuple(sorted(token_id for token_id in found if 0 <= token_id < vocab_size))
