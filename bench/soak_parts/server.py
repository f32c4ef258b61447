"""The server under test, and what the kernel knows of its two processes (Linux)."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from support.noise_model import write_noise_model

MODEL = "noise"
"""What it is called in requests."""
START_S = 180.0
STOP_S = 60.0


class ServerProcess:
    """``radixserve serve``, as a user starts it."""

    def __init__(self, process: "subprocess.Popen[bytes]", url: str, temporary: Path) -> None:
        self._process = process
        self.url = url
        self.temporary = temporary
        """Where its sockets' directories are."""

    @property
    def pid(self) -> int:
        """The process id of the server itself."""
        return self._process.pid

    @property
    def engine_pid(self) -> int | None:
        """The process id of its engine, if it has one just now."""
        pid = self._process.pid
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if children:
                return int(children[0])
        return None

    @property
    def rss_bytes(self) -> int:
        """Memory of the server's own process."""
        return rss_bytes(self._process.pid)

    @property
    def num_files(self) -> int:
        """Its open file descriptors."""
        return len(os.listdir(f"/proc/{self._process.pid}/fd"))

    @property
    def num_directories(self) -> int:
        """Its sockets' directories: one, while there is an engine."""
        return len(list(self.temporary.glob("radixserve-*")))

    def stop(self) -> int:
        """End it as a service manager does. Returns the exit status."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(STOP_S)


def rss_bytes(pid: int) -> int:
    """Resident memory of a process; 0 if it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def running(directory: Path, *flags: str) -> Iterator[ServerProcess]:
    """A server of noise on a free port. ``directory`` is for the model and what is said: ``log``.

    *Raises* ``RuntimeError``, with what it has said, if it does not start.
    """
    log = directory / "log"
    temporary = directory / "tmp"
    temporary.mkdir()
    environ = {"TMPDIR": str(temporary)}
    model = directory / "noise"
    model.mkdir()
    write_noise_model(model)
    command = [sys.executable, "-m", "radixserve_frontend", "serve", str(model)]
    command += ["--served-model-name", MODEL, "--port", "0", *flags]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | environ)
    try:
        end_s = time.monotonic() + START_S
        found = None
        while found is None:
            if time.monotonic() > end_s or process.poll() is not None:
                raise RuntimeError(f"the server did not start:\n{log.read_text()}")
            time.sleep(0.1)
            found = re.search(r"listening +(http://\S+)", log.read_text())
        yield ServerProcess(process, found[1], temporary)
    finally:
        process.kill()
        process.wait()
