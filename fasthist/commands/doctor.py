"""``fasthist doctor``: find what is wrong in a run, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import click

from fasthist.commands.options import example, readable, skip_corrupt_option, tag_option
from fasthist.commands.terminal import console_of, few, finite, progress, say
from fasthist.errors import ArgumentError, printable

if TYPE_CHECKING:
    from rich.console import Console

    from fasthist.diagnosis import Finding

_STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}

_KEYS = ("rule", "severity", "tag", "first_step", "last_step", "value", "threshold", "source", "layer", "message")  # fmt: skip


@click.command(
    epilog=example(
        "fasthist doctor runs/example --fail-on error",
        "fasthist doctor runs/example --kind '^d_=gradient' --json",
    )
)
@click.argument("run", type=readable)
@tag_option
@click.option(
    "--kind",
    "kinds",
    metavar="REGEX=KIND",
    multiple=True,
    help="Kind of the tags in which this is found: weight, gradient, update or activation. Default: by their names.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.option(
    "--fail-on",
    type=click.Choice(["warning", "error"]),
    help="Exit code 1 if a finding is at least this severe.",
)
@skip_corrupt_option
@click.pass_context
def doctor(
    ctx: click.Context, /, run: str, pattern: str | None, kinds: Sequence[str], fail_on: str | None,
    *, as_json: bool, skip_corrupt: bool,
) -> None:  # fmt: skip
    """Say what is wrong in a run: in which layer, since when, why it matters and what people do about it.

    RUN is an event file, a directory of runs, each of which is judged by itself, or the URL of either. It looks for
    vanishing and exploding gradients, dead and saturated layers, NaN and infinities, initial weights of a wrong size or
    sign, weights that grow or decay, steps that are too large or too small, frozen layers, values beyond float16,
    outliers and drift.
    """
    import json

    from fasthist.commands.runs import find_all_runs, matching, read_runs
    from fasthist.diagnosis import SEVERITIES, diagnose

    spoken = _parse_kinds(kinds)
    runs = find_all_runs(run, skip_corrupt=skip_corrupt)
    total = sum(history.nbytes for history in runs.values())
    with progress("reading", total, is_bytes=True) as advance:
        runs = read_runs(runs, advance)
    chosen = matching(list(dict.fromkeys(chain.from_iterable(runs.values()))), pattern)
    # Diagnose all tags: a layer is judged by its neighbours, its bias and its weights too.
    name2findings = {
        name: [finding for finding in diagnose(history, spoken) if finding.tag in chosen]
        for name, history in runs.items()
    }
    if as_json:
        rows = [
            ({"run": name} if len(runs) > 1 else {})
            | {key: finite(getattr(finding, key)) for key in _KEYS}
            for name, findings in name2findings.items()
            for finding in findings
        ]
        say(json.dumps(rows, indent=1, allow_nan=False))
    else:
        console = console_of()
        for name, findings in name2findings.items():
            if len(runs) > 1:
                console.print(f"run {printable(name)}", style="bold underline", markup=False)
            _print(console, findings, len(set(chosen) & set(runs[name])))
            if len(runs) > 1:
                console.print()
    severe = SEVERITIES[SEVERITIES.index(fail_on) :] if fail_on else ()
    if any(finding.severity in severe for finding in chain(*name2findings.values())):
        ctx.exit(1)


def _parse_kinds(texts: Sequence[str]) -> dict[str, str]:
    kinds = {}
    for text in texts:
        pattern, sign, kind = text.rpartition("=")
        if not sign or not pattern:
            msg = f"--kind={text!r} is not known. Accepted: REGEX=KIND, such as '^d_=gradient'."
            raise ArgumentError(msg)
        kinds[pattern] = kind
    return kinds


def _print(console: Console, findings: Sequence[Finding], tags: int) -> None:
    where = "1 tag" if tags == 1 else f"{tags} tags"
    if not findings:
        console.print(f"No findings in {where}.", markup=False)
        return
    _print_layers(console, findings)
    console.print()
    for rule in dict.fromkeys(finding.rule for finding in findings):
        same = [finding for finding in findings if finding.rule == rule]
        console.print(rule, style="bold", markup=False)
        console.print(f"  {same[0].why}", markup=False)
        console.print(f"  What people do: {same[0].remedy}", markup=False)
        sources = "; ".join(dict.fromkeys(finding.source for finding in same))
        console.print(f"  Threshold: {sources}.", style="dim", markup=False)
    severities = [finding.severity for finding in findings]
    counts = ", ".join(f"{severities.count(severity)} {severity}" for severity in _STYLES)
    console.print(f"\n{len(findings)} findings in {where}: {counts}.", markup=False)


def _print_layers(console: Console, findings: Sequence[Finding]) -> None:
    """Print findings layer by layer, the worst layer first; a line for each rule and severity."""
    from rich.text import Text

    layers: dict[str, dict[tuple[str, str], list[Finding]]] = {}
    for finding in findings:
        key = finding.rule, finding.severity
        layers.setdefault(finding.layer, {}).setdefault(key, []).append(finding)
    for layer, rules in layers.items():
        console.print(f"layer {printable(layer)}", style="bold", markup=False)
        for (rule, severity), same in rules.items():
            first = same[0]
            steps = f"step {first.first_step}"
            if first.last_step != first.first_step:
                steps += f" to {first.last_step}"
            line = Text("  ").append(f"{severity} {rule}", style=_STYLES[severity])
            line.append(f"  {printable(first.tag)}, {steps}: {first.message}")
            if len(same) > 1:
                line.append(f" (also {few([finding.tag for finding in same[1:]])})")
            console.print(line)
