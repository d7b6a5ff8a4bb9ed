"""Short schedules of calls and faults, each drawn from its number, and a model of what must be in the files afterwards.

The model knows nothing of how the package works. It notes what each call was given and whether it returned, and holds
the writer to its promises: what a flush or close that returned has acknowledged is in the files exactly once, nothing
else is, no file is torn, and what cannot be in them was named by an error.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import math
import os
import pickle
import random
import re
import shutil
import signal
import stat
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from unittest import mock

import numpy as np
from event_files import Event, crc32c, files, masked
from loaders import python_loader

import fasthist
from fasthist.errors import ArgumentError, FasthistError, WriteError
from fasthist.events import files as module
from fasthist.summary_writer import SummaryWriter

DROPPED = "fasthist/dropped_events"
CHANGED = re.compile("was cut from|was deleted|moved or replaced|another program has written")
TAGS = ["a", "b/weight", "b/bias", "c"]
ERRORS = [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EINTR, errno.EACCES]

# -- schedules -------------------------------------------------------------------------------------


def draw(number):
    """Give a schedule: lives, each the options of a writer, operations, and how it ends."""
    rng = random.Random(number)
    room, step, lives = rng.randint(5, 40), 0, []
    while room > 0:
        count = min(room, rng.randint(3, 40))
        room -= count
        ending = rng.choices(["close", "drop", "kill", "terminate"], [75, 13, 7, 5])[0]
        options, step = draw_options(rng, step), step + 1
        operations = []
        for _ in range(count):
            operation, step = draw_operation(
                rng, step, dies=ending == "kill", forks=ending in ("close", "drop")
            )
            operations.append(operation)
        lives.append((options, operations, ending))
    return lives


def draw_options(rng, step):
    """Give the arguments of a writer, most of them the defaults."""
    options = {
        "max_queue": rng.choice([0, 1, 3, 10, 10, 1000, np.int64(2), 10.0]),
        "flush_secs": rng.choice([120, 120, None, float("inf"), 0, 0.002, 1e10, np.float32(60)]),
        "max_file_bytes": rng.choice([None, None, None, 1, 200, 700, 3000]),
        "every": rng.choice([1, 1, 1, 3, 8]),
        "keep_last": rng.random() < 0.5,
        "when_full": rng.choice(["wait", "wait", "drop_oldest"]),
        "queue_bytes": rng.choice([64 << 20, 64 << 20, 1, 9000, 30_000]),
    }
    if step and rng.random() < 0.4:
        options["purge_step"] = rng.randint(0, step + 1)
    return options


def draw_operation(rng, step, *, dies, forks):
    """Give one operation with all that it needs, and the last step that was used."""
    kind = rng.choices(
        ["histogram", "histograms", "scalar", "raw", "odd", "bad", "burst", "flush", "fsync", "close",
         "fail", "heal", "harm", "die", "fork"],
        [22, 8, 14, 8, 5, 2, 2, 12, 6, 4, 12, 6, 4, 0.3, 1 if forks else 0],
    )[0]  # fmt: skip
    step += rng.randint(1, 3)
    tag = rng.choice(TAGS)
    if kind == "histogram":
        values = [float(step), step + 0.5] + [float("nan")] * rng.choice([0, 0, 0, 2])
        return (kind, step, tag, values, rng.random() < 0.2), step
    if kind == "histograms":
        return (kind, step, sorted(rng.sample(TAGS, 2))), step
    if kind == "scalar":
        return (kind, step, "loss", rng.random() < 0.3), step
    if kind in ("raw", "bad"):
        return (kind, step, tag), step
    if kind == "odd":
        return (kind, step, rng.randrange(len(ODD))), step
    if kind == "burst":
        return (kind, step + 1, 3), step + 9
    if kind == "fail":
        call = rng.choice(["write"] * 6 + ["fsync", "fsync", "open", "mkdir", "close", "truncate"])
        actions = ["error"] * 6
        if call == "write":
            actions += ["short", "short", "short then error", "short then error", "harm"]
            actions += ["kill"] * 4 * dies
        action = rng.choice(actions)
        what = rng.choice(HARMS) if action == "harm" else rng.choice(ERRORS)
        times = rng.choice([1, 1, 2, 10**9]) if action == "error" else 1
        return (kind, call, rng.randint(0, 4), times, action, what, rng.random()), step
    if kind == "harm":
        return (kind, rng.choice(HARMS), rng.random()), step
    if kind == "die":
        return (
            kind,
            rng.choice(["write", "write", "fsync", "open"]),
            rng.randint(0, 2),
            rng.random(),
        ), step
    if kind == "fork":
        sides, ending = [], rng.choice(["close", "close", "kill", "terminate"])
        for side in (ending == "kill", False):
            operations = []
            for _ in range(rng.randint(1, 4)):
                operation, step = draw_operation(rng, step, dies=side, forks=False)
                while operation[0] == "harm" or "harm" in operation[4:5]:
                    operation, step = draw_operation(rng, step, dies=side, forks=False)
                operations.append(operation)
            sides.append(operations)
        return (kind, *sides, ending), step
    return (kind,), step


ODD = [
    # what is called, and whether that is accepted
    (lambda w, step: w.add_histogram("odd", [step, step + 0.5], step, max_bins=50.0), True),
    (lambda w, step: w.add_histogram("odd", [step, step + 0.5], np.float32(step)), True),
    (lambda w, step: w.add_scalar("odd/scalar", np.array([1.0]), step), True),
    (lambda w, step: w.add_scalar("odd/scalar", float("nan"), step), True),
    (lambda w, _: w.add_histogram("odd", [1.0, 2.0], float("nan")), False),
    (lambda w, _: w.add_scalar("odd", 1.0, "step"), False),
    (lambda w, _: w.add_scalar("odd", 1.0, 2**63), False),
    (lambda w, step: w.add_scalar("odd", "one", step), False),
    (lambda w, step: w.add_scalar("\ud800", 1.0, step), False),
    (lambda w, step: w.add_histogram("odd", object(), step), False),
    (lambda w, step: w.add_histogram("odd", [1.0, 2.0], step, max_bins=0), False),
    (lambda w, step: w.add_histogram("odd", [1.0, 2.0], step, max_bins=2.5), False),
    (lambda w, step: w.add_histogram("odd", [1.0, 2.0], step, walltime=float("inf")), False),
    (lambda w, step: w.add_histogram_raw("odd", 0, float("inf"), 1, 1, 1, [1], [1], step), False),
    (lambda w, step: w.add_histogram_raw("odd", 0, 1, 1, 1, 1, [1, 0], [1, 1], step), False),
    (lambda w, _: SummaryWriter(w.log_dir + "-odd", flush_secs=float("nan")), False),
    (lambda w, _: SummaryWriter(w.log_dir + "-odd", max_queue=2.5), False),
    (lambda w, _: SummaryWriter(w.log_dir + "-odd", queue_bytes=0), False),
    (lambda w, _: SummaryWriter(w.log_dir + "-odd", max_file_bytes="1"), False),
    (lambda w, _: SummaryWriter(w.log_dir + "-odd", every=0), False),
    (lambda w, _: SummaryWriter(w.log_dir + "-odd", when_full="raise"), False),
]  # fmt: skip

# -- the disk --------------------------------------------------------------------------------------

HARMS = ["empty", "cut", "remove", "replace", "remove the directory", "append"]


LOCK = threading.RLock()
"""Held while something changes a file, and by who forks: the child closes files before anything else."""


class Death(BaseException):
    """What ends a thread."""


@dataclass
class Plan:
    """A fault to come: after some calls, so many times."""

    call: str
    after: int
    times: int
    action: str
    what: object = None
    fraction: float = 0.0


class Disk:
    """Stands between a writer and the file system: fails as planned, and notes what is on the disk."""

    def __init__(self, log_dir, max_file_bytes):
        self.log_dir = log_dir
        self.full_size = max_file_bytes or math.inf
        self.note = lambda: None
        self.lock = LOCK
        self.plans = []
        self.met = set()  # names of calls that failed
        self.made = []  # directories and files, of this process
        self.open = {}
        self.synced = {}  # size of a file, or entries of a directory, as last synced
        self.destroyed = Counter()  # keys of records that others have destroyed
        self.harmed = set()  # files whose end is not ours
        self.changed = set()  # open files that others have changed, until an error names them
        self.settled = set()  # files that need not be named, or were

    def meet(self, call):
        for plan in self.plans:
            if plan.call == call and plan.times:
                if plan.after:
                    plan.after -= 1
                    continue
                if plan.action == "die" and threading.current_thread() is threading.main_thread():
                    continue
                plan.times -= 1
                if call not in self.met:
                    self.met.add(call)
                    self.note()
                if plan.action == "error":
                    raise OSError(plan.what, os.strerror(plan.what))
                if plan.action == "die" and call != "write":
                    raise Death
                return plan
        return None

    def harm(self, what, fraction):
        """Do to the newest file what another program may do."""
        with self.lock:
            before = Counter(key for key, _ in contents(self.log_dir))
            paths = files(self.log_dir)
            if not paths:
                return
            path, size = paths[-1], paths[-1].stat().st_size
            if what == "empty":
                os.truncate(path, 0)
            elif what == "cut":
                os.truncate(path, int(size * fraction))
            elif what == "remove":
                path.unlink()
            elif what == "replace":
                path.rename(self.log_dir.parent / f"moved-{path.name.replace('tfevents', '')}")
                path.write_bytes(b"")
            elif what == "remove the directory":
                while self.log_dir.exists():  # another process may write into it
                    shutil.rmtree(self.log_dir, ignore_errors=True)
            else:
                with path.open("ab") as file:
                    file.write(b"x" * int(1 + 30 * fraction))
            is_same = path.exists() and path.stat().st_size == size and what != "replace"
            is_full = size >= self.full_size  # it is left at once, and nobody looks at it any more
            if (
                path not in self.open.values() or is_full or size == 0
            ):  # and 0 is a file whose making may yet fail
                self.settled.add(path)
            if not is_same and path not in self.settled:
                self.changed.add(path)
            self.harmed.add(path)
            self.destroyed += before - Counter(key for key, _ in contents(self.log_dir))
            self.note()

    def unsynced(self):
        """Name what is not on the disk of what this process has made and still is there."""
        for path in self.made:
            if not path.exists() or path in self.harmed:
                continue
            status, above = path.stat(), path.parent.stat()
            if path.name not in self.synced.get((above.st_dev, above.st_ino), ()):
                yield f"the entry of {path}"
            if (
                path.is_file()
                and self.synced.get((status.st_dev, status.st_ino), 0) < status.st_size
            ):
                yield str(path)

    @contextlib.contextmanager
    def installed(self):
        """Have the package meet this disk."""
        disk, fsync, mkdir = self, os.fsync, os.mkdir

        class Faulty(FileIO):
            def __init__(self, path, mode, **options):
                with disk.lock:
                    disk.meet("open")
                    super().__init__(path, mode, **options)
                    disk.made.append(Path(path))
                    disk.open[id(self)] = Path(path)

            def write(self, data):
                with disk.lock:
                    plan = disk.meet("write")
                    if plan is None:
                        return super().write(data)
                    if plan.action == "harm":
                        disk.harm(plan.what, plan.fraction)
                        return super().write(data)
                    written = super().write(data[: int((len(data) + 1) * plan.fraction)])
                    if plan.action == "kill":
                        os.kill(os.getpid(), signal.SIGKILL)
                    if plan.action == "die":
                        # How much of it is in the file is not known then, and so not what others have done to it.
                        disk.changed.clear()
                        disk.settled.add(Path(self.name))  # and it is given up
                        raise Death
                    return written

            def truncate(self, size=None):
                disk.meet("truncate")
                return super().truncate(size)

            def close(self):
                if not self.closed:
                    with disk.lock:
                        super().close()
                        disk.open.pop(id(self), None)
                    disk.meet("close")

        def sync(descriptor):
            disk.meet("fsync")
            fsync(descriptor)
            status = os.fstat(descriptor)
            what = os.listdir(descriptor) if stat.S_ISDIR(status.st_mode) else status.st_size  # noqa: PTH208
            disk.synced[status.st_dev, status.st_ino] = what

        def make(path, *arguments, **options):
            if disk.log_dir.parent not in (Path(path), *Path(path).parents):
                return mkdir(path, *arguments, **options)
            disk.meet("mkdir")
            mkdir(path, *arguments, **options)
            disk.made.append(Path(path))
            return None

        with (
            mock.patch.object(module, "FileIO", Faulty),
            mock.patch.object(os, "fsync", sync),
            mock.patch.object(os, "mkdir", make),
        ):
            yield


# -- what is in files ------------------------------------------------------------------------------

crc = functools.lru_cache(1 << 16)(crc32c)


def whole_records(path):
    """Give the payloads up to the end of a file or the first byte out of place, and what follows."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:  # of another process, meanwhile
        return [], b""
    found = []
    while len(data) >= 12:
        length, length_crc = struct.unpack_from("<QI", data)
        payload = data[12 : 12 + length]
        if length_crc != masked(crc(data[:8])) or len(data) < 16 + length:
            break
        if struct.unpack_from("<I", data, 12 + length)[0] != masked(crc(payload)):
            break
        found.append(payload)
        data = data[16 + length :]
    return found, data


