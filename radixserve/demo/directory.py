"""Where the demo model lies on disk: made once per user, whole or not at all.

It is built in a directory beside its place and renamed into it, so a reader never sees half of it
and any number of processes may make it at once: the bytes are the same, so it does not matter which
was first. Where the user's cache cannot be written, the model goes to a fresh private temporary
directory and lives as long as that.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from radixserve.demo.model import FILES, RECIPE, write_demo_model

DEMO_WARNING = (
    "THE DEMO MODEL SPEAKS NOISE: its weights are random and it has learnt nothing. It shows that "
    "the server works, not what a language model can do. For answers that mean something, serve a "
    "real checkpoint: radixserve serve <directory or Hugging Face id>"
)

_log = logging.getLogger(__name__)


def ensure_demo_model(environ: Mapping[str, str] | None = None) -> Path:
    """The demo checkpoint's directory, made if it is not there.

    ``environ`` (default: the process's) says where the user's cache is: ``XDG_CACHE_HOME``, else
    ``~/.cache``. *Cost*: about 0.2 s the first time, nothing after that.
    """
    place = _cache_root(os.environ if environ is None else environ) / f"demo-{RECIPE}"
    if _is_whole(place):
        return place
    try:
        _build(place)
    except OSError as error:
        place = Path(tempfile.mkdtemp(prefix="radixserve-demo-"))
        _log.warning("the demo model cannot be kept (%s); for now it is in %s", error, place)
        write_demo_model(place)
    return place


def _cache_root(environ: Mapping[str, str]) -> Path:
    # The XDG specification: a relative path there is invalid and to be ignored.
    configured = Path(environ.get("XDG_CACHE_HOME") or "")
    if configured.is_absolute():
        return configured / "radixserve"
    return Path(environ.get("HOME") or os.path.expanduser("~")) / ".cache" / "radixserve"


def _is_whole(place: Path) -> bool:
    return all((place / name).is_file() for name in FILES)


def _build(place: Path) -> None:
    """Make the model beside its place and move it there. *Raises* ``OSError``."""
    if not place.is_absolute():
        raise OSError(f"{place} is not an absolute path: this user seems to have no home")
    place.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        write_demo_model(building)
        building.chmod(0o755)
        try:
            building.rename(place)
        except OSError:
            # Something is there: another process was faster, or somebody deleted a part. Either way
            # each file can take its place at once, and a reader of the old one keeps what it has.
            for name in FILES:
                (building / name).replace(place / name)
    finally:
        shutil.rmtree(building, ignore_errors=True)
