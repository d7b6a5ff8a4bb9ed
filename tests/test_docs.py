"""What the documentation shows runs, and what a docstring lists exists."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest
from test_layers import PACKAGE, modules

README = Path(__file__).parents[1] / "README.md"
MUST_SHOW_AN_EXAMPLE = {"fasthist.compute", "fasthist.summary_writer"}
NAMES = [f"fasthist.{name}" for name, _ in modules(PACKAGE)]
NEEDS = {
    "fasthist.dask_arrays": ["dask.array"],
    "fasthist.distributed": ["torch"],
    "fasthist.adapters.torch": ["torch"],
    "fasthist.adapters.torch_writer": ["torch", "tensorboard"],
    "fasthist.adapters.lightning": ["torch", "lightning.pytorch"],
    "fasthist.adapters.transformers": ["torch", "tensorboard", "transformers"],
    "fasthist.adapters.keras": ["keras"],
    "fasthist.adapters.tensorflow": ["tensorflow"],
    "fasthist.adapters.jax": ["jax"],
    "fasthist.adapters.jax_counts": ["jax"],
    "fasthist.adapters.jax_processes": ["jax"],
}
"""Packages without which a module cannot be imported."""


def fenced(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text("utf-8"), flags=re.DOTALL)


def test_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = fenced("python")
    assert len(blocks) == 6
    exec(compile("\n".join(blocks), str(README), "exec"), {})
    assert "Histogram(num=1000000" in capsys.readouterr().out
    assert len(list(tmp_path.glob("runs/example/events.out.tfevents.*"))) == 1


def test_pictures_are_there():
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", README.read_text("utf-8"))
    assert pictures
    assert all((README.parent / picture).is_file() for picture in pictures)


@pytest.mark.parametrize("name", NAMES)
def test_docstring_examples_run(name, need, request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for package in NEEDS.get(name, ["numba_cuda"] * name.startswith("fasthist.kernels.cuda.")):
        need(package)
    fixtures = {"getfixture": request.getfixturevalue}
    outcome = doctest.testmod(importlib.import_module(name), extraglobs=fixtures)
    assert outcome.failed == 0
    assert outcome.attempted > 0 or name not in MUST_SHOW_AN_EXAMPLE


def documented_parameters(docstring: str) -> list[str]:
    """Give the names in the Parameters section, `a, b` counting as two."""
    section = re.search(
        r"\nParameters\n-+\n(.*?)(\n\n\w[^\n]*\n-+\n|\Z)", docstring, flags=re.DOTALL
    )
    if section is None:
        return []
    heads = re.findall(r"^(?! )([\w, *]+?)(?: :.*)?$", section[1], flags=re.MULTILINE)
    return [name.strip(" *") for head in heads for name in head.split(",") if name.strip(" *")]


def functions(path: Path) -> list[tuple[str, ast.FunctionDef]]:
    return [
        (f"{path.relative_to(PACKAGE)}:{node.name}", node)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    ]


FUNCTIONS = [found for path in sorted(PACKAGE.rglob("*.py")) for found in functions(path)]


@pytest.mark.parametrize(("where", "node"), FUNCTIONS, ids=[where for where, _ in FUNCTIONS])
def test_documented_parameters_are_real(where, node):
    documented = documented_parameters(inspect.cleandoc(ast.get_docstring(node) or ""))
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    real = {argument.arg for argument in arguments} | {
        extra.arg for extra in (node.args.vararg, node.args.kwarg) if extra
    }
    assert set(documented) <= real, where


def test_that_check_can_fail():
    docstring = "Do.\n\nParameters\n----------\nvalues : int\n    Text, more.\na, b\n\nReturns\n-------\nint\n"
    assert documented_parameters(docstring) == ["values", "a", "b"]
