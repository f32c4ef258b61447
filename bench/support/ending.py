"""The end of a process that has been asked to end."""

import subprocess


def wait_or_kill(process: "subprocess.Popen[bytes]", patience_s: float) -> None:
    """Wait for its end for so long, then kill it. Returns when it is gone."""
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
