"""A server in a process of its own, as a user runs it: of noise, or of what is asked for."""

import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.noise_model import write_noise_model

MODEL = "noise"
START_S = 100.0
TIMEOUT_S = 60.0
OPTIONS = ("--dtype", "float32", "--num-pages", "1024", "--num-threads", "1", "--port", "0")


@dataclass
class Serving:
    """A server process and where it listens."""

    process: subprocess.Popen[str]
    url: str
    log_file: TextIO

    def log(self) -> str:
        """What it has logged so far."""
        self.log_file.seek(0)
        return self.log_file.read()

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=TIMEOUT_S)

    def samples(self) -> dict[str, float]:
        """What /metrics says, without labels other than a page's state."""
        with self.client() as client:
            text = client.get("/metrics").text
        return {
            sample.name + sample.labels.get("state", ""): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def wait_until_idle(self) -> dict[str, float]:
        """The figures once nothing runs and no page is in use."""
        timer = threading.Timer(TIMEOUT_S, self.process.kill)
        timer.start()
        try:
            while True:
                samples = self.samples()
                if not (
                    samples["radixserve_num_requests_running"]
                    or samples["radixserve_num_requests_waiting"]
                    or samples["radixserve_pagesin_use"]
                ):
                    return samples
        finally:
            timer.cancel()


@contextmanager
def serving(
    *arguments: str, environ: Mapping[str, str] | None = None, directory: str | None = None
) -> Iterator[Serving]:
    """Run ``radixserve serve`` with these arguments, wait for its banner, end it."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "radixserve_frontend", "serve", *arguments],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | (environ or {}),
            cwd=directory,
        )
        timer = threading.Timer(START_S, process.kill)
        timer.start()
        try:
            assert process.stdout is not None
            url = None
            for line in process.stdout:
                found = re.search(r"listening +(http://\S+)", line)
                if found:
                    url = found[1]
                if "curl" in line:
                    break
            timer.cancel()
            if url is None:
                log.seek(0)
                pytest.fail(f"the server did not start:\n{log.read()}")
            yield Serving(process, url, log)
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


@contextmanager
def running_server(*options: str, environ: Mapping[str, str] | None = None) -> Iterator[Serving]:
    """A server of noise, named ``MODEL``; later options win over ``OPTIONS``."""
    with tempfile.TemporaryDirectory() as directory:
        # A model has one name where that is the path it is found by.
        Path(directory, MODEL).mkdir()
        write_noise_model(Path(directory, MODEL))
        with serving(MODEL, *OPTIONS, *options, environ=environ, directory=directory) as found:
            yield found
