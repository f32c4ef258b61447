"""From what a user calls a model to a local directory that holds its files.

A name is a local directory if there is one, else a Hugging Face repository id, fetched through
huggingface_hub's own cache: what is cached works offline, and what is shared with other tools is
not fetched twice. One name is neither: "demo" is the checkpoint that comes with this package.
"""

import re
from pathlib import Path

from radixserve.config import DEMO_MODEL
from radixserve.demo import WEIGHTS
from radixserve.errors import CheckpointError
from radixserve.model.config import FILE_NAME as CONFIG_FILE

# The weights in the one format that is read, and what tokenizer and chat template consist of.
_WANTED = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
# Other formats' and original releases' copies of the weights, in subfolders or under this name.
_UNWANTED = ("*/*", "consolidated*")

_REPOSITORY_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?", re.ASCII)


def resolve_model(
    model: str, *, revision: str | None = None, cache_dir: Path | None = None
) -> Path:
    """The directory of a checkpoint, fetched first if need be.

    ``revision`` is a branch, tag or commit of a repository; ``cache_dir`` replaces
    huggingface_hub's own cache.

    *Raises* ``CheckpointError`` if the name is neither a checkpoint directory nor a repository that
    is cached or can be fetched.
    *Cost*: one look over the network for a repository, and the download the first time.
    """
    if model == DEMO_MODEL:
        return WEIGHTS
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / CONFIG_FILE).is_file():
            raise CheckpointError(
                f"{path} holds no {CONFIG_FILE}; it is not a checkpoint directory"
            )
        return path
    if path.exists():
        raise CheckpointError(f"{path} is a file; name the directory that holds {CONFIG_FILE}")
    if not _REPOSITORY_ID.fullmatch(model):
        raise CheckpointError(
            f"{model!r} is no directory here, and no repository id like 'organisation/name' either"
        )
    return _fetch(model, revision, cache_dir)


def _fetch(repository: str, revision: str | None, cache_dir: Path | None) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 (slow, and rarely needed)

    try:
        directory = snapshot_download(
            repository,
            revision=revision,
            cache_dir=cache_dir,
            allow_patterns=list(_WANTED),
            ignore_patterns=list(_UNWANTED),
        )
    # Whatever goes wrong in there (network, proxy, authorisation, disk), the model cannot be had.
    except Exception as error:
        at = f" at revision {revision!r}" if revision else ""
        raise CheckpointError(
            f"model {repository!r}{at} is neither a directory here nor in huggingface_hub's cache, "
            f"and it cannot be fetched ({type(error).__name__}: {_first_line(error)}); check the "
            "name, the network and, for a gated repository, 'hf auth login'"
        ) from error
    if not (Path(directory) / CONFIG_FILE).is_file():
        raise CheckpointError(f"repository {repository!r} holds no {CONFIG_FILE}")
    return Path(directory)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else "no details"
