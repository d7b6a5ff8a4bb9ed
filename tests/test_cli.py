"""The command line: what it writes, and one line with an exit code for everything that goes wrong."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from click.testing import CliRunner

import fasthist
from fasthist.cli import main

RNG = np.random.default_rng(11)
TENSORS = {
    "fc.weight": RNG.normal(size=(50, 40)).astype("f4"),
    "fc.bias": np.arange(40, dtype="f8"),
    "counts": np.arange(9, dtype="i4"),
}


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory):
    """Have processes find their kernels in the cache, or the first ones would say on stderr what they wait for."""
    folder = tmp_path_factory.mktemp("compiled")
    process("log", save(folder / "m.npz"), "--log-dir", folder / "runs")


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def save(path: Path, tensors=TENSORS) -> Path:
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, **tensors)
    else:
        safetensors.numpy.save_file(tensors, path)
    return path


def read_histograms(log_dir):
    """Give {(tag, step): histogram} as TensorBoard's own reader finds them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(log_dir), size_guidance={"histograms": 0}).Reload()
    return {
        (tag, event.step): event.histogram_value
        for tag in events.Tags()["histograms"]
        for event in events.Histograms(tag)
    }


def one_line(result) -> str:
    """Give the only line on stderr of a command that failed as it should."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("fasthist: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


# ---- what it writes


def test_log_writes_a_histogram_of_every_tensor(tmp_path):
    path = save(tmp_path / "model_step_7.safetensors")
    result = run("log", path, "--log-dir", tmp_path / "runs")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        f"{tmp_path}/runs: 3 histograms of 8.4 kB at step 7\n"
        f"Look at them with: tensorboard --logdir {tmp_path}/runs\n"
    )
    found = read_histograms(tmp_path / "runs")
    assert set(found) == {(tag, 7) for tag in TENSORS}
    for tag, array in TENSORS.items():
        written, expected = found[tag, 7], fasthist.histogram(array)
        assert (written.num, written.min, written.max) == (expected.num, expected.min, expected.max)
        assert sum(written.bucket) == expected.num


def test_several_files_are_several_steps(tmp_path):
    paths = [
        save(tmp_path / f"checkpoint-{step}" / "model.npz", {"w": np.full(5, step)})
        for step in (10, 2, 30)
    ]
    result = run("log", *paths, "--log-dir", tmp_path / "runs", "--threads", 1)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "3 histograms of 120 bytes at 3 steps, 2 to 30\n" in result.stdout
    found = read_histograms(tmp_path / "runs")
    assert {key: histogram.min for key, histogram in found.items()} == {
        ("w", step): step for step in (10, 2, 30)
    }


def test_many_tensors_are_written_in_groups(tmp_path):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    tensors = {f"w{n}": np.full(3, n) for n in range(150)}
    result = run("log", save(tmp_path / "m.npz", tensors), "--log-dir", tmp_path / "runs")
    assert (result.exit_code, result.stderr) == (0, "")
    found = read_histograms(tmp_path / "runs")
    assert {tag: histogram.min for (tag, _), histogram in found.items()} == {
        f"w{n}": n for n in range(150)
    }
    (file,) = (tmp_path / "runs").iterdir()
    assert [len(event.summary.value) for event in EventFileLoader(str(file)).Load()] == [
        0,
        64,
        64,
        22,
    ]


def test_the_step_option_goes_before_the_name(tmp_path):
    result = run("log", save(tmp_path / "step9.npz"), "--log-dir", tmp_path / "runs", "--step", 4)
    assert "at step 4\n" in result.stdout
    assert {step for _, step in read_histograms(tmp_path / "runs")} == {4}


def test_a_name_without_a_step_is_step_0_and_says_so(tmp_path):
    result = run("log", save(tmp_path / "model.npz"), "--log-dir", tmp_path / "runs")
    assert "at step 0 (0 where the name of a file tells none)\n" in result.stdout
    assert {step for _, step in read_histograms(tmp_path / "runs")} == {0}


def test_shards_are_one_checkpoint(tmp_path):
    for number, tag in enumerate(TENSORS, 1):
        save(tmp_path / f"model-0000{number}-of-00003.safetensors", {tag: TENSORS[tag]})
    weight_map = {tag: f"model-0000{n}-of-00003.safetensors" for n, tag in enumerate(TENSORS, 1)}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert run("log", index, "--log-dir", tmp_path / "runs").exit_code == 0
    assert {tag for tag, _ in read_histograms(tmp_path / "runs")} == set(TENSORS)


def test_bfloat16_of_torch(tmp_path, need):
    torch = need("torch")
    torch.save(
        {"model": {"w": torch.full((6,), 1.5, dtype=torch.bfloat16)}}, tmp_path / "step=3.pt"
    )
    assert run("log", tmp_path / "step=3.pt", "--log-dir", tmp_path / "runs").exit_code == 0
    written = read_histograms(tmp_path / "runs")["model/w", 3]
    assert (written.num, written.min, written.sum) == (6, 1.5, 9)


def test_tensors_that_cannot_be_counted_are_left_out_and_named(tmp_path):
    odd = {f"text{n}": np.array(["a"]) for n in range(4)}
    path = save(tmp_path / "m.npz", odd | {"good": np.ones(3)})
    result = run("log", path, "--log-dir", tmp_path / "runs")
    assert result.exit_code == 0
    assert result.stderr == (
        "fasthist: left out 4: text0: the numpy type '<U1' cannot be counted; text1: the numpy type '<U1' "
        "cannot be counted; text2: the numpy type '<U1' cannot be counted; and 1 more\n"
    )
    assert "1 histogram of 24 bytes" in result.stdout
    assert set(read_histograms(tmp_path / "runs")) == {("good", 0)}


def test_all_nan_is_no_failure(tmp_path):
    result = run(
        "log", save(tmp_path / "m.npz", {"w": np.full(3, np.nan)}), "--log-dir", tmp_path / "runs"
    )
    assert result.exit_code == 0, result.stderr


# ---- what goes wrong


def test_a_missing_file(tmp_path):
    result = run("log", tmp_path / "gone.npz", "--log-dir", tmp_path / "runs")
    assert one_line(result) == f"fasthist: {tmp_path}/gone.npz: No such file or directory\n"


def test_a_bad_file_costs_itself_alone(tmp_path):
    good, bad = save(tmp_path / "step1.npz"), tmp_path / "step2.safetensors"
    bad.write_bytes(b"\xff" * 100)
    gone = tmp_path / "gone.npz"
    result = run("log", bad, gone, good, "--log-dir", tmp_path / "runs")
    assert result.exit_code == 1
    assert "3 histograms of 8.4 kB at step 1" in result.stdout
    assert result.stderr.startswith(f"fasthist: {bad}: its header should take")
    assert result.stderr.endswith(f"; {gone}: No such file or directory\n")
    assert set(read_histograms(tmp_path / "runs")) == {(tag, 1) for tag in TENSORS}
    assert "step2.safetensors: its header" in one_line(
        run("log", bad, gone, "--log-dir", tmp_path / "none")
    )
    assert not (tmp_path / "none").exists()


def test_a_torch_file_with_tensors_that_cannot_be_counted(tmp_path, need):
    torch = need("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls some of them prototypes
        tensors = {
            "coo": torch.eye(3).to_sparse(),
            "csr": torch.eye(3).to_sparse_csr(),
            "quantised": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
            "meta": torch.ones(3, device="meta"),
            "complex": torch.ones(3, dtype=torch.complex64),
        }
    for is_zip in (True, False):
        path, runs = tmp_path / f"{is_zip}.pt", tmp_path / f"runs{is_zip}"
        saved = {"first": torch.ones(3), **tensors, "last": torch.arange(7.0)}
        torch.save(saved, path, _use_new_zipfile_serialization=is_zip)
        done = process("log", path, "--log-dir", runs)
        assert done.returncode == 0, done.stderr
        assert done.stderr.startswith("fasthist: left out 5: coo: a sparse_coo torch tensor")
        assert done.stderr.count("\n") == 1
        found = read_histograms(runs)
        assert {tag: histogram.sum for (tag, _), histogram in found.items()} == {
            "first": 3,
            "last": 21,
        }


def test_a_torchscript_archive(tmp_path, need):
    torch = need("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "m.pt")
    done = process("log", tmp_path / "m.pt", "--log-dir", tmp_path / "runs")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"fasthist: {tmp_path}/m.pt: it is a TorchScript archive, which holds code. Accepted are files of torch.save: "
        "save torch.jit.load(...).state_dict() with it.\n"
    )


def test_damage_found_later_keeps_what_was_written(tmp_path):
    good, bad = save(tmp_path / "step1.npz"), save(tmp_path / "step2.npz")
    content = bytearray(bad.read_bytes())
    content[content.index(TENSORS["fc.weight"].tobytes()) + 100] ^= 1
    bad.write_bytes(content)
    result = run("log", bad, good, "--log-dir", tmp_path / "runs")
    assert result.exit_code == 1
    assert "step2.npz: member 'fc.weight.npy': its bytes do not have the CRC-32" in result.stderr
    assert result.stderr.count("\n") == 1
    expected = {(tag, step) for tag in TENSORS for step in (1, 2)} - {("fc.weight", 2)}
    assert set(read_histograms(tmp_path / "runs")) == expected


def test_nothing_that_can_be_counted(tmp_path):
    path = save(tmp_path / "m.npz", {"text": np.array(["a"])})
    result = run("log", path, "--log-dir", tmp_path / "runs")
    assert "no tensor can be counted: text: the numpy type '<U1' cannot be counted" in one_line(
        result
    )
    assert not (tmp_path / "runs").exists()
    empty = save(tmp_path / "empty.npz", {})
    assert "the files hold none" in one_line(run("log", empty, "--log-dir", tmp_path / "runs"))


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "runs").write_text("in the way")
    path = save(tmp_path / "m.npz")
    expected = (
        f"fasthist: cannot write {tmp_path}/runs: File exists. Free space, give permission or choose another "
        "--log-dir; what was written before is kept.\n"
    )
    assert one_line(run("log", path, "--log-dir", tmp_path / "runs")) == expected
    done = process("log", path, "--log-dir", tmp_path / "runs")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)
    result = run("demo", "--epochs", 1, "--log-dir", tmp_path / "runs")
    assert f"cannot write {tmp_path}/runs/good_init: Not a directory. Free" in one_line(result)
    assert (tmp_path / "runs").read_text() == "in the way"


def test_a_full_disk_keeps_what_was_written(tmp_path):
    paths = [save(tmp_path / f"step{step}.npz") for step in range(40)]
    done = process("log", *paths, "--log-dir", tmp_path / "runs", code=FULL_DISK)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"fasthist: cannot write {tmp_path}/runs/events.out.tfevents.")
    assert "File too large" in done.stderr
    assert done.stderr.count("\n") == 1
    steps = {step for _, step in read_histograms(tmp_path / "runs")}
    assert steps == set(range(max(steps) + 1))
    assert 0 < max(steps) < 39


def test_two_files_of_one_step(tmp_path):
    first, second = save(tmp_path / "a_step1.npz"), save(tmp_path / "b_step1.npz")
    line = one_line(run("log", first, second, "--log-dir", tmp_path / "runs"))
    assert f"{first} and {second} both hold 'fc.weight' at step 1. " in line
    assert "--step" in line
    other = save(tmp_path / "step2.npz")
    assert "at step 5" in one_line(
        run("log", first, other, "--log-dir", tmp_path / "runs", "--step", 5)
    )
    assert "both hold" in one_line(run("log", first, first, "--log-dir", tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_two_files_of_one_step_without_a_shared_tag(tmp_path):
    paths = [save(tmp_path / f"{tag}_step1.npz", {tag: np.ones(2)}) for tag in "ab"]
    assert run("log", *paths, "--log-dir", tmp_path / "runs").exit_code == 0
    assert set(read_histograms(tmp_path / "runs")) == {("a", 1), ("b", 1)}


def test_a_url_that_cannot_be_written_to(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    result = run("log", save(tmp_path / "m.npz"), "--log-dir", "s3://bucket/runs")
    assert "'s3://bucket/runs'" in one_line(result)
    assert "pip install 'fasthist[fsspec]'" in one_line(result)


@pytest.mark.parametrize(
    "arguments",
    [
        ["log"],
        ["log", "a.npz"],
        ["log", "a.npz", "--log-dir", "runs", "--step", "-1"],
        ["log", "a.npz", "--log-dir", "runs", "--threads", "0"],
        ["demo", "--epochs", "0"],
        ["dance"],
    ],
)
def test_wrong_use_is_exit_code_2(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize("arguments", [[], ["demo"], ["log"]])
def test_help_has_an_example(arguments):
    result = run(*arguments, "--help")
    assert result.exit_code == 0
    assert "\n  Example:\n    fasthist " in result.output
    assert "\n    tensorboard --logdir runs/" in result.output


def test_version():
    assert run("--version").output == f"fasthist, version {fasthist.__version__}\n"


# ---- as a process


def process(*arguments, code: str | None = None, **options):
    start = ["-c", code] if code else ["-m", "fasthist"]
    return subprocess.run(
        [sys.executable, *start, *map(str, arguments)], capture_output=True, text=True, **options
    )


def test_import_is_light():
    heavy = {"numba", "torch", "sklearn", "tensorboard", "rich", "numpy"}
    code = f"import fasthist.cli, sys; print(set(sys.modules) & {heavy})"
    assert process(code=code).stdout == "set()\n"


@pytest.mark.parametrize("damage", ["missing", "corrupt", "truncated"])
def test_a_process_ends_with_one_line_and_exit_code_1(tmp_path, damage):
    path = save(tmp_path / "model.safetensors")
    if damage == "missing":
        path.unlink()
    elif damage == "corrupt":
        path.write_bytes(b"\xff" * 200)
    else:
        path.write_bytes(path.read_bytes()[:-10])
    done = process("log", path, "--log-dir", tmp_path / "runs")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"fasthist: {path}: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


FULL_DISK = """
import logging, resource, signal
import fasthist
from fasthist.cli import main

