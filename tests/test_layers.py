"""The package has one reading order: a module imports only what stands above it."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fasthist

PACKAGE = Path(fasthist.__file__).parent
ORDER = (
    # what is a histogram?
    "errors",
    "packages",
    "dtypes",
    "buckets",
    "outline",
    "display",
    "quantiles",
    "merging",
    "conversions",
    "hist",
    "pending",
    # how is it counted?
    "kernels.slots",
    "kernels.chunks",
    "kernels.pool",
    "kernels.totals",
    "kernels.jit",
    "kernels.cpu",
    "kernels.cpu_buckets",
    "kernels.cpu_patterns",
    "kernels.batch",
    "kernels.packing",
    "kernels.sort",
    "kernels.looks",
    "kernels.outlines",
    "kernels.encoding",
    "kernels.transport",
    "kernels.answers",
    "kernels.host",
    # the same on a GPU
    "kernels.cuda.plan",
    "kernels.cuda.slots",
    "kernels.cuda.primitives",
    "kernels.cuda.formats",
    "kernels.cuda.walk",
    "kernels.cuda.count",
    "kernels.cuda.finish",
    "kernels.cuda.batch",
    "kernels.cuda.cubins",
    "kernels.cuda.driver",
    "kernels.cuda.simulated",
    "kernels.cuda.device",
    "kernels.cuda.tally",
    "kernels.cuda.upload",
    "kernels.cuda",
    "kernels",
    # how does data come in?
    "gpu_intake",
    "intake",
    "tree",
    "sharding",
    "dask_arrays",
    "stacked",
    "compute",
    "checkpoints.base",
    "checkpoints.names",
    "checkpoints.npy",
    "checkpoints.safetensors",
    "checkpoints.pickled",
    "checkpoints",
    # how does it go out?
    "arguments",
    "events.wire",
    "events.record",
    "events.fields",
    "events.messages",
    "events.files",
    "events.remote",
    "events.stored",
    "events.endings",
    "events.background",
    "events.writer",
    "events.foreign",
    "events.parsing",
    "events.restoring",
    "events.recordfile",
    "events.finding",
    "events.reader",
    "events.index",
    "events.restart",
    "events",
    # how is it added up over ranks?
    "agreement",
    "distributed",
    # how do you log it, and what does it tell?
    "series",
    "thinning",
    "raw_writer",
    "summary_writer",
    "plots.theme",
    "plots.axis",
    "plots.density",
    "plots.pictures",
    "plots.drawing",
    "plots.panels",
    "plots.figures",
    "plots.page",
    "plots.notebook",
    "plots",
    "tag_series",
    "history",
    "estimates",
    "distances",
    "readings",
    "rules",
    "diagnosis",
    "sinks",
    "adapters.watching",
    "adapters.torch_writer",
    "adapters.torch",
    "adapters.lightning",
    "adapters.transformers",
    "adapters.keras",
    "adapters.tensorflow",
    "adapters.jax_counts",
    "adapters.jax_processes",
    "adapters.jax",
    "adapters",
    "commands.terminal",
    "commands.options",
    "commands.runs",
    "commands.lines",
    "commands.export",
    "commands.show",
    "commands.differences",
    "commands.comparing",
    "commands.compare",
    "commands.doctor",
    "commands.plot",
    "rank_files",
    "commands.merge",
    "commands",
    "demo",
    "cli",
)
BYTES_ONLY = {"events.wire", "events.record"}
NEVER_COUNTS = {
    f"events.{name}"
    for name in (
        "wire", "record", "fields", "messages", "files", "remote", "stored", "endings", "background", "writer", "foreign",
    )
}  # fmt: skip
HEAVY = {
    "numba", "torch", "jax", "tensorflow", "tensorboard", "sklearn", "ml_dtypes", "cupy", "safetensors",
    "fsspec", "google.protobuf", "keras", "lightning", "transformers", "wandb", "matplotlib",
    "plotly", "pyarrow", "dask", "distributed",
}  # fmt: skip
MAY_IMPORT_AT_TOP = {
    **{f"kernels.{name}": {"numba"} for name in ("jit", "cpu", "batch", "cuda.primitives")},
    "adapters.torch_writer": {"torch"},  # an adapter is imported by who uses its framework
    "adapters.transformers": {"transformers"},
}


def modules(root: Path) -> list[tuple[str, ast.Module]]:
    found = []
    for path in sorted(root.rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        if name not in ("__init__", "__main__"):
            found.append((name, ast.parse(path.read_text("utf-8"))))
    return found


def place(name: str) -> int:
    """Give the place of the longest known prefix."""
    for size in range(name.count(".") + 1, 0, -1):
        prefix = ".".join(name.split(".")[:size])
        if prefix in ORDER:
            return ORDER.index(prefix)
    msg = f"fasthist.{name} has no place in ORDER: add it where a newcomer should read it"
    raise AssertionError(msg)


def own_imports(tree: ast.Module) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fasthist":
            base = (node.module or "").removeprefix("fasthist").lstrip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}".lstrip(".")
                found.append(full if full in ORDER else base)
        elif isinstance(node, ast.Import):
            found += [
                a.name.removeprefix("fasthist.")
                for a in node.names
                if a.name.startswith("fasthist.")
            ]
    return [name for name in found if name]


def top_level_imports(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names


def violations(root: Path) -> list[str]:
    bad = []
    for name, tree in modules(root):
        for target in own_imports(tree):
            inside = (
                target == name or target.startswith(name + ".") or name.startswith(target + ".")
            )
            if place(target) >= place(name) and not inside:
                bad.append(f"{name} imports {target}, which comes later in ORDER")
            if name in BYTES_ONLY and target != "errors":
                bad.append(f"{name} knows bytes only, yet imports {target}")
            if name in NEVER_COUNTS and target.split(".")[0] in (
                "kernels",
                "intake",
                "compute",
                "hist",
            ):
                bad.append(f"{name} must never import {target}")
        heavy = top_level_imports(tree) & HEAVY - MAY_IMPORT_AT_TOP.get(name, set())
        bad += [f"{name} imports {package} at module level" for package in sorted(heavy)]
    return bad


def test_imports_point_backwards():
    assert violations(PACKAGE) == []


def test_this_test_can_fail(tmp_path):
    (tmp_path / "hist.py").write_text("import torch\nfrom fasthist.compute import histogram\n")
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "wire.py").write_text("from fasthist.hist import Histogram\n")
    assert violations(tmp_path) == [
        "events.wire knows bytes only, yet imports hist",
        "events.wire must never import hist",
        "hist imports compute, which comes later in ORDER",
        "hist imports torch at module level",
    ]


def test_a_module_without_a_place_is_named(tmp_path):
    (tmp_path / "stray.py").write_text("from fasthist import errors\n")
    with pytest.raises(AssertionError, match=r"fasthist\.stray has no place"):
        violations(tmp_path)


def loaded(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sorted(set(sys.modules) & {HEAVY!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import fasthist",
        "import fasthist; fasthist.Histogram, fasthist.histogram, fasthist.SummaryWriter",
        "import fasthist.cli",
    ],
)
def test_importing_is_light(statement):
    assert loaded(statement) == set()


def test_counting_loads_numba_and_nothing_else():
    assert loaded("import fasthist; fasthist.histogram([1.0])") == {"numba"}


def test_no_public_name_is_also_a_module():
    """A lazy ``fasthist.x`` would be overwritten by the submodule ``x`` as soon as anything imports it."""
    assert set(fasthist.__all__) & {name.split(".")[0] for name, _ in modules(PACKAGE)} == set()


def test_every_public_name_resolves():
    assert all(
        getattr(fasthist, name).__module__.startswith("fasthist.") for name in fasthist.__all__
    )
    assert set(dir(fasthist)) >= set(fasthist.__all__)
    with pytest.raises(AttributeError, match="no attribute 'histgram'"):
        fasthist.histgram  # noqa: B018


# -- what a cached kernel depends on -------------------------------------------------------------------------------------


def compiled_in():
    """Name the modules that the kernels' own modules import when they are imported, and those that these import."""
    waiting = {f"kernels.{path.stem}" for path in (PACKAGE / "kernels").glob("[!_]*.py")}
    reached = set()
    while waiting:
        module = waiting.pop()
        reached.add(module)
        tree = ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fasthist"):
                base = (node.module or "").removeprefix("fasthist").removeprefix(".")
                for name in [base, *(f"{base}.{one.name}".strip(".") for one in node.names)]:
                    if name not in reached and (PACKAGE / f"{name.replace('.', '/')}.py").is_file():
                        waiting.add(name)
    return reached


def test_a_kernel_is_compiled_again_when_anything_compiled_in_changes(tmp_path):
    from fasthist.kernels import jit

    reached = compiled_in()
    assert {"buckets", "dtypes", "outline", "hist", "kernels.cpu", "kernels.slots"} <= reached
    assert not reached & {"cli", "compute", "tree"}
    package = tmp_path / "fasthist"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", "*.nb?"))
    assert jit.digest(package, "kernels/*.py") == jit._KERNELS
    for module in sorted(reached):
        path = package / f"{module.replace('.', '/')}.py"
        text = path.read_text(encoding="utf-8")
        path.write_text(text + "# changed\n", encoding="utf-8")
        assert jit.digest(package, "kernels/*.py") != jit._KERNELS, module
        path.write_text(text, encoding="utf-8")
    with (package / "compute.py").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert jit.digest(package, "kernels/*.py") == jit._KERNELS