@functools.lru_cache(1 << 14)
def parse(payload):
    return Event.FromString(payload)


def contents(log_dir, paths=None):
    """Give ((tag, step), value) of all that whole records hold."""
    for path in files(log_dir) if paths is None else paths:
        for payload in whole_records(path)[0]:
            event = parse(payload)
            for value in event.summary.value:
                yield (value.tag, event.step), value


# -- the model -------------------------------------------------------------------------------------


@dataclass
class Call:
    """One event that was given: begun, then held, acked, refused, lost or dropped."""

    step: int
    values: dict  # of each tag: a scalar's number, or a list with a histogram's number of values
    state: str = "begun"


@dataclass
class Life:
    """A writer, and what it was given."""

    schedule: Schedule
    options: dict
    disk: Disk
    writer: SummaryWriter | None = None
    calls: list = field(default_factory=list)
    written: dict = field(default_factory=dict)
    skipped: dict = field(default_factory=dict)
    said: list = field(default_factory=list)
    trouble: bool = False
    journal: int | None = None

    # The writer's side of the rules, as its documentation tells them.

    def is_due(self, tag, step):
        before = self.written.get(tag)
        return before is None or step >= before + self.options["every"]

    def values(self, tag, values, stats):
        finite = sum(map(math.isfinite, values))
        expected = {tag: [finite]}
        if finite < len(values):
            expected[f"{tag}/nan_count"] = float(len(values) - finite)
        if stats:
            expected |= dict.fromkeys(
                f"{tag}/{name}" for name in ("mean", "std", "l2_norm", "zero_fraction")
            )
        return expected

    def add(self, step, histograms, work, scalars=()):
        """Hand over an event of these histograms that are due, and scalars."""
        due = {tag: expected for tag, expected in histograms.items() if self.is_due(tag, step)}
        if self.options["keep_last"] and self.options["every"] > 1:
            self.skipped |= {t: Call(step, histograms[t]) for t in histograms.keys() - due.keys()}
        call = Call(step, {k: v for each in due.values() for k, v in each.items()} | dict(scalars))
        if call.values:
            self.calls.append(call)
            self.note()
        state = self.attempt(work)
        if state != "refused":
            self.written |= dict.fromkeys(due, step)
            for tag in due:
                self.skipped.pop(tag, None)
        call.state = state
        self.note()

    def attempt(self, work):
        """Do something with the writer; say whether the event given is held."""
        try:
            work(self.writer)
        except WriteError as error:
            self.heard(error)
            if "was not taken" not in str(error):
                return "held"
            if not self.disk.met:
                self.problem("not taken, and the disk has room")
            return "refused"
        except (Exception, Death) as error:  # noqa: BLE001
            self.problem(f"{type(error).__name__}: {error}")
        return "held"

    def heard(self, error):
        text = "\n".join([str(error), *getattr(error, "__notes__", ())])
        self.schedule.log(f"    {type(error).__name__}: {text}")
        if not self.disk.met and not self.disk.harmed and not self.trouble:
            self.problem(f"an error without a cause: {text}")
        if "fasthist" in str(type(error)) and "Hint" not in text and "No space" in text:
            self.problem(f"no hint: {text}")
        self.said.append(text)
        if CHANGED.search(text):
            named = {path for path in self.disk.made if str(path) in text}
            self.disk.settled |= named
            self.disk.changed -= named
        for call in self.calls:
            if call.state != "lost" and any(
                f"'{tag}', step {call.step}: it cannot be encoded" in text for tag in call.values
            ):
                call.state = "lost"

    def problem(self, text):
        self.schedule.problem(text)
        self.note()

    # Operations.

    def do(self, operation):
        self.schedule.log(f"  {operation}")
        kind, *rest = operation
        getattr(self, f"do_{kind}")(*rest)

    def do_histogram(self, step, tag, values, stats):
        expected = {tag: self.values(tag, values, stats)}
        self.add(step, expected, lambda w: w.add_histogram(tag, values, step, stats=stats))

    def do_histograms(self, step, tags):
        tree = {tag: [float(step), step + 1.0, step + 1.0] for tag in tags}
        expected = {tag: self.values(tag, values, stats=False) for tag, values in tree.items()}
        self.add(step, expected, lambda w: w.add_histograms(tree, step))

    def do_scalar(self, step, tag, new):
        work = lambda w: w.add_scalar(tag, step / 2, step, new_style=new)
        self.add(step, {}, work, {tag: None if new else step / 2})

    def do_raw(self, step, tag):
        limits = [step, step + 1.0, step + 1.0, float("inf")]
        arguments = step, step + 2.0, 3, 3.0 * step, 3.0 * step**2, limits, [0, 1, 1, 1], step
        if self.is_due(tag, step):  # what is not is forgotten, whatever keep_last
            self.add(step, {tag: {tag: [3]}}, lambda w: w.add_histogram_raw(tag, *arguments))
        else:
            self.attempt(lambda w: w.add_histogram_raw(tag, *arguments))

    def do_odd(self, step, number):
        work, accepted = ODD[number]
        if not accepted:
            try:
                work(self.writer, step)
            except (ArgumentError, FasthistError):
                return
            except Exception as error:  # noqa: BLE001
                self.problem(f"odd {number}: {type(error).__name__}: {error}")
            if self.is_due("odd", step):  # what is not is not looked at
                self.problem(f"odd {number} was taken")
        elif number < 2:
            self.add(step, {"odd": {"odd": [2]}}, lambda w: work(w, step))
        else:
            self.add(step, {}, lambda w: work(w, step), {"odd/scalar": None})

    def do_bad(self, step, tag):
        """An event that cannot be encoded: an error names it, and the others are written."""
        self.trouble = True

        def encode():
            return 1 / 0

        bad = Call(step, {f"bad/{tag}": None})
        self.calls.append(bad)
        self.note()
        state = self.attempt(
            lambda w: w._events.add_event(encode, step=step, nbytes=100, tags=[f"bad/{tag}"])
        )
        if bad.state == "begun":
            bad.state = "bad" if state == "held" else state
        self.note()

    def do_burst(self, step, count):
        """Several threads at once."""

        def work(first):
            for at in range(first, first + count):
                self.do_scalar(at, f"thread{first}", new=False)

        threads = [threading.Thread(target=work, args=(step + i * count,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def do_flush(self, *, fsync=False):
        if self.tried(lambda: self.writer.flush(fsync=fsync)):
            self.acknowledge()
            if fsync:
                for what in self.disk.unsynced():
                    self.problem(f"not on the disk after flush(fsync=True): {what}")
            return True
        return False

    def do_fsync(self):
        self.do_flush(fsync=True)

    def do_close(self):
        if self.options["keep_last"]:
            self.calls += [*self.skipped.values()]
            for call in self.skipped.values():
                call.state = "held"
            self.skipped = {}
            self.note()
        if self.tried(self.writer.close):
            self.acknowledge()
            return True
        return False

    def tried(self, work):
        errors = len(self.said)
        self.attempt(lambda _: work())
        return len(self.said) == errors

    def do_fail(self, call, after, times, action, what, fraction):
        if action == "short then error":
            self.disk.plans.append(Plan(call, after, 1, "short", None, fraction))
            action = "error"  # counts down beside the other, and so is met by the next call
        self.disk.plans.append(Plan(call, after, times, action, what, fraction))

    def do_die(self, call, after, fraction):
        self.disk.plans.append(Plan(call, after, 1, "die", None, fraction))

    def do_heal(self):
        self.disk.plans = []

    def do_harm(self, what, fraction):
        self.disk.harm(what, fraction)

    def do_fork(self, of_child, of_parent, ending):
        # What one of two processes does to the other's files, that one's model does not know.
        self.disk.plans = [plan for plan in self.disk.plans if plan.action != "harm"]
        wait = self.schedule.fork(self, of_child, ending)
        for operation in of_parent:
            self.do(operation)
        wait()

    def terminated(self, skipped, told):
        """Take as acknowledged what a process that was terminated had to write, unless it said why it did not."""
        for call in skipped:
            call.state = "held"
        self.calls += skipped
        named = told or self.said
        if self.options["when_full"] == "drop_oldest":
            return
        for call in self.calls:
            if call.state == "held" and not (named and (self.disk.met or self.disk.harmed)):
                call.state = "acked"

    # What must be so.

    def acknowledge(self):
        """A flush or close has returned: all that was given is in the files, or was told to be lost."""
        for call in self.calls:
            if call.state == "held":
                call.state = "acked"
            elif call.state == "bad":
                if self.options["when_full"] == "drop_oldest":
                    call.state = "acked"  # or else dropped, and counted
                else:
                    self.problem(f"not told to be lost: {call}")
                    call.state = "lost"
        for path in self.disk.changed:
            self.problem(f"not told that others have changed {path}")
        self.disk.changed.clear()
        self.check()
        self.note()

    def check(self):
        seen = [*contents(self.disk.log_dir)]
        counts = Counter(key for key, _ in seen)
        ours = {path for path in self.disk.made if "tfevents" in path.name}
        told = [
            value.simple_value for (tag, _), value in contents(None, sorted(ours)) if tag == DROPPED
        ]
        missing = []
        for call in self.calls:
            if call.state != "acked":
                continue
            keys = [(tag, call.step) for tag in call.values]
            if any(counts[key] + self.disk.destroyed[key] < 1 for key in keys):
                missing.append(call)
        if not missing:
            return
        if self.options["when_full"] == "drop_oldest":
            dropped = sum(call.state == "dropped" for call in self.calls) + len(missing)
            if (told and told[-1] >= dropped) or self.disk.destroyed:
                for call in missing:
                    call.state = "dropped"
                return
        self.problem(f"acknowledged, and not in the files: {missing}; dropped: {told}")

    # In a child.

    def note(self):
        """Keep for the parent what is known, whatever comes."""
        if self.journal is None:
            return
        with self.disk.lock:
            calls = self.calls, [*self.skipped.values()], self.said, self.schedule.problems
            disk = self.disk.destroyed, self.disk.harmed, self.disk.met
            data = pickle.dumps((calls, disk))
            os.write(self.journal, len(data).to_bytes(8, "little") + data)


class Schedule:
    """What happens, and what was found wrong."""

    def __init__(self, number, root, *, verbose=False):
        self.number = number
        self.log = print if verbose else (lambda *_: None)
        self.root = Path(root)
        self.log_dir = self.root / "runs" / "a"
        self.problems = []
        self.lives = []
        self.torn_ends = False  # whether a file may end in the middle of a record
        self.purged = False

    def problem(self, text):
        self.log(f"  PROBLEM: {text}")
        self.problems.append(text)

    def run(self):
        for options, operations, ending in draw(self.number):
            self.log(f"{options} ends by {ending}")
            life = Life(self, options, Disk(self.log_dir, options["max_file_bytes"]))
            self.lives.append(life)
            if ending in ("kill", "terminate"):
                self.fork(life, operations, ending)()
            else:
                with life.disk.installed(), self.hooks(life):
                    self.live(life, operations, ending)
        self.check()

    def live(self, life, operations, ending):
        if life.writer is None:
            life.writer = SummaryWriter(self.log_dir, **life.options)
        for operation in operations:
            life.do(operation)
        if ending in ("close", "drop"):
            life.do(("heal",))
        if ending == "drop":
            self.log("  dropped")
            life.skipped, skipped = {}, life.skipped
            life.calls += skipped.values() if life.options["keep_last"] else ()
            for call in skipped.values():
                call.state = "held"
            life.disk.changed.clear()  # a directory is often cleared before a flushed writer is dropped: not told
            life.writer = None
            gc.collect()
            life.acknowledge()
        while ending == "close" and not life.do_close():
            if len(life.said) > 100:
                life.problem("close() fails, and nothing is wrong any more")
                return

    @contextlib.contextmanager
    def hooks(self, life):
        """Hear what Python prints that nobody can catch."""
        with (
            mock.patch.object(sys, "unraisablehook", lambda hooked: life.heard(hooked.exc_value)),
            mock.patch.object(
                threading, "excepthook", lambda args: self.log(f"    {args.exc_type.__name__}")
            ),
        ):
            yield

    def fork(self, life, operations, ending):
        """Go on in a child; give a function that waits for it and takes over what it has noted."""
        path = self.root / f"journal{len(self.lives)}.{time.monotonic_ns()}"
        errors = path.with_suffix(".stderr")
        with LOCK:
            child = os.fork()
        if child == 0:
            status = 1
            try:
                self.in_child(life, operations, ending, path, errors)
                status = 0
            finally:
                os._exit(status)

        def wait():
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            expected = {"kill": -signal.SIGKILL, "terminate": -signal.SIGTERM, "close": 0}[ending]
            if status not in (expected, -signal.SIGKILL if self.kills(operations) else expected):
                self.problem(f"the child ended with {status}: {errors.read_text()[-2000:]}")
            data, state = path.read_bytes(), None
            while len(data) >= 8 and len(data) >= 8 + (size := int.from_bytes(data[:8], "little")):
                state, data = data[8 : 8 + size], data[8 + size :]
            if state is None:
                return
            other = Life(self, life.options, life.disk)
            problems = self.problems
            (other.calls, skipped, other.said, self.problems), disk = pickle.loads(state)
            self.problems = problems + [text for text in self.problems if text not in problems]
            destroyed, harmed, met = disk
            life.disk.destroyed |= destroyed
            life.disk.harmed |= harmed
            life.disk.met |= met
            self.torn_ends |= status == -signal.SIGKILL or "truncate" in met
            told = errors.read_text()
            self.log(f"  the child has ended ({status}) {told}")
            if status == -signal.SIGTERM:
                other.terminated(skipped, told)
            for call in other.calls:
                if call.state in ("held", "bad"):
                    call.state = "begun"
            self.lives.append(other)

        return wait

    def kills(self, operations):
        return any(operation[0] == "fail" and operation[4] == "kill" for operation in operations)

    def in_child(self, life, operations, ending, path, errors):
        signal.alarm(30)  # what hangs is told
        os.dup2(os.open(errors, os.O_CREAT | os.O_WRONLY, 0o600), 2)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        life.journal = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        life.disk.note = life.note
        inherits = life.writer is not None
        disk = life.disk
        disk.made, disk.open, disk.synced = [], {}, {}
        disk.changed, disk.settled = set(), set()
        life.calls, life.skipped, life.said = [], {}, []
        with contextlib.nullcontext() if inherits else disk.installed(), self.hooks(life):
            threading.excepthook = threading.__excepthook__
            self.live(life, operations, ending)
        if ending == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if ending == "terminate":
            first = 10**5 * len(self.lives) + inherits * 10**4
            os.kill(os.getpid(), signal.SIGTERM)
            for step in range(first, first + 2000):
                life.do_scalar(step, "late", new=False)
                time.sleep(0.001)

    def check(self):
        """Look at all files: nothing doubled, false or torn, and all readers see the same."""
        calls = [call for life in self.lives for call in life.calls]
        expected = {
            (tag, call.step): (call, value) for call in calls for tag, value in call.values.items()
        }
        harmed = {path for life in self.lives for path in life.disk.harmed}
        destroyed = sum((life.disk.destroyed for life in self.lives), Counter())
        torn_ends = self.torn_ends or any("truncate" in life.disk.met for life in self.lives)
        found, in_our_files = Counter(), Counter()
        again = self.repeated()
        purges = any("purge_step" in life.options for life in self.lives)
        for path in files(self.log_dir):
            rest = whole_records(path)[1]
            if path not in harmed:
                in_our_files.update(key for key, _ in contents(None, [path]))
            if rest and path not in harmed and not (torn_ends and is_torn(rest)):
                self.problem(f"{path}: {len(rest)} bytes are no record: {rest[:50]}")
        for key, value in contents(self.log_dir):
            if key[0] == DROPPED:
                continue
            found[key] += 1
            if key not in expected:
                self.problem(f"in the files, and never given: {key}")
                continue
            call, content = expected[key]
            if call.state == "refused":
                self.problem(f"in the files, and refused: {key}")
            if isinstance(content, list):
                if (
                    value.HasField("histo")
                    and not value.histo.num == sum(value.histo.bucket) == content[0]
                ):
                    self.problem(f"{key}: {value}")
            elif content is not None and value.simple_value != content:
                self.problem(f"{key}: {value}")
        for key, count in found.items():
            # What is in a file that others have changed is written again, and cut off there: if that can be done.
            is_explained = harmed and (purges or (torn_ends and in_our_files[key] <= 1))
            if count > 1 + again[key] and not is_explained:
                self.problem(f"{count} times in the files: {key}")
        for call in calls:
            for tag in call.values:
                if call.state == "acked" and not found[tag, call.step] + destroyed[tag, call.step]:
                    self.problem(f"acknowledged, and not in the files in the end: {call}")
        if not harmed:
            self.read()

    def events(self):
        for path in files(self.log_dir):
            yield from map(parse, whole_records(path)[0])

    def check_with_tensorboard(self):
        """Compare with what TensorBoard's own loader leaves of the histograms."""
        expected = self.visible()
        for (run, tag), data in python_loader(self.log_dir, "histograms").items():
            seen = Counter((tag, step) for step, _ in data)
            if run != "." or seen != Counter({k: n for k, n in expected.items() if k[0] == tag}):
                self.problem(f"TensorBoard: {tag}: {seen}")

    def repeated(self):
        """Count what a writer with `purge_step` had to write once more."""
        repeated, seen, purges = Counter(), Counter(), False
        for event in self.events():
            purges |= event.session_log.status == event.session_log.START
            for value in event.summary.value:
                key = value.tag, event.step
                repeated[key] += purges and seen[key] > 0
                seen[key] += 1
        return repeated

    def visible(self):
        """Give the keys that a reader leaves: those that no later start of a session has purged."""
        left = []
        for event in self.events():
            if event.session_log.status == event.session_log.START:
                left = [(step, key) for step, key in left if step < event.step]
            left += [(event.step, (value.tag, event.step)) for value in event.summary.value]
        return Counter(key for _, key in left)

    def read(self):
        histograms = {tag for life in self.lives for call in life.calls
                      for tag, value in call.values.items() if isinstance(value, list)}  # fmt: skip
        expected = Counter(key for key, _ in contents(self.log_dir) if key[0] in histograms)
        found = fasthist.read(self.log_dir) if files(self.log_dir) else ()
        ours = Counter((tag, step) for _, tag, step, _, _ in found)
        if ours != expected:
            self.problem(f"fasthist.read: {sorted((ours - expected) + (expected - ours))}")


def is_torn(rest):
    """Say whether these bytes are the beginning of a record."""
    return len(rest) < 12 or len(rest) < 16 + int.from_bytes(rest[:8], "little")


def run(number, *, verbose=False, then=None):
    """Run a schedule in a directory of its own; give what was wrong."""
    with tempfile.TemporaryDirectory(
        prefix=f"schedule{number}-", ignore_cleanup_errors=True
    ) as root:
        schedule = Schedule(number, root, verbose=verbose)
        schedule.run()
        if then is not None and not schedule.problems:
            then(schedule)
        return schedule.problems
