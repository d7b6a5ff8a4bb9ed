"""Does `fasthist.diagnose` name what is wrong, and say nothing of healthy runs? ``python benchmarks/illnesses.py``.

Trains small networks on scikit-learn's digits, healthy ones and the same with an illness planted in a known layer, each from
several seeds, which also choose the layer; logs them with ``fasthist.adapters.torch.watch`` and lets `diagnose` loose on
the event files. Leaves ``bench_results/illnesses/<date>_<commit>.json`` and a table beside it. The rules were made while
looking at the first two seeds, so the others are what counts.
"""

from __future__ import annotations

import functools
import json
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import torch
from planted import Plan, runs
from run import RESULTS, environment, new_path
from torch import nn

import fasthist
from fasthist.adapters.torch import watch

STEPS = 150
EVERY = 10
BATCH = 64
LOG = ("weights", "gradients", "updates", "activations")

SEEDS = 5
SEEN = 2
"""Of the seeds, those that the rules were made with."""


@functools.cache
def digits() -> tuple[Any, Any]:
    """Give scikit-learn's digits float32[1797, 64], standardised as a whole, and their labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.tensor(data.data, dtype=torch.float32)
    return (x - x.mean()) / x.std(), torch.tensor(data.target)


def train(plan: Plan, log_dir: Path, seed: int, steps: int = STEPS) -> float:
    """Train and log as planned; give the share of digits that are told right in the end."""
    images, labels = digits()
    rng = torch.Generator().manual_seed(seed)
    model = plan.model
    masters = list(model.parameters())
    if plan.half:
        masters = [nn.Parameter(one.detach().clone()) for one in masters]
        model = model.half()
        images = images.half()
    optimizer = plan.optimize(one for one in masters if one.requires_grad)
    with (
        fasthist.SummaryWriter(log_dir) as writer,
        watch(model, writer, log=LOG, every=EVERY) as watched,
    ):
        for step in range(steps):
            chosen = torch.randint(len(labels), (BATCH,), generator=rng)
            model.zero_grad()
            loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
            (loss * plan.loss_scale).backward()
            plan.before_step(step)
            if plan.half:
                for master, one in zip(masters, model.parameters(), strict=True):
                    master.grad = one.grad.float()
            optimizer.step()
            if plan.half:
                with torch.no_grad():
                    for master, one in zip(masters, model.parameters(), strict=True):
                        one.copy_(master)
            watched.step(step)
    with torch.no_grad():
        return float((model(images).argmax(dim=1) == labels).float().mean())


@dataclass
class Outcome:
    """What was found in one run.

    Attributes
    ----------
    illness : str
        "" for a healthy run.
    named : bool
        Whether the illness is named, with its layer (and step): for a healthy run, that nothing is.
    others : dict of str to int
        Findings above "info" by rule that are not of the illness: consequences of it, or false.
    """

    model: str
    illness: str
    seed: int
    accuracy: float
    seconds: float
    named: bool
    layers: list[str]
    rules: list[str]
    found: list[str]
    others: dict[str, int]
    infos: dict[str, int] = field(default_factory=dict)


def judge(
    model: str, illness: str, seed: int, plan: Plan, log_dir: Path, accuracy: float
) -> Outcome:
    """Diagnose a run, and compare with what was planted."""
    start = time.perf_counter()
    findings = fasthist.diagnose(fasthist.History.open(log_dir))
    seconds = time.perf_counter() - start
    grave = [one for one in findings if one.severity != "info"]
    hits = [
        one for one in grave
        if one.rule in plan.rules and one.layer in plan.layers and plan.step in (None, one.first_step)
    ]  # fmt: skip
    if plan.step is not None:  # where it began must be told apart from where it came to
        origin = min(one.first_step for one in grave if one.rule in plan.rules) if hits else None
        hits = hits if origin == plan.step else []
    rules = [one.rule for one in grave if one.rule not in plan.rules]
    infos = [one.rule for one in findings if one.severity == "info"]
    return Outcome(
        model, illness, seed, accuracy, seconds,
        named=bool(hits) if illness else not grave,
        layers=sorted(plan.layers), rules=sorted(plan.rules),
        found=[f"{one.rule} {one.severity} {one.tag} from {one.first_step}: {one.message}" for one in hits or grave],
        others={rule: rules.count(rule) for rule in sorted(set(rules))},
        infos={rule: infos.count(rule) for rule in sorted(set(infos))},
    )  # fmt: skip


def table(outcomes: list[Outcome]) -> str:
    """Format what was found in Markdown."""
    seeds = sorted({one.seed for one in outcomes})
    lines = []
    for title, chosen in (
        ("Seeds that the rules were made with", seeds[:SEEN]),
        ("Seeds held out", seeds[SEEN:]),
    ):
        here = [one for one in outcomes if one.seed in chosen]
        if not here:
            continue
        sick, healthy = (
            [one for one in here if bool(one.illness) is wanted] for wanted in (True, False)
        )
        lines += [
            f"\n## {title}\n",
            f"{_share(sick)} of the sick runs are named, with rule and layer;",
            f"{_share(healthy)} of the healthy ones have no finding above info.\n",
            "| illness | model | expected | named | also found above info |\n|---|---|---|---|---|",
        ]
        lines += [
            _row(illness, model, here)
            for illness, model in dict.fromkeys((one.illness, one.model) for one in here)
        ]
    return "\n".join(lines)


def _share(outcomes: list[Outcome]) -> str:
    named = sum(one.named for one in outcomes)
    return f"{named} of {len(outcomes)}"


def _row(illness: str, model: str, outcomes: list[Outcome]) -> str:
    same = [one for one in outcomes if (one.illness, one.model) == (illness, model)]
    expected = ", ".join(same[0].rules) or "nothing"
    others = sorted({rule for one in same for rule in one.others})
    return f"| {illness or 'healthy'} | {model} | {expected} | {_share(same)} | {', '.join(others) or '-'} |"


@click.command(epilog="Example: python benchmarks/illnesses.py --quick")
@click.option("--quick", is_flag=True, help="Seed 0 alone, and leave no file.")
@click.option(
    "--only",
    default="",
    metavar="TEXT",
    help="Of the sick runs, those whose 'model illness' holds this.",
)
@click.option("--results", default=RESULTS, type=click.Path(path_type=Path), help="Where files go.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep the event files there.")
def main(*, quick: bool, only: str, results: Path, keep: Path | None) -> None:
    """Train the labelled runs, diagnose them and leave a table."""
    torch.set_num_threads(1)  # these networks are too small for more
    start = time.perf_counter()
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        for model, illness, seed, make in runs(1 if quick else SEEDS, only):
            torch.manual_seed(seed)
            plan = make()
            log_dir = Path(
                keep or folder, f"{illness or 'healthy'}/{model}/{seed}".replace(", ", "_")
            )
            accuracy = train(plan, log_dir, seed)
            outcome = judge(model, illness, seed, plan, log_dir, accuracy)
            outcomes.append(outcome)
            sign = "named " if outcome.named else "MISSED"
            click.echo(
                f"{sign} {illness or 'healthy'}, {model}, seed {seed}, {accuracy:.0%} right; also {outcome.others}"
            )
            if not outcome.named:
                click.echo("\n".join(f"    {text}" for text in outcome.found[:8]))
    seconds = time.perf_counter() - start
    text = table(outcomes)
    click.echo(f"{text}\n\n{seconds:.0f} s")
    if quick:
        return
    about = environment()
    path = new_path(results / "illnesses", about["date"], about["commit"])
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        **about,
        "seconds": seconds,
        "steps": STEPS,
        "every": EVERY,
        "seen": SEEN,
        "runs": [asdict(one) for one in outcomes],
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    head = f"{about['date'][:10]}, commit {about['commit']}, {seconds:.0f} s: {STEPS} steps, each {EVERY}th logged."
    path.with_suffix(".md").write_text(f"{head}\n{text}\n", encoding="utf-8")
    click.echo(f"{path} and the table beside it")


if __name__ == "__main__":
    main()
