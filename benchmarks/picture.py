"""Make the README's picture: the demo's runs in the real TensorBoard, photographed by headless Chromium.

Needs the extra ``fasthist[demo]`` and Debian's package chromium. Run: ``python benchmarks/picture.py``.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

PICTURE = Path(__file__).parents[1] / "bench_results" / "pictures" / "demo.png"
PAGE = "#histograms&tagFilter=gradients%2F.*weight"
SIZE = "1500,930"


def main() -> None:
    """Train, serve, photograph."""
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder, "runs", "demo")
        subprocess.run(
            [sys.executable, "-m", "fasthist", "demo", "--log-dir", str(runs)], check=True
        )
        port = free_port()
        # From the parent folder, so that the page shows a short path.
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", "runs/demo"]
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], cwd=folder
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/data/plugin/histograms/tags")
            photograph(f"http://127.0.0.1:{port}/?darkMode=false{PAGE}", Path(folder, "profile"))
        finally:
            server.terminate()
            server.wait()


def free_port() -> int:
    """Ask the system for a port that nobody uses."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(url: str, seconds: float = 60) -> None:
    """Ask until both runs are served."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url) as answer:
                text = answer.read().decode()
            if "good_init" in text and "bad_init" in text:
                return
        except urllib.error.URLError:
            pass
        time.sleep(0.5)
    msg = f"TensorBoard did not serve both runs within {seconds} s"
    raise TimeoutError(msg)


def photograph(url: str, profile: Path) -> None:
    """Save what Chromium shows once the page has drawn itself."""
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
            f"--window-size={SIZE}",
            "--virtual-time-budget=25000",
            f"--screenshot={PICTURE}",
            url,
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )


if __name__ == "__main__":
    main()
