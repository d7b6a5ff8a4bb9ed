"""The timed suite, driven by pytest-benchmark; `run.py` starts it and keeps the results."""

from __future__ import annotations

import re
from typing import Any

import pytest
from cases import CASES
from figures import FIGURES
from measure import FULL, QUICK, measure


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Choose the cases that the options ask for."""
    quick = metafunc.config.getoption("--quick")
    only = re.compile(metafunc.config.getoption("--only"))
    if "case" in metafunc.fixturenames:
        chosen = [case for case in CASES.values() if case.quick or not quick]
        chosen = [case for case in chosen if only.search(case.name)]
        metafunc.parametrize("case", chosen, ids=[case.name for case in chosen])
    if "figure" in metafunc.fixturenames:
        figures = [figure for figure in FIGURES.values() if only.search(figure.name)]
        metafunc.parametrize("figure", figures, ids=[figure.name for figure in figures])


def failures(result: dict[str, Any]) -> list[str]:
    """Name what failed in a result."""
    return [
        f"{library}: {found['failed']}"
        for library, found in result["libraries"].items()
        if "failed" in found
    ]


def test_case(case: Any, benchmark: Any, keep: Any, request: pytest.FixtureRequest) -> None:
    """Time a case."""
    option = request.config.getoption
    plan = QUICK if option("--quick") else FULL
    result = measure(case, benchmark, plan, tiny=option("--tiny"))
    keep(result)
    assert not failures(result)


def test_figure(figure: Any, keep: Any, request: pytest.FixtureRequest) -> None:
    """Measure what is not a call: start-up, memory, bytes, a training loop."""
    option = request.config.getoption
    result = figure.measure(quick=option("--quick"), tiny=option("--tiny"))
    keep(result)
    assert not failures(result)
