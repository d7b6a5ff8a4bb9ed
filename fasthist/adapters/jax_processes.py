"""`all_reduce`: the histograms of JAX's processes, added up by its own collectives.

What is reduced is one array, of which each process has a row: ``jit`` makes all-reduces of that, which send and take
as much memory however many processes there are; gathering the rows would not. Devices count in 32 bits, TPUs have
nothing wider, so numbers of 64 are divided.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasthist import agreement
from fasthist.hist import Histogram
from fasthist.packages import require

jax = require("jax")
jnp = require("jax.numpy", "jax")
multihost_utils = require("jax.experimental.multihost_utils", "jax")


def all_reduce(
    histograms: dict[str, Histogram], *, step: int | None = None
) -> dict[str, Histogram]:
    """Add up the histograms of all processes, and give every process the sums.

    Parameters
    ----------
    histograms : dict of str to Histogram
        This process', of one step, such as `fasthist.adapters.jax.histograms` gives. The same tags and buckets in every
        process, in any order: "auto", "tensorflow", or edges.
    step : int, optional
        What the processes compare too.

    Returns
    -------
    dict of str to Histogram
        In the order of this process'. What is added up over "auto" is over "tensorflow", without an outline.

    Raises
    ------
    ArgumentError
        In every process, naming the difference: the tags, buckets or step are not the same everywhere, or the
        histograms of one cannot be sent.
    jax.errors.JaxRuntimeError
        JAX's own, where a process is gone; or JAX ends this one too, as it is set to do by default.

    Notes
    -----
    Outside of ``jit``, by all processes of ``jax.distributed.initialize``. Exact, as in
    `fasthist.distributed.all_reduce`, which also tells what is sent: here twice the bytes of the counts, since sums
    of 16 bits are sent as 32, and up to an eighth more, so that not every step has a new shape to compile.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from fasthist.adapters.jax import all_reduce, histograms
    >>> part = histograms({"kernel": jnp.arange(5.0)})  # of arrays that are sharded over processes, this one's
    >>> all_reduce(part, step=0)["kernel"].num
    5
    """
    found = agreement.begin(_Processes(), lambda: histograms, "all_reduce()", step).wait()
    assert found is not None
    return found


class _Processes:
    """The engine of `fasthist.agreement`: all processes of JAX."""

    first = 0

    def __init__(self) -> None:
        self.rank, self.size = jax.process_index(), jax.process_count()

    def least(self, numbers: Any) -> Any:
        # Of a float, all bits are turned where it is negative, and the sign else: then integers have the order of the
        # numbers; of an integer, the sign alone.
        sign = np.uint64(1) << np.uint64(63)
        bits = numbers.ravel().view(np.uint64)
        turned = np.where(bits < sign, sign, ~np.uint64(0) if numbers.dtype.kind == "f" else sign)
        least = self._over_processes(_least, (bits ^ turned).view(np.uint32))
        bits = least.view(np.uint64)
        turned = np.where(bits < sign, ~np.uint64(0) if numbers.dtype.kind == "f" else sign, sign)
        return (bits ^ turned).view(numbers.dtype).reshape(numbers.shape)

    def add(self, numbers: NDArray[np.int64]) -> Callable[[], NDArray[np.int64] | None]:
        # Sums of 16 bits over 65,536 processes have 32.
        limbs = np.zeros((_rounded_up(numbers.size), 4), np.uint32)
        limbs[: numbers.size] = numbers.view(np.uint16).reshape(-1, 4)

        def wait() -> NDArray[np.int64]:
            sums = self._over_processes(_sum, limbs.ravel()).reshape(limbs.shape)
            parts = sums[: numbers.size].astype(np.int64) << np.array([0, 16, 32, 48])
            added: NDArray[np.int64] = np.add.reduce(parts, axis=1)  # modulo 2**64, as it should be
            return added

        return wait

    def spread(self, text: str) -> str:
        return self.gather(text)[0]

    def gather(self, text: str) -> list[str]:
        sent = np.frombuffer(text.encode(), np.uint8)
        sizes = multihost_utils.process_allgather(np.uint32(sent.size)).ravel().tolist()
        padded = np.pad(sent, (0, max(sizes) - sent.size))
        rows = multihost_utils.process_allgather(padded)
        return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]

    def _over_processes(
        self, reduce: Callable[[Any], Any], words: NDArray[np.uint32]
    ) -> NDArray[np.uint32]:
        """Reduce uint32[n], of each process its own."""
        devices = sorted(jax.devices(), key=lambda device: device.process_index)
        mesh = jax.sharding.Mesh(np.reshape(devices, (self.size, -1)), ("processes", "devices"))
        spec = jax.sharding.PartitionSpec("processes")
        with jax.set_mesh(mesh):  # whatever mesh the caller has set
            rows = multihost_utils.host_local_array_to_global_array(words[None], mesh, spec)
            found = _compiled(reduce, mesh)(rows)
        return np.asarray(found.addressable_data(0))


@functools.cache
def _compiled(reduce: Callable[[Any], Any], mesh: Any) -> Any:
    """Compile a reduction whose result every device gets."""
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.jit(reduce, out_shardings=everywhere)


def _sum(rows: Any) -> Any:
    return rows.sum(axis=0, dtype=jnp.uint32)


def _least(rows: Any) -> Any:
    """Return the minimum of numbers that are pairs of words, the lower one first."""
    low, high = rows[:, 0::2], rows[:, 1::2]
    least = high.min(axis=0)
    low = jnp.where(high == least, low, jnp.uint32(0xFFFFFFFF)).min(axis=0)
    return jnp.stack((low, least), axis=1).ravel()


def _rounded_up(size: int) -> int:
    """Round up to one of few sizes: eight from one power of two to the next."""
    unit = 1 << max(size.bit_length() - 4, 0)
    return -(-size // unit) * unit