logging.getLogger("fasthist").setLevel(logging.ERROR)  # that kernels are compiled is not what this is about
fasthist.warmup()  # cached before files may not grow any more
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
main()
"""


INTERRUPTED = """
import signal
import fasthist
from fasthist.cli import main

histogram, calls = fasthist.histogram, []

def interrupted(*args, **kwargs):
    calls.append(1)
    if len(calls) == 5:
        signal.raise_signal(signal.SIGINT)
    return histogram(*args, **kwargs)

fasthist.histogram = interrupted
main()
"""


def test_ctrl_c_is_quiet_and_keeps_what_was_written(tmp_path):
    paths = [save(tmp_path / f"step{step}.npz") for step in (1, 2)]
    done = process("log", *paths, "--log-dir", tmp_path / "runs", code=INTERRUPTED)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    # The second tensor of the second file was being counted.
    expected = {(tag, 1) for tag in TENSORS} | {("fc.weight", 2)}
    assert set(read_histograms(tmp_path / "runs")) == expected


def test_a_closed_pipe_is_no_traceback(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "fasthist", "--version"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert (done.returncode, done.stderr) == (1, "")
    path = save(tmp_path / "step1.npz")
    done = subprocess.run(
        [sys.executable, "-m", "fasthist", "log", str(path), "--log-dir", str(tmp_path / "runs")],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
    assert len(read_histograms(tmp_path / "runs")) == 3


def read_terminal(terminal: int) -> str:
    """Read until the other side is closed, which Linux reports as an error."""
    seen = b""
    with contextlib.suppress(OSError):
        while piece := os.read(terminal, 65_536):
            seen += piece
    os.close(terminal)
    return seen.decode()


def test_a_terminal_sees_a_progress_bar_and_stdout_does_not(tmp_path):
    path = save(tmp_path / "step1.npz")
    terminal, stderr = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "fasthist", "log", str(path), "--log-dir", str(tmp_path / "runs")],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    ) as command:
        os.close(stderr)
        seen = read_terminal(terminal)
        stdout = command.communicate()[0]
    assert command.returncode == 0
    assert "counting" in seen
    assert "8.4/8.4 kB" in seen
    assert stdout.count("\n") == 2
    assert "counting" not in stdout


MEASURE = """
import resource, sys
from fasthist.cli import main

small, large, log_dir = sys.argv[1:]
main(["log", small, "--log-dir", log_dir], standalone_mode=False)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
main(["log", large, "--log-dir", log_dir], standalone_mode=False)
more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert more < 150_000, more  # kB: less than two of its six tensors
"""


def test_a_large_file_is_logged_tensor_by_tensor(tmp_path):
    count = 25_000_000
    header = json.dumps(
        {
            f"w{n}": {
                "dtype": "F32",
                "shape": [count],
                "data_offsets": [4 * count * n, 4 * count * (n + 1)],
            }
            for n in range(6)
        }
    ).encode()
    large = tmp_path / "step2.safetensors"
    with large.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 24 * count)  # sparse: takes no room on the disk
    small = save(tmp_path / "step1.safetensors", {"w": np.ones(100, "f4")})
    done = process(small, large, tmp_path / "runs", code=MEASURE)
    assert done.returncode == 0, done.stderr
    found = read_histograms(tmp_path / "runs")
    assert {key: histogram.num for key, histogram in found.items() if key[1] == 2} == {
        (f"w{n}", 2): count for n in range(6)
    }
