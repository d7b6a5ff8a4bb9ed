"""What a device counts, and what it has found, once it is there."""

from __future__ import annotations

import os
import threading
import time
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fasthist.errors import DeviceError
from fasthist.kernels.cuda.finish import HEAD
from fasthist.kernels.cuda.plan import PLAIN, Need, Plan
from fasthist.kernels.cuda.slots import N_SLOTS


class Answer(NamedTuple):
    """What was found in one tensor.

    Attributes
    ----------
    counts : uint64[n]
        Of slots, of patterns, or between edges.
    low, high : int
        Keys of the extremes; `low` is the larger one if no value is finite.
    sums : list of [float, float, float]
        Sum, sum of squares, sum in units of 2**64, of parts of it.
    sample : uint32[k] or uint64[k] or None
        Patterns of some elements, or of all; as wide as an element, but not less than 32 bits.
    """

    counts: NDArray[np.uint64]
    low: int = 0
    high: int = 0
    sums: list[list[float]] = []  # noqa: RUF012 - never changed
    sample: NDArray[Any] | None = None


class Owner(Protocol):
    """What counts a batch, a `device.Device`."""

    gpu: Any

    def errors(self) -> AbstractContextManager[None]:
        """Raise what CUDA raises within a ``with`` statement as `DeviceError`."""

    def take_back(self, batch: Batch, mail: Any) -> None:
        """Have the memory of a batch back, whose answers are read."""


class Batch:
    """Tensors that a device counts, and what it has found in them."""

    def __init__(
        self, device: Owner, plan: Plan, needs: list[Need], mail: Any, event: Any, kept: Any
    ) -> None:
        self._device = device
        self.layouts = plan.layouts
        self._plan = plan
        self._needs = needs
        self._mail = mail
        self._event = event
        self._kept = kept
        self._lock = threading.Lock()
        self._answers: list[Answer] = []
        self._error: DeviceError | None = None
        self._process = os.getpid()

    def answers(self) -> list[Answer]:
        """Wait until the device is done, and give what was found in each tensor, in the order of the list.

        Raises
        ------
        DeviceError
            The device has failed.
        """
        if self._process != os.getpid():
            msg = "a histogram that a GPU still counts belongs to the process that began it. Hint: read it before the fork."
            raise DeviceError(msg)
        with self._lock:
            if self._event is not None:
                self._collect()
        if self._error is not None:
            raise self._error
        return self._answers

    def _collect(self) -> None:
        try:
            with self._device.errors():
                self._wait()
                mail = self._mail.array
                self._answers = [
                    _read(mail, out, need)
                    for out, need in zip(self._plan.outs, self._needs, strict=True)
                ]
            self._device.take_back(self, self._mail)
        except DeviceError as error:
            self._error = error
        self._mail = self._event = self._kept = None

    def _wait(self) -> None:
        # Asked again and again, and not waited for in the driver: so the GIL is free.
        gpu, pause = self._device.gpu, 2e-5
        while True:
            with gpu.current():
                if gpu.has_come(self._event):
                    return
            time.sleep(pause)
            pause = min(1.5 * pause, 1e-3)


def _read(mail: NDArray[np.uint64], out: int, need: Need) -> Answer:
    if need.kind == PLAIN:
        return Answer(mail[out : out + need.amount].copy())
    first, last, low, high, *sums, taken = mail[out : out + HEAD].tolist()
    counts = np.zeros((2, N_SLOTS // 2), dtype=np.uint64)
    found = mail[out + HEAD : out + HEAD + N_SLOTS].reshape(2, -1)
    for part in (slice(0, 1), slice(first, last), slice(-2, None)):
        counts[:, part] = found[:, part]
    begin = out + HEAD + N_SLOTS
    sample: NDArray[Any] = mail[begin : begin + taken]
    if not need.wide:
        sample = sample.view(np.uint32)[:taken]
    numbers = np.array(sums, dtype=np.uint64).view(np.float64).tolist()
    return Answer(counts.reshape(-1), ~low & 0xFFFFFFFFFFFFFFFF, high, [numbers], sample.copy())
