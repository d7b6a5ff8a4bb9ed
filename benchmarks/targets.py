"""What the suite has to show: each claim with its threshold, and how a run answers it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from results import (
    NotMeasured,
    Run,
    bytes_text,
    cut,
    rate_text,
    ratio_text,
    seconds_text,
    significant,
)

MAIN = "tensorflow/float32/normal/1e8"
MODEL = "float32/transformer"
SKEWED = ("uniform", "all equal", "90 % zeros", "lognormal", "sorted")


@dataclass(frozen=True)
class Target:
    """A claim.

    Parameters
    ----------
    what : str
    at_least : str
        The threshold, as text.
    judge : callable
        ``judge(run)`` gives the measurement as text, and whether the claim holds.
    """

    what: str
    at_least: str
    judge: Callable[[Run], tuple[str, bool]]

    def row(self, run: Run) -> tuple[str, str, str, str]:
        """Give what, threshold, measurement and verdict."""
        try:
            measured, holds = self.judge(run)
        except NotMeasured as error:
            return self.what, self.at_least, str(error), "unknown"
        return self.what, self.at_least, measured, "yes" if holds else "**no**"


def faster(what: str, name: str, library: str, times: float) -> Target:
    """Claim that a library takes at least so many times as long as we do."""

    def judge(run: Run) -> tuple[str, bool]:
        ratio = run.ratio(name, library)
        ours, theirs = run.median(name), run.median(name, library)
        text = f"{ratio_text(ratio)} ({seconds_text(ours)} against {seconds_text(theirs)})"
        return text, ratio >= times

    return Target(what, f">= {times:g}x", judge)


def share_of(what: str, name: str, library: str, share: float) -> Target:
    """Claim a share of another rate, in elements."""

    def judge(run: Run) -> tuple[str, bool]:
        ours, theirs = run.rate(name), run.rate(name, library)
        text = f"{cut(ours / theirs):.2f} ({rate_text(ours)} of {rate_text(theirs)})"
        return text, ours >= share * theirs

    return Target(what, f">= {share:g}", judge)


def at_most(
    what: str, name: str, limit: float, text: Callable[[float], str], library: str = "fasthist"
) -> Target:
    """Claim that a median does not exceed a limit."""

    def judge(run: Run) -> tuple[str, bool]:
        median = run.median(name, library)
        return text(median), median <= limit

    return Target(what, f"<= {text(limit)}", judge)


def _slowest(run: Run) -> tuple[str, bool]:
    shares = {}
    for distribution in SKEWED:
        name = f"tensorflow/float32/{distribution}/1e8"
        shares[distribution] = run.rate(name) / run.rate(name, "fasthist on normal")
    slowest = min(shares, key=lambda distribution: shares[distribution])
    return f"{cut(shares[slowest]):.2f} ({slowest})", shares[slowest] >= 0.6


def _growth(run: Run) -> tuple[str, bool]:
    growth = run.rate(MAIN, "fasthist on 1e7") / run.rate(MAIN)
    return f"{growth:.3f}x", growth <= 1.1


def _times_as_long(name: str) -> Callable[[Run], tuple[str, bool]]:
    def judge(run: Run) -> tuple[str, bool]:
        times = 1 / run.ratio(name, 'fasthist, "tensorflow"')
        return f"{times:.2f}x", times <= 1.5

    return judge


def slowed(what: str, name: str, percent: float | None) -> Target:
    """Claim that a training loop is slowed by less than so many per cent; without a number, tell only."""

    def judge(run: Run) -> tuple[str, bool]:
        plain = run.median(name, "no logging")
        by = {}
        for library in ("fasthist", "torch"):
            by[library] = run.median(name, library) / plain - 1
        text = (
            f"{by['fasthist']:+.1%} (torch's add_histogram: {significant(by['torch'] * 100)} %; "
            f"a step without: {seconds_text(plain)})"
        )
        return text, percent is None or by["fasthist"] < percent / 100

    return Target(what, f"< {percent:g} %" if percent is not None else "-", judge)


def waited(what: str, name: str, percent: float) -> Target:
    """Claim that a training loop waits for its logger for less than so many per cent of its time."""

    def judge(run: Run) -> tuple[str, bool]:
        plain = run.median(name, "no logging")
        share = run.median(name, "fasthist, in the call") / plain
        text = f"{significant(share * 100)} % (whole blocks: {run.median(name, 'fasthist') / plain - 1:+.1%}; a step without: {seconds_text(plain)})"
        return text, share < percent / 100

    return Target(what, f"< {percent:g} %", judge)


def _targets() -> Iterator[Target]:
    counting = 'float32, 1e8 normals, "tensorflow"'
    torch = "against torch make_histogram"
    yield faster(f"{counting}: {torch} as add_histogram calls it", MAIN, "torch make_histogram", 30)
    yield faster(
        f"{counting}: {torch} of the float32 array itself", MAIN, "torch make_histogram, unconverted", 30
    )  # fmt: skip
    yield share_of(f"{counting}: share of torch.sum's rate", MAIN, "torch.sum", 0.25)
    yield faster(f"{counting}: 2 threads against 1", MAIN, "fasthist, 1 thread", 1.8)
    yield Target("the slowest distribution, share of the rate for normals", ">= 0.6", _slowest)
    for format in ("bfloat16", "float16", "float8_e4m3fn", "int8"):
        yield share_of(
            f"{format}: share of torch.sum float32's rate, in elements",
            f"tensorflow/{format}/normal/1e8", "torch.sum float32", 0.33,
        )  # fmt: skip
    yield share_of(
        "float64: share of torch.sum float64's rate", "tensorflow/float64/normal/1e8", "torch.sum", 0.25
    )  # fmt: skip
    uniform = "uniform/float32/normal/1e8"
    for library, times in (
        ("numpy.histogram", 15),
        ("fast-histogram", 4),
        ("fast-histogram, range known", 4),
        ("boost-histogram, 2 threads", 4),
        ("boost-histogram, 2 threads, range known", 4),
    ):
        yield faster(f"64 uniform buckets of 1e8: against {library}", uniform, library, times)
    yield faster(
        "104-tensor float32 model until it returns: against torch's loop",
        f"add_histograms, returns/{MODEL}", "torch", 60,
    )  # fmt: skip
    yield faster(
        "the same until it is on disk", f"add_histograms, on disk/{MODEL}", "torch", 40
    )  # fmt: skip
    small, small_event = "tensorflow/float32/normal/64", "add_histogram/float32/normal/64"
    yield at_most("`histogram` of 64 elements", small, 20e-6, seconds_text)
    yield faster(f"`histogram` of 64 elements: {torch}", small, "torch make_histogram", 30)
    yield at_most("`add_histogram` of 64 elements", small_event, 40e-6, seconds_text)
    yield faster("`add_histogram` of 64 elements: against torch's", small_event, "torch", 80)
    yield slowed(
        "training the 104-tensor transformer, weights and gradients at every step: slowed by",
        "training step, transformer, every step", 5,
    )  # fmt: skip
    yield slowed(
        "training a 104-tensor MLP of short steps, the same", "training step, mlp, every step", None
    )  # fmt: skip
    yield waited(
        "the transformer on one sentence of 64 words, every 100th step: waits for its logger",
        "training step, transformer, every 100th", 0.5,
    )  # fmt: skip
    yield slowed("the MLP, every 100th step", "training step, mlp, every 100th", None)
    yield at_most("`import fasthist` beyond numpy", "import beyond numpy", 0.03, seconds_text)
    yield at_most(
        "import and first histogram, warm cache", "first histogram, warm cache", 1, seconds_text
    )
    yield at_most(
        "import and first histogram, cold cache", "first histogram, cold cache", 8, seconds_text
    )
    yield Target("time for an element, 1e8 against 1e7", "<= 1.1x", _growth)
    yield at_most("extra memory for 1e8 float32", "extra memory", 8 << 20, bytes_text)
    for call, until in (("auto", "`histogram`"), ("auto, drawn", "`histogram` and `to_raw`")):
        for size in ("1e3", "1e6", "1e8"):
            name = f"{call}/float32/normal/{size}"
            yield Target(
                f'"auto" against "tensorflow", {until} of {size}', "<= 1.5x", _times_as_long(name)
            )
    yield at_most("an event of 1e6 normals", "event of 1e6 normals", 4200, bytes_text)
    yield at_most(
        "the writer's thread holds the interpreter's lock, for a histogram of the 104-tensor model",
        "writer's thread, interpreter's lock for a histogram", 20e-6, seconds_text,
    )  # fmt: skip
    for reader, times in (("TensorBoard's Python loader", 20), ("tbparse", 1)):
        yield faster(
            f"reading a histogram back: against {reader}", "reading a histogram back", reader, times
        )


TARGETS = tuple(_targets())
