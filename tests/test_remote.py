"""Event files in object stores: fsspec's own file systems, and a server that speaks S3 on this machine."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from event_files import all_events

import fasthist
from fasthist.cli import main
from fasthist.errors import ArgumentError, MissingPackageError, WriteError
from fasthist.events import remote, stored
from fasthist.events.messages import scalar_value, summary_event
from fasthist.events.writer import EventFileWriter
from fasthist.history import History
from fasthist.summary_writer import SummaryWriter

WEIGHTS = np.random.default_rng(5).normal(0, 0.02, 3000).astype(np.float32)


def event(step, size=1):
    return summary_event([scalar_value("a" * size, step)], 1.5, step)


@pytest.fixture
def spools(tmp_path, monkeypatch):
    """Give the folder that spools are made in."""
    folder = tmp_path / "spools"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def memory(need):
    """Give fsspec's file system in memory, empty."""
    system = need("fsspec").filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def download(system, path, folder):
    """Copy what is there into a local folder, for readers of files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in system.ls(path, detail=False):
        (folder / name.rpartition("/")[2]).write_bytes(system.cat_file(name))
    return folder


def steps(folder):
    return [step for _, _, step, _, _ in fasthist.read(folder)]


def test_what_is_flushed_is_there(memory, tmp_path, spools):
    writer = SummaryWriter("memory://bucket/runs/a", max_queue=0)
    writer.add_histogram("w", WEIGHTS, 0)
    writer.flush()
    assert steps(download(memory, "/bucket/runs/a", tmp_path / "one")) == [0]
    for step in (1, 2):
        writer.add_histogram("w", WEIGHTS, step)
    writer.flush()
    assert steps(download(memory, "/bucket/runs/a", tmp_path / "two")) == [0, 1, 2]
    writer.close()
    assert len(memory.ls("/bucket/runs/a", detail=False)) == 1
    assert list(spools.iterdir()) == []


def test_a_large_file_has_successors(memory, tmp_path):
    writer = EventFileWriter("memory://bucket/a", max_file_bytes=2000, max_queue=2)
    for step in range(20):
        writer.add_event(event(step, size=300))
    writer.close()
    names = sorted(memory.ls("/bucket/a", detail=False))
    assert 3 <= len(names) <= 4
    assert sum(memory.size(name) for name in names) == writer.nbytes
    found = all_events(download(memory, "/bucket/a", tmp_path / "copy"))
    assert [e.step for e in found] == list(range(20))


def test_files_sort_in_the_order_they_were_begun(memory, tmp_path):
    memory.pipe_file("/bucket/a/events.out.tfevents.4000000000.zebra.1.000000", b"")
    for step in range(3):
        writer = EventFileWriter("memory://bucket/a")
        writer.add_event(event(step))
        writer.close()
    memory.rm_file("/bucket/a/events.out.tfevents.4000000000.zebra.1.000000")
    found = all_events(download(memory, "/bucket/a", tmp_path / "copy"))
    assert [e.step for e in found] == [0, 1, 2]
    assert all(".400000000" in name for name in memory.ls("/bucket/a", detail=False))


def test_a_store_that_fails_is_asked_again(memory, monkeypatch):
    monkeypatch.setattr(remote, "_WAITS", (0.0, 0.0))
    writer = EventFileWriter("memory://bucket/a")
    put, failures = type(memory).put_file, []

    def sometimes(self, *arguments, **options):
        if len(failures) < 2:
            failures.append(1)
            raise ConnectionError
        return put(self, *arguments, **options)

    monkeypatch.setattr(type(memory), "put_file", sometimes)
    writer.add_event(event(1))
    writer.close()
    assert len(failures) == 2
    assert len(memory.ls("/bucket/a", detail=False)) == 1


def test_a_store_that_is_down_loses_nothing(memory, tmp_path, monkeypatch, spools):
    monkeypatch.setattr(remote, "_WAITS", (0.0,))

    no_route = RuntimeError("no route to host")

    def down(*_, **__):
        raise no_route

    writer = SummaryWriter("memory://bucket/a")
    with monkeypatch.context() as patched:
        patched.setattr(type(memory), "put_file", down)
        for step in range(3):
            writer.add_histogram("w", WEIGHTS, step)
            with pytest.raises(
                WriteError, match=r"no route to host: .*kept.* call flush\(\) again"
            ) as caught:
                writer.flush()
            assert caught.value.errno == errno.EIO
            assert caught.value.filename.startswith("memory://bucket/a/events.out.tfevents.")
    (folder,) = spools.iterdir()
    assert steps(folder) == [0, 1, 2]  # whatever happens now, they are on this machine
    writer.close()
    assert steps(download(memory, "/bucket/a", tmp_path / "copy")) == [0, 1, 2]


def test_a_local_url(need, tmp_path):
    need("fsspec")
    with SummaryWriter(f"file://{tmp_path}/runs/a") as writer:
        writer.add_histogram("w", WEIGHTS, 1)
    assert steps(tmp_path / "runs" / "a") == [1]


@pytest.mark.parametrize("where", ["memory://bucket/runs", "file://{}/runs"])
def test_what_is_written_is_read_where_it_is(memory, tmp_path, where, monkeypatch):  # noqa: ARG001
    """`read`, `History` and a restart, through the URL and not a copy; in pieces, too."""
    monkeypatch.setattr(stored, "_BLOCK", 1000)
    url = where.format(tmp_path)
    for run in ("a", "b/c"):
        with SummaryWriter(f"{url}/{run}") as writer:
            for step in range(20):
                writer.add_histograms({"w": WEIGHTS, "v": WEIGHTS[:50]}, step)
    rows = list(fasthist.read(url))
    assert [row[:3] for row in rows] == [
        (run, tag, step) for run in ("a", "b/c") for step in range(20) for tag in ("w", "v")
    ]
    assert {row.histogram.num for row in rows} == {3000, 50}
    assert {run: len(history["w"]) for run, history in History.open_all(url).items()} == {
        "a": 20,
        "b/c": 20,
    }
    history = History.open(f"{url}/", "b/c")
    assert history.nbytes > 1000
    by_key = {row[:3]: row.histogram for row in rows}
    assert list(history["w"]) == [by_key["b/c", "w", step] for step in range(20)]
    with SummaryWriter(f"{url}/b/c", purge_step=5) as writer:
        writer.add_histogram("w", WEIGHTS, 7)
    assert history.refresh()
    assert history["w"].steps.tolist() == [0, 1, 2, 3, 4, 7]
    assert history["v"].steps.tolist() == [0, 1, 2, 3, 4]
    (row, *_) = fasthist.read(history._paths()[0])
    assert row[:3] == (".", "w", 0)
    assert pickle.loads(pickle.dumps(history))["w"].at(7).num == 3000


COMMANDS = {
    "show": ["show", "{url}/a", "--step", "3"],
    "show as JSON": ["show", "{url}/a", "--json"],
    "doctor": ["doctor", "{url}"],
    "compare": ["compare", "{url}/a", "{url}/b/c", "--json"],
    "plot": ["plot", "{url}", "-o", "{path}/page.html"],
}


@pytest.mark.parametrize("where", ["memory://bucket/runs", "file://{}/runs"])
def test_commands_take_urls(memory, tmp_path, where, need):  # noqa: ARG001
    need("matplotlib")
    url = where.format(tmp_path)
    for run in ("a", "b/c"):
        with SummaryWriter(f"{url}/{run}") as writer:
            for step in range(5):
                writer.add_histogram("fc.weight", WEIGHTS, step)
    for name, command in COMMANDS.items():
        arguments = [part.format(url=url, path=tmp_path) for part in command]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, (name, result.output, result.exception)
        assert "fc.weight" in result.output or name in ("doctor", "plot")
    assert "fc.weight" in (tmp_path / "page.html").read_text()
    for run in ("gone", ""):
        result = CliRunner().invoke(main, ["show", f"{url}/{run}"])
        text = "is not there" if run else f"Name one of: {url}/a; {url}/b/c."
        assert (result.exit_code, text in result.output) == (1, True), result.output


@pytest.mark.parametrize("command", [["log", "{}", "--log-dir", "x"], ["merge", "{}", "-o", "x"]])
def test_commands_that_read_paths_only_say_so(command):
    arguments = [part.format("s3://bucket/m.npz") for part in command]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "s3://bucket/m.npz is a URL. Accepted: a local path. Hint: copy" in " ".join(
        result.output.split()
    )


def test_a_checkpoint_behind_a_url_is_no_run(memory):
    memory.pipe("/bucket/m.npz", b"x")
    for url in ("memory://bucket/m.npz", "memory://bucket"):
        result = CliRunner().invoke(main, ["show", url])
        assert result.exit_code == 1
        assert f"{url} is a checkpoint and not a run" in result.output


def test_a_reader_of_a_url_goes_on(memory):  # noqa: ARG001
    with SummaryWriter("memory://bucket/a") as writer:
        writer.add_histogram("w", WEIGHTS, 0)
        writer.flush()
        reader = fasthist.read("memory://bucket/a")
        other = fasthist.read("memory://bucket/a")
        assert next(reader).step == next(other).step == 0
        assert list(reader) == []
        writer.add_histogram("w", WEIGHTS, 1)
    assert [row.step for row in reader] == [1]
    assert [row.step for _ in range(2) for row in other] == [1]  # each pass sees a file as it began


def test_what_is_not_there_behind_a_url(memory, monkeypatch):  # noqa: ARG001
    for find in (fasthist.read, History.open):
        with pytest.raises(ArgumentError, match=r"memory://gone/a'? is not there\. .*flushed"):
            find("memory://gone/a")
        with pytest.raises(ArgumentError, match="nowhere"):
            find("nowhere://a")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingPackageError, match="s3fs"):
        fasthist.read("s3://a/b")


def test_urls_that_lead_nowhere(need, monkeypatch):
    need("fsspec")
    with pytest.raises(
        ArgumentError, match=r"log_dir='nowhere://a': .* Accepted: a local directory, or a URL"
    ):
        SummaryWriter("nowhere://a")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingPackageError, match=r"log_dir='s3://a/b' needs a package .*s3fs"):
        SummaryWriter("s3://a/b")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(
        MissingPackageError, match=r"needs fsspec, .* Run: pip install 'fasthist\[fsspec\]'"
    ):
        SummaryWriter("s3://a/b")


# -- a server that speaks S3 -----------------------------------------------------------------------

BUCKET = "runs"


@pytest.fixture(scope="module")
def s3(request):
    """Run moto's server on 127.0.0.1, and point everything that speaks S3 there."""
    required = request.config.getoption("--require").split(",")
    for name in ("s3fs", "moto", "flask"):
        if importlib.util.find_spec(name) is None:
            if name in required:
                pytest.fail(f"--require={name} was given, but it is not installed")
            pytest.skip(f"{name} is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {
                "AWS_ENDPOINT_URL": url,
                "S3_ENDPOINT": url,
                "AWS_ACCESS_KEY_ID": "testing",
                "AWS_SECRET_ACCESS_KEY": "testing",
                "AWS_DEFAULT_REGION": "us-east-1",
            }.items():
                patch.setenv(name, value)
            make_bucket(url, server)
            yield url
    finally:
        server.terminate()
        server.wait()


