"""`all_reduce`: sum the histograms of JAX's processes by JAX's own collectives.

One array, of which each process has a row, is reduced: ``jit`` turns that into all-reduces, whose traffic and memory do not
grow with the number of processes, as those of gathering would. TPUs have integers of 32 bits only, so 64-bit numbers are
split.
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
    """Sum the histograms of all processes, and return the sums in every process.

    Parameters
    ----------
    histograms : dict of str to Histogram
        Those of this process for one step, such as from `fasthist.adapters.jax.histograms`. Tags and buckets ("auto",
        "tensorflow", or edges) must be the same in every process, in any order.
    step : int, optional
        Must be the same in every process too.

    Returns
    -------
    dict of str to Histogram
        In the order of this process. Sums over "auto" are over "tensorflow", without an outline.

    Raises
    ------
    ArgumentError
        In every process, naming the difference: tags, buckets or step differ between processes, or the histograms of one
        cannot be sent.
    jax.errors.JaxRuntimeError
        A process is gone; by default JAX then ends this one too.

    Notes
    -----
    Call it outside ``jit``, in all processes of ``jax.distributed.initialize``. Exact, as `fasthist.distributed.all_reduce`,
    which tells what is sent: here twice the bytes of the counts, since sums of 16 bits are sent as 32, and up to an eighth
    more, so that not every step compiles a new shape.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from fasthist.adapters.jax import all_reduce, histograms
    >>> part = histograms({"kernel": jnp.arange(5.0)})  # of arrays that are sharded over processes, this one's
    >>> all_reduce(part, step=0)["kernel"].num
    5
    """
    sums = agreement.begin(_Processes(), lambda: histograms, "all_reduce()", step).wait()
    assert sums is not None
    return sums


class _Processes:
    """The engine of `fasthist.agreement` for all processes of JAX."""

    first = 0

    def __init__(self) -> None:
        self.rank, self.size = jax.process_index(), jax.process_count()

    def least(self, numbers: Any) -> Any:
        # Flip all bits of a negative float and the sign of any other number: then unsigned integers have their order.
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
        """Reduce the uint32[n] of all processes."""
        devices = sorted(jax.devices(), key=lambda device: device.process_index)
        mesh = jax.sharding.Mesh(np.reshape(devices, (self.size, -1)), ("processes", "devices"))
        spec = jax.sharding.PartitionSpec("processes")
        with jax.set_mesh(mesh):  # the caller may have set another
            rows = multihost_utils.host_local_array_to_global_array(words[None], mesh, spec)
            reduced = _compiled(reduce, mesh)(rows)
        return np.asarray(reduced.addressable_data(0))


@functools.cache
def _compiled(reduce: Callable[[Any], Any], mesh: Any) -> Any:
    """Compile a reduction whose result is on every device."""
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.jit(reduce, out_shardings=everywhere)


def _sum(rows: Any) -> Any:
    return rows.sum(axis=0, dtype=jnp.uint32)


def _least(rows: Any) -> Any:
    """Return the minimum of numbers given as pairs of words, the lower word first."""
    low, high = rows[:, 0::2], rows[:, 1::2]
    least = high.min(axis=0)
    low = jnp.where(high == least, low, jnp.uint32(0xFFFFFFFF)).min(axis=0)
    return jnp.stack((low, least), axis=1).ravel()


def _rounded_up(size: int) -> int:
    """Round up to one of eight sizes between powers of two."""
    unit = 1 << max(size.bit_length() - 4, 0)
    return -(-size // unit) * unit
