"""`diagnose`: what is wrong in a run, in which layer, since when, and what people do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fasthist.plots.notebook import findings_to_html
from fasthist.readings import Reading, Readings, role
from fasthist.rules import RULES, texts
from fasthist.tag_series import Series

SEVERITIES = ("info", "warning", "error")


@dataclass(frozen=True)
class Finding:
    """A problem that a rule has found in one tag.

    Attributes
    ----------
    rule : str
        One of ``fasthist.rules.RULES``.
    severity : {"info", "warning", "error"}
    tag : str
    first_step, last_step : int
        First and last logged step where it holds.
    value, threshold : float
        What was measured, and the limit that it is beyond.
    source : str
        Where the threshold comes from.
    layer : str
        The module that the tag belongs to.
    message : str
        The numbers in words.
    why, remedy : str
        Why it matters, and what people do about it.
    """

    rule: str
    severity: str
    tag: str
    first_step: int
    last_step: int
    value: float
    threshold: float
    source: str
    layer: str
    message: str
    why: str
    remedy: str


class Findings(list[Finding]):
    """A list of findings that notebooks show as a table."""

    def _repr_html_(self) -> str:
        return findings_to_html(self)


def diagnose(history: Mapping[str, Series], kinds: Mapping[str, str] | None = None) -> Findings:
    """Look for what is wrong in a run.

    Parameters
    ----------
    history : History
        One run. Its tags are expected in the order of the layers, the one nearest to the inputs first.
    kinds : mapping of str to str, optional
        Regular expressions, searched for in a tag, and the kind of such a tag: "weight", "gradient", "update" or
        "activation". The first match counts. Default, and for all other tags: what the name says, such as
        ``gradients/fc1.weight``, ``fc1.weight.grad`` and ``dense/kernel/histogram``.

    Returns
    -------
    Findings
        A list of `Finding`, the most severe first, then the earliest; "info" is nothing to worry about. Empty for a
        healthy run. Notebooks show it as a table.

    Raises
    ------
    ArgumentError
        `kinds` has another kind, or an invalid expression.
    EventFileError, OSError
        A file has changed, or cannot be read.

    Notes
    -----
    Rules, thresholds, their sources and the texts are in ``fasthist/rules.toml``. A tag of unknown kind is only checked
    for NaN and infinities. What a file does not tell is taken from its rows where they are fine enough, or not judged:
    TensorFlow's 30 equal rows tell no zeros. Other libraries' files only show that there are NaN and infinities, by
    extremes or edges that are not finite, and TensorFlow's rows not how many. At most 48 histograms of a tag are read,
    evenly spread; sums and extremes are checked for all steps.

    Examples
    --------
    >>> import fasthist
    >>> with fasthist.SummaryWriter("runs/a") as writer:
    ...     for step in range(10):
    ...         writer.add_histogram("gradients/fc1.weight", [1e-9, -2e-9, 3e-9], step)
    ...         writer.add_histogram("gradients/fc2.weight", [0.1, -0.2, 0.3], step)
    >>> for finding in fasthist.diagnose(fasthist.History.open("runs/a")):
    ...     print(finding.rule, finding.severity, finding.layer, finding.message)
    vanishing_gradient warning fc1 the root mean square of the gradient is 2.2e-09, below 1e-07
    underflow warning fc1 100.0% of the gradient that is not zero is at most 2**-24, more than 30%
    """
    findings = []
    with np.errstate(over="ignore", invalid="ignore"):  # a run that explodes overflows here too
        readings = [Reading(series, role(tag, kinds)) for tag, series in history.items()]
        layers = {reading.tag: reading.role.layer for reading in readings}
        run = Readings(readings)
        for name, rule in RULES.items():
            text = texts()[name]
            for hit in rule(run, text):
                check = text[hit.check]
                finding = Finding(
                    rule=name,
                    severity=check["severity"],
                    tag=hit.tag,
                    first_step=hit.first_step,
                    last_step=hit.last_step,
                    value=hit.value,
                    threshold=check["threshold"],
                    source=check["source"],
                    layer=layers[hit.tag],
                    message=check["says"].format(value=hit.value, threshold=check["threshold"]),
                    why=text["why"],
                    remedy=text["remedy"],
                )
                findings.append(finding)
    findings.sort(key=lambda each: (-SEVERITIES.index(each.severity), each.first_step))
    return Findings(findings)
