"""A Python that has llama.cpp: a virtual environment of its own, built once and kept.

radixserve's environment is left alone. Building compiles llama.cpp for this machine's processor (a
C++ compiler is needed; some minutes on two cores) and is done by pip, from its usual index.
"""

import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from tqdm import tqdm

PACKAGES = ("llama-cpp-python[server]==0.3.36", "gguf==0.19.0")
BUILD_S = 3600.0


class NoLlamaError(RuntimeError):
    """llama.cpp cannot be measured here; the message says why."""


def checked_python(path: Path) -> Path:
    """``path``, if it is a Python that has what the bench needs. *Raises* ``NoLlamaError``."""
    command = [str(path), "-c", "import gguf, llama_cpp, numpy"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        packages = " ".join(f"'{package}'" for package in PACKAGES)
        raise NoLlamaError(
            f"expected a Python with llama_cpp, gguf and numpy, got {path}: "
            f"{said.strip().splitlines()[-1]} (pip install {packages})"
        ) from error
    return path


def built_python() -> Path:
    """The bench's own one, in the system's temporary directory; made if it is not there yet.

    *Raises* ``NoLlamaError`` if it cannot be built. *Cost*: minutes the first time.
    """
    version = PACKAGES[0].rpartition("=")[2]
    tag = f"py{sys.version_info.major}{sys.version_info.minor}"
    directory = Path(tempfile.gettempdir()) / f"radixserve-bench-llama-{version}-{tag}"
    python = directory / ("Scripts" if os.name == "nt" else "bin") / "python"
    done = directory / "done"
    if not done.exists():
        print(f"building llama.cpp in {directory}: some minutes, once (--no-llama: without it)")
        log = directory / "pip.log"
        try:
            venv.create(directory, with_pip=True, clear=True)
            _install(python, log)
        except (OSError, subprocess.SubprocessError) as error:
            tail = "\n".join(log.read_text().splitlines()[-5:]) if log.exists() else ""
            raise NoLlamaError(f"llama.cpp could not be built: {error}\n{tail}") from error
        checked_python(python)
        done.touch()
    return checked_python(python)


def _install(python: Path, log: Path) -> None:
    """*Raises* ``CalledProcessError`` or ``TimeoutExpired``; ``log`` has what pip said."""
    command = [str(python), "-m", "pip", "install", "--verbose", *PACKAGES]
    begun = time.monotonic()
    with (
        log.open("w") as out,
        subprocess.Popen(command, stdout=out, stderr=out) as process,
        tqdm(desc="pip install", bar_format="{desc}: {elapsed}") as bar,
    ):
        while process.poll() is None:
            time.sleep(0.5)
            bar.update()
            if time.monotonic() - begun > BUILD_S:
                process.kill()
                raise subprocess.TimeoutExpired(command, BUILD_S)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
