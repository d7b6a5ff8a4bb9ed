"""Options of the timed suite, and the file in which it keeps what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that `run.py` passes on."""
    group = parser.getgroup("fasthist")
    group.addoption("--records", default="", help="append each result to this file, as JSON lines")
    group.addoption("--quick", action="store_true", help="only the short suite")
    group.addoption("--only", default="", metavar="REGEX", help="only cases whose name matches")
    group.addoption(
        "--tiny",
        type=int,
        default=0,
        metavar="N",
        help="at most N elements: to see that everything works, not how fast",
    )


@pytest.fixture
def keep(request: pytest.FixtureRequest) -> Any:
    """Append a result to the file of --records, and show it."""
    path = request.config.getoption("--records")
    plugins = request.config.pluginmanager
    terminal = plugins.getplugin("terminalreporter")
    capture = plugins.getplugin("capturemanager")

    def keep_result(result: dict[str, Any]) -> None:
        if path:
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
        with capture.global_and_fixture_disabled():
            terminal.write_line("")
            terminal.write_line(shown(result))

    return keep_result


def shown(result: dict[str, Any]) -> str:
    """Give one line for each library of a result."""
    lines = [result["name"]]
    for library, found in result["libraries"].items():
        if "median" not in found:
            what = next(f"{key}: {found[key]}" for key in ("failed", "skipped") if key in found)
        elif "ratio" in found:
            what = f"{found['median']:.3g} s, {found['ratio']:.3g} of ours"
        else:
            what = f"{found['median']:.3g} {result['unit']}"
        lines.append(f"    {library:36} {what}")
    return "\n".join(lines)
