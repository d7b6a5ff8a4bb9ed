"""The benchmarks of what reads: once on little, and what the README says of their results."""

from __future__ import annotations

import json

import pytest
import results
from click.testing import CliRunner
from read_report import doctor_text, reading_text


def test_reading(need, tmp_path):
    need("tbparse")
    need("tensorboard")
    import reading

    arguments = ["--tags", "3", "--steps", "20", "--results", str(tmp_path)]
    done = CliRunner().invoke(reading.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    (path,) = (tmp_path / "reading").iterdir()
    content = json.loads(path.read_text("utf-8"))
    assert (content["tags"], content["steps"]) == (3, 20)
    for part, names in (("whole", 3), ("tenth", len(reading.LOADERS))):
        assert len(content[part]) == names
        assert all(one["seconds"] > 0 for one in content[part].values())
    table = reading_text(tmp_path / "reading").splitlines()
    assert len(table) == 4 + 3 + len(reading.LOADERS)
    assert "| fasthist compare | 3 tags x 20 steps, " in "\n".join(table)


def test_a_command_that_fails_is_no_result(tmp_path):
    import reading

    with pytest.raises(reading.subprocess.CalledProcessError):
        reading.measured([reading.sys.executable, "-m", "fasthist", "show", str(tmp_path)])


def test_the_most_memory_is_seen():
    import reading

    code = "import time; held = bytearray(b'x') * 100_000_000; time.sleep(0.5)"
    found = reading.measured([reading.sys.executable, "-c", code])
    assert found["bytes"] > 100_000_000
    assert 0.5 < found["seconds"] < 30


def test_illnesses(need, tmp_path, monkeypatch):
    need("torch")
    need("sklearn")
    import illnesses

    monkeypatch.setattr(illnesses, "SEEDS", 1)
    arguments = ["--only", "mlp dead_relu", "--results", str(tmp_path), "--keep", str(tmp_path)]
    done = CliRunner().invoke(illnesses.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert "named  dead_relu, mlp, seed 0" in done.stdout
    (path,) = (tmp_path / "illnesses").glob("*.json")
    (run,) = json.loads(path.read_text("utf-8"))["runs"]
    assert run["named"]
    assert run["layers"]
    assert "| dead_relu | mlp | dead | 1 of 1 |" in path.with_suffix(".md").read_text("utf-8")
    # Another model with the same illness planted elsewhere must not count as found.
    from planted import ILLNESSES, Plan
    from small_networks import mlp

    plan = ILLNESSES["dead_relu"](mlp, 0)
    elsewhere = Plan(plan.model, rules=plan.rules, layers=frozenset({"6"}))
    (log_dir,) = (tmp_path / "dead_relu" / "mlp").iterdir()
    assert not illnesses.judge("mlp", "dead_relu", 0, elsewhere, log_dir, 1.0).named


def test_what_is_said_of_held_out_seeds(tmp_path):
    runs = [
        {"seed": seed, "illness": illness, "named": named}
        for seed, illness, named in (
            (0, "dead", False),
            (1, "", False),
            (2, "dead", True),
            (2, "", True),
            (3, "dead", False),
        )
    ]
    content = {"date": "2026-01-02T03:04:05Z", "commit": "abc", "seen": 2, "runs": runs}
    (tmp_path / "a.json").write_text(json.dumps(content))
    text = doctor_text(tmp_path)
    assert "In 1 of 2 runs with a planted illness, of 2 seeds" in text
    assert "of 1 healthy runs 1 have no finding" in text


def test_nothing_is_said_without_a_file(tmp_path):
    assert "Not measured" in doctor_text(tmp_path / "illnesses")
    assert "Not measured" in reading_text(tmp_path / "reading")


def test_files_of_other_benchmarks_are_no_runs(tmp_path):
    (tmp_path / "reading").mkdir()
    (tmp_path / "reading" / "a.json").write_text('{"tags": 1}')
    assert results.newest(tmp_path) == []