def make_bucket(url, server):
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(
                urllib.request.Request(f"{url}/{BUCKET}", method="PUT"), timeout=60
            ).close()
        except OSError:
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


LOAD = """
import json, sys, types
# As where TensorFlow is not installed: TensorBoard's own file systems read the URL.
sys.modules["tensorboard.compat.notf"] = types.ModuleType("notf")
from loaders import python_loader
found = python_loader(sys.argv[1], "histograms")
print(json.dumps({tag: [[step, float(rows[:, 2].sum())] for step, rows in data] for (_, tag), data in found.items()}))
"""


def test_s3_and_tensorboard_reads_it_back(s3, tmp_path):  # noqa: ARG001
    import fsspec

    url = f"s3://{BUCKET}/mnist/a"
    with SummaryWriter(url) as writer:
        for step in range(3):
            writer.add_histograms({"w": WEIGHTS, "b": WEIGHTS[:10]}, step)
            writer.flush()
    system = fsspec.filesystem("s3")
    system.invalidate_cache()
    assert steps(download(system, f"{BUCKET}/mnist/a", tmp_path)) == [0, 0, 1, 1, 2, 2]
    assert steps(url) == [0, 0, 1, 1, 2, 2]
    history = History.open(f"s3://{BUCKET}", "mnist/a")
    assert (history["w"].steps.tolist(), history["w"].at(2).num) == ([0, 1, 2], 3000)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, url],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown == {
        "w": [[0, 3000], [1, 3000], [2, 3000]],
        "b": [[0, 10], [1, 10], [2, 10]],
    }


def test_s3_that_refuses(s3, spools, monkeypatch):  # noqa: ARG001
    monkeypatch.setattr(remote, "_WAITS", ())
    with pytest.raises(WriteError, match="no event file can be made here") as caught:
        SummaryWriter("s3://there-is-no-such-bucket/a")
    assert "there-is-no-such-bucket" in caught.value.filename
    assert list(spools.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-?threaded")
def test_a_forked_child_sends_a_file_of_its_own(s3, tmp_path):  # noqa: ARG001
    import fsspec

    writer = SummaryWriter(f"s3://{BUCKET}/forked")
    writer.add_histogram("parent", WEIGHTS, 1)
    writer.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            writer.add_histogram("child", WEIGHTS, 2)
            writer.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    writer.add_histogram("parent", WEIGHTS, 3)
    writer.close()
    system = fsspec.filesystem("s3")
    system.invalidate_cache()
    found = fasthist.read(download(system, f"{BUCKET}/forked", tmp_path))
    assert sorted((tag, step) for _, tag, step, _, _ in found) == [
        ("child", 2),
        ("parent", 1),
        ("parent", 3),
    ]
