"""Short schedules of calls and faults, each known by its number; ``python tests/test_schedules.py N`` tells one step by step.

The first 300 are run here; FASTHIST_SCHEDULES=10000 runs more.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import schedules

COUNT = int(os.environ.get("FASTHIST_SCHEDULES", "300"))
PARTS = 10

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and looks at inodes"),
    pytest.mark.filterwarnings("ignore:.*multi-?threaded"),  # a fork beside pytest's threads
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


@pytest.mark.parametrize("part", range(PARTS))
def test_schedules(part):
    failed = {}
    for number in range(part, COUNT, PARTS):
        problems = schedules.run(number)
        if problems:
            failed[number] = problems
    assert not failed


def test_tensorboard_reads_what_schedules_leave():
    failed = {}
    for number in range(0, 60, 2):
        problems = schedules.run(number, then=schedules.Schedule.check_with_tensorboard)
        if problems:
            failed[number] = problems
    assert not failed


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        found = schedules.run(int(argument), verbose=True)
        print(f"schedule {argument}: {len(found)} problems")  # noqa: T201
