"""What a process does about its writers when it ends or forks.

Nothing that was handed over is lost when a writer is garbage-collected, when the interpreter or a multiprocessing worker
exits, or on SIGTERM. A process that is stuck on a dead disk ends anyway, after `PATIENCE` seconds, and says so.
"""

from __future__ import annotations

import _thread
import atexit
import errno
import os
import signal
import sys
import threading
import time
import weakref
from types import FrameType
from typing import Protocol

from fasthist.errors import WriteError

PATIENCE = 30.0
"""Seconds that the end of a process waits for a disk: what batch systems leave between SIGTERM and SIGKILL."""

servers: set[int] = set()
"""Identifiers of the writers' threads."""


class _Log(Protocol):
    """The part of a writer's state that this module needs; see `fasthist.events.background.Log`."""

    told: bool
    at_end: bool

    @property
    def holds(self) -> bool: ...
    def close(self, wait: float | None = None) -> bool: ...
    def forget(self) -> None: ...


_logs: weakref.WeakSet[_Log] = weakref.WeakSet()


def watch(writer: object, log: _Log) -> None:
    """Close a log when its writer is garbage-collected, when the interpreter exits, and on SIGTERM."""
    _logs.add(log)
    log.at_end = _sigterm.begun
    weakref.finalize(writer, _close_for_good, log)
    # A program with its own handler decides how the process ends: usually by sys.exit, at which logs are closed.
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _sigterm)


def watch_process(log: _Log) -> None:
    """Close a log when this process ends, if it is a forked worker of multiprocessing."""
    # Such a worker ends by os._exit, so atexit, and with it weakref.finalize, never runs there. If the module is not
    # loaded, this process is not such a worker.
    if "multiprocessing.process" in sys.modules:
        from multiprocessing import parent_process, util

        if parent_process() is not None:
            util.Finalize(log, _close_if_alive, args=(weakref.ref(log),), exitpriority=0)


def _close_for_good(log: _Log) -> None:
    told, log.at_end = log.told, True
    try:
        done = log.close(PATIENCE)
    except WriteError as error:
        # Nobody is left to catch it, but Python prints it: unless close() has said already that this is held.
        if not (told and log.holds) or hasattr(error, "__notes__"):
            raise
    else:
        if not done:
            raise _late()


def _late() -> WriteError:
    text = f"the disk did not answer within {PATIENCE:g} s, and what was held is lost"
    return WriteError(errno.ETIMEDOUT, text)


def _close_if_alive(reference: weakref.ref[_Log]) -> None:
    log = reference()
    if log is not None and not log.close(PATIENCE):
        raise _late()


class _Sigterm:
    """The handler: close every log, then end the process as if the signal had not been handled."""

    def __init__(self) -> None:
        self.begun = self._closed = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._closed:
            self.reset()
            # A parent that waits for the process learns of the signal.
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
            # The first process of a container lives on.
            signal.signal(number, self)
            for log in list(_logs):
                log.at_end = False
        elif not self.begun:
            self.begun = True
            atexit.register(self._wait)
            for log in list(_logs):
                log.at_end = True  # an event added from now on is in a file before the call returns
            # The interrupted main thread may hold a lock that the writers' threads need: of an import, of the compiler,
            # of a log. So it must not wait for them here, but go on.
            try:
                _thread.start_new_thread(self._close_all, (number,))
            except RuntimeError:  # the interpreter ends
                self._close_all(number)

    def _close_all(self, number: int) -> None:
        until = time.monotonic() + PATIENCE
        try:
            for log in list(_logs):
                try:
                    if not log.close(max(until - time.monotonic(), 0)):
                        raise _late()
                except Exception as error:  # noqa: BLE001  # the process ends, whatever the disk says
                    sys.excepthook(type(error), error, None)
        finally:
            self._closed = True
            # A main thread that was about to sleep when the signal came sleeps on, and handles it afterwards.
            while self._closed:
                os.kill(os.getpid(), number)
                time.sleep(0.1)

    def _wait(self) -> None:
        """Keep the main thread from ending the process in the meantime, as if there had been no signal."""
        until = time.monotonic() + PATIENCE
        while self.begun and time.monotonic() < until:
            time.sleep(0.01)

    def reset(self) -> None:
        """Begin anew, also in a child."""
        self.begun = self._closed = False


_sigterm = _Sigterm()


def _forget_all() -> None:
    servers.clear()
    _sigterm.reset()
    for log in list(_logs):
        log.forget()


# Checking the process number in each call would not do: at the fork, a thread that the child lacks may hold a lock, and
# two threads of the child might both replace it. The hook runs before any of them.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
