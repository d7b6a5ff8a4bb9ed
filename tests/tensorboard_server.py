"""The real TensorBoard server over a directory, for tests that want to see what a browser would be given."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

DEADLINE_SECONDS = 90


@dataclass(frozen=True)
class Server:
    """A running server; `url` ends without a slash."""

    url: str
    process: subprocess.Popen
    log: Path

    def get(self, path, *, until=bool, **query):
        """Give the JSON at a path, asking again until it satisfies `until`: loading takes a while.

        `query` becomes the query string, quoted. The answer at the deadline is given as it is, so that the
        test's own assertion shows it.
        """
        address = f"{self.url}{path}"
        if query:
            address += f"?{urllib.parse.urlencode(query)}"
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            answer = None
            # A run or tag that is not loaded yet gives 404, or 400.
            with (
                contextlib.suppress(urllib.error.HTTPError),
                urllib.request.urlopen(address, timeout=DEADLINE_SECONDS) as response,
            ):
                answer = json.load(response)
                if until(answer):
                    return answer
            if time.monotonic() > deadline:
                assert answer is not None, f"{address} has nothing:\n{self.log.read_text()}"
                return answer
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)

    def tags(self, plugin="histograms", *, until=bool):
        """Give {run: [tags]} of a plugin."""
        found = self.get(
            f"/data/plugin/{plugin}/tags", until=lambda tags: until(_names(tags)) if tags else False
        )
        return _names(found)

    def histograms(self, run, tag, *, steps=1):
        """Give [[wall_time, step, [[left, right, count], ...]], ...] once `steps` of them are loaded."""
        return self.get(
            "/data/plugin/histograms/histograms",
            until=lambda found: len(found) >= steps,
            run=run,
            tag=tag,
        )

    def scalars(self, run, tag, *, steps=1):
        """Give [[wall_time, step, value], ...] once `steps` of them are loaded."""
        return self.get(
            "/data/plugin/scalars/scalars",
            until=lambda found: len(found) >= steps,
            run=run,
            tag=tag,
        )


def _names(tags):
    return {run: sorted(found) for run, found in tags.items()}


@contextlib.contextmanager
def serve(log_dir, load_fast):
    """Run TensorBoard on a free port of 127.0.0.1, with its fast loader or its Python one, and end it.

    Yields a `Server` that answers HTTP.
    """
    command = [sys.executable, "-W", "ignore", "-m", "tensorboard.main", "--logdir", str(log_dir)]
    command += ["--host", "127.0.0.1", "--port", "0", "--reload_interval", "1"]
    command += ["--load_fast", "true" if load_fast else "false"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            yield Server(_address(process, log), process, log)
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _address(process, log):
    """Read the port that the server chose from what it prints."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        printed = log.read_text()
        if found := re.search(r"(http://127\.0\.0\.1:\d+)/", printed):
            return found[1]
        assert process.poll() is None, printed
        assert time.monotonic() < deadline, f"TensorBoard printed no address:\n{printed}"
        time.sleep(0.05)
