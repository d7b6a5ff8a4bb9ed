"""What is counted within ``jit`` is what NumPy counts, and trees of every JAX library have names."""

from __future__ import annotations

import doctest
import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import DTYPES, WIDE, all_patterns, decoded, from_patterns, limits_and_neighbours
from test_watch import Recorder

import fasthist
from fasthist.errors import ArgumentError, ArrayError

PATH = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
NARROW = [name for name in DTYPES if name not in WIDE]


@pytest.fixture
def jax(need):
    return need("jax")


@pytest.fixture
def adapter(need):
    need("jax")
    from fasthist.adapters import jax

    return jax


def same(adapter, found, values):
    """Name what is not as by definition; sums as far as pairs of float32 go."""
    expected = oracle.answer(decoded(np.asarray(values)), sums=False)
    histogram = adapter.to_histogram(found)
    wrong = oracle.differences(histogram, expected)
    finite = decoded(np.asarray(values)).astype(np.float64).ravel()
    finite = finite[np.isfinite(finite)]
    with np.errstate(over="ignore"):
        total, magnitude, squares = finite.sum(), np.abs(finite).sum(), (finite**2).sum()
    # A device may take subnormals for zero.
    lost = finite.size * 2.0**-126 * (np.abs(finite) < 2.0**-126).any()
    room = 2e-7 if np.asarray(values).dtype.kind in "iu" else 1e-10
    if abs(histogram.sum - total) > room * magnitude + lost:
        wrong.append("sum")
    if abs(histogram.sum_squares - squares) > room * squares + lost:
        wrong.append("sum_squares")
    return wrong


# -- counting ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NARROW)
def test_every_pattern_of_narrow_formats(jax, adapter, name):
    values = all_patterns(name)
    assert same(adapter, jax.jit(adapter.count)(values), values) == []


@pytest.mark.parametrize("name", ["float32", "int32", "uint32"])
def test_limits_and_their_neighbours(jax, adapter, name):
    values = limits_and_neighbours(name)
    assert same(adapter, jax.jit(adapter.count)(values), values) == []


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16", "int32", "uint32"])
@settings(max_examples=30)
@given(data=st.data())
def test_any_patterns(need, name, data):
    jax = need("jax")
    from fasthist.adapters import jax as adapter

    bits = 8 * DTYPES[name].itemsize
    # one shape, or each would be compiled
    patterns = data.draw(st.lists(st.integers(0, (1 << bits) - 1), min_size=20, max_size=20))
    values = from_patterns(patterns, name)
    assert same(adapter, jax.jit(adapter.count)(values), values) == []


@pytest.mark.parametrize(
    "values",
    [
        np.empty(0, np.float32),
        np.float32(3.5),
        np.zeros((3, 0, 2), np.float32),
        np.full(5, np.nan, np.float32),
        np.array([np.inf, -np.inf, np.nan], np.float32),
        np.array([0.0, -0.0, 1e-45, -1e-45], np.float32),
        np.array([3.4e38, 3.4e38, -3.4e38], np.float32),
        np.array([1e-23, 2e-23, -3e-23], np.float32),  # whose squares float32 does not have
        np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        np.empty(0, np.int32),
        np.array([-(2**31), 2**31 - 1, 0], np.int32),
    ],
)
def test_special_cases(jax, adapter, values):
    assert same(adapter, jax.jit(adapter.count)(values), values) == []


def test_outside_of_jit(adapter):
    values = np.array([[1.5, -2.0], [np.nan, 1e30]], np.float32)
    assert same(adapter, adapter.count(values), values) == []
    assert same(adapter, adapter.count(3), np.int32(3)) == []


@pytest.mark.parametrize("scale", [1, 1e-30, 1e30])
def test_sums_of_many_values_are_close(jax, adapter, scale):
    values = np.random.default_rng(0).normal(scale, scale, 1_000_003).astype(np.float32)
    found = adapter.to_histogram(jax.jit(adapter.count)(values))
    doubles = values.astype(np.float64)
    assert found.sum == pytest.approx(doubles.sum(), rel=1e-10)
    assert found.sum_squares == pytest.approx((doubles**2).sum(), rel=1e-10)


def test_it_adds_up_with_ours(jax, adapter):
    values = np.random.default_rng(0).normal(0, 1, 1000).astype(np.float32)
    first = adapter.to_histogram(jax.jit(adapter.count)(values[:300]))
    whole = first + fasthist.histogram(values[300:], buckets="tensorflow")
    expected = fasthist.histogram(values, buckets="tensorflow")
    assert np.array_equal(whole.counts, expected.counts)
    assert np.array_equal(whole.exponent_counts, expected.exponent_counts)
    assert (whole.min, whole.max, whole.num) == (expected.min, expected.max, expected.num)


def one_of(jax, found, i):
    return jax.tree.map(lambda leaf: leaf[i], found)


def test_within_scan_and_beside_gradients(jax, adapter):
    def loss(w, x):
        y = w * x
        return y.sum(), (y, adapter.count(y))

    def step(w, x):
        gradient, found = jax.grad(loss, has_aux=True)(w, x)
        return w - 0.125 * gradient, found

    xs = np.random.default_rng(0).normal(0, 1, (4, 6)).astype(np.float32)
    w, (ys, found) = jax.lax.scan(step, jax.numpy.ones(6), xs)
    for i, y in enumerate(ys):
        assert same(adapter, one_of(jax, found, i), y) == []
    np.testing.assert_allclose(w, 1 - xs.sum(0) / 8, rtol=1e-5)
    assert (jax.grad(lambda x: x.sum() + adapter.count(x).sums[0])(xs[0]) == 1).all()


def test_layers_that_are_stacked(jax, adapter):
    stacked = np.random.default_rng(0).normal(0, 1, (3, 4, 5)).astype(np.float32)
    found = jax.jit(jax.vmap(adapter.count))(stacked)
    for i, layer in enumerate(stacked):
        assert same(adapter, one_of(jax, found, i), layer) == []


def test_what_cannot_be_counted_is_said(jax, adapter):
    with pytest.raises(ArrayError, match="an array of complex64 cannot be counted"):
        adapter.count(np.ones(3, np.complex64))
    with pytest.raises(ArgumentError, match="4294967296 elements are too many"):
        jax.eval_shape(adapter.count, jax.ShapeDtypeStruct((1 << 16, 1 << 16), np.float32))


# -- names ------------------------------------------------------------------------------------------------


def data():
    x = np.random.default_rng(0).normal(0, 1, (32, 5)).astype(np.float32)
    return x, x.sum(1, keepdims=True)


def check(sink, step, expected):
    found = sink.steps[step]
    assert sorted(found) == sorted(expected)
    for tag, values in expected.items():
        counts = oracle.answer(decoded(np.asarray(values)).ravel(), sums=False).counts
        assert np.array_equal(found[tag].counts, counts), tag


@pytest.mark.parametrize("inside", [False, True])
def test_flax_and_optax(jax, adapter, need, inside):
    linen, optax = need("flax.linen"), need("optax")
    model = linen.Sequential([linen.Dense(8), linen.relu, linen.Dense(1)])
    x, y = data()
    params = model.init(jax.random.key(0), x)["params"]
    optimizer = optax.adam(0.01)
    state, sink = optimizer.init(params), Recorder()

    def train(params, state, step):
        def loss(params):
            return ((model.apply({"params": params}, x) - y) ** 2).mean()

        gradients = jax.grad(loss)(params)
        updates, state = optimizer.update(gradients, state, params)
        tree = adapter.named(weights=params, gradients=gradients, updates=updates, optimizer=state)
        if inside:
            adapter.add_histograms(sink, tree, step, every=2)
        return optax.apply_updates(params, updates), state, tree

    train = jax.jit(train)
    for step in range(5):
        params, state, tree = train(params, state, step)
        if not inside and step % 2 == 0:
            sink.add_histograms(tree, step)
        jax.effects_barrier()
        if step % 2 == 0:
            check(sink, step, tree)
    assert sorted(sink.steps) == [0, 2, 4]
    assert len(tree) == 4 * 3 + 2 * 4
    assert {
        "weights/layers_0/kernel",
        "updates/layers_2/bias",
        "optimizer/0/mu/layers_0/bias",
    } <= set(tree)


def test_nnx(adapter, need):
    nnx, optax = need("flax.nnx"), need("optax")
    x, y = data()

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(5, 8, rngs=rngs)
            self.norm = nnx.BatchNorm(8, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)
            self.last = nnx.Linear(8, 1, rngs=rngs)

        def __call__(self, x):
            return self.last(self.drop(nnx.relu(self.norm(self.first(x)))))

    model, sink = Net(nnx.Rngs(0)), Recorder()
    optimizer = nnx.Optimizer(model, optax.sgd(0.1, momentum=0.9), wrt=nnx.Param)

    @nnx.jit
    def train(model, optimizer):
        gradients = nnx.grad(lambda model: ((model(x) - y) ** 2).mean())(model)
        optimizer.update(model, gradients)
        return gradients

    gradients = train(model, optimizer)
    tree = adapter.named(weights=nnx.state(model, nnx.Param), gradients=gradients, exclude="norm")
    sink.add_histograms(tree, 0)
    kernels = {
        "weights/first/kernel": model.first.kernel[...],
        "weights/last/kernel": model.last.kernel[...],
    }
    biases = {
        "weights/first/bias": model.first.bias[...],
        "weights/last/bias": model.last.bias[...],
    }
    expected = {**kernels, **biases}
    for tag in list(expected):
        expected[tag.replace("weights", "gradients")] = tree[tag.replace("weights", "gradients")]
    check(sink, 0, expected)
    assert set(adapter.named(weights=model)) >= set(kernels)
    momenta = adapter.named(optimizer=nnx.state(optimizer))
    assert any(tag.endswith("trace/first/kernel") for tag in momenta)
    assert not any("step" in tag or "rngs" in tag for tag in momenta)


def test_equinox(jax, adapter, need):
    equinox, optax = need("equinox"), need("optax")
    x, y = data()
    model, sink = equinox.nn.MLP(5, 1, 8, 1, key=jax.random.key(0)), Recorder()
    optimizer = optax.sgd(0.1)
    state = optimizer.init(equinox.filter(model, equinox.is_array))

    @equinox.filter_jit
    def train(model, state, step):
        loss = equinox.filter_grad(lambda model: ((jax.vmap(model)(x) - y) ** 2).mean())
        gradients = loss(model)
        adapter.add_histograms(sink, adapter.named(weights=model, gradients=gradients), step)
        updates, state = optimizer.update(gradients, state)
        return equinox.apply_updates(model, updates), state, gradients

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        after, _, gradients = train(model, state, jax.numpy.int32(3))
    jax.effects_barrier()
    expected = {}
    for kind, tree in (("weights", model), ("gradients", gradients)):
        for i in range(2):
            expected[f"{kind}/layers/{i}/weight"] = tree.layers[i].weight
            expected[f"{kind}/layers/{i}/bias"] = tree.layers[i].bias
    check(sink, 3, expected)
    assert list(adapter.named(weights=after, include="bias")) == [
        "weights/layers/0/bias",
        "weights/layers/1/bias",
    ]


def test_into_a_file_from_within_jit(jax, adapter, tmp_path):
    values = np.random.default_rng(0).normal(0, 1, 500).astype(np.float32)
    with fasthist.SummaryWriter(tmp_path) as writer:
        run = jax.jit(lambda x, step: adapter.add_histograms(writer, {"x": x}, step, every=3))
        for step in range(7):
            run(values, step)
        jax.effects_barrier()
    found = {step: one for _, _, step, _, one in fasthist.read(tmp_path)}
    assert sorted(found) == [0, 3, 6]
    for one in found.values():
        counts, edges = one.to_numpy()
        # all limits but the ends, which the file moves to the extremes
        assert np.isin(edges[1:-1], oracle.tensorflow_edges()).all()
        assert np.array_equal(counts, np.histogram(values.astype(np.float64), edges)[0])


def test_activations_from_a_function_that_is_differentiated(jax, adapter):
    x, y = data()
    sink = Recorder()

    def loss(w, step):
        hidden = x @ w
        adapter.add_histograms(sink, {"activations": {"hidden": hidden}}, step, every=2)
        return ((hidden - y) ** 2).mean(), hidden

    train = jax.jit(jax.grad(loss, has_aux=True))
    for step in range(3):
        _, hidden = train(np.ones((5, 1), np.float32), step)
    jax.effects_barrier()
    assert sorted(sink.steps) == [0, 2]
    check(sink, 2, {"activations/hidden": hidden})


def test_an_error_of_the_writer_is_told(jax, adapter):
    class Full:
        def add_histograms(self, *_):
            raise OSError(28, "No space left on device")

    logging = jax.jit(lambda x: adapter.add_histograms(Full(), {"x": x}, 0))
    with pytest.raises(jax.errors.JaxRuntimeError, match="No space left on device"):
        logging(np.ones(3, np.float32)), jax.effects_barrier()
    with pytest.raises(ArgumentError, match="every=0"):
        adapter.add_histograms(Full(), {}, 0, every=0)


def test_only_arrays_of_floats_are_named(jax, adapter):
    jnp = jax.numpy
    tree = {
        "w": jnp.ones(2, jnp.bfloat16),
        "host": np.ones(2),
        "function": jnp.tanh,
        "text": "relu",
        "none": None,
        "number": 0.5,
        "numbers": [1.0, 2.0],
        "count": jnp.int32(3),
        "key": jax.random.key(0),
        "old_key": jax.random.PRNGKey(0),
    }
    assert list(adapter.named(weights=tree)) == ["weights/w", "weights/host"]
    assert list(adapter.named(weights=tree, more=[tree], include="w$", exclude="^w")) == [
        "more/0/w"
    ]
    with pytest.raises(ArgumentError, match="no regular expression"):
        adapter.named("(", weights=tree)


def test_docstrings(adapter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = doctest.testmod(adapter)
    assert (outcome.failed, outcome.attempted > 10) == (0, True)
    found = {step for _, _, step, _, _ in fasthist.read(tmp_path)}
    assert found == {0, 10}


# -- many devices, and wide numbers, in processes of their own -----------------------------------------------


def run(script, **variables):
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": PATH, "JAX_PLATFORMS": "cpu", **variables},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()


SHARDED = """
import jax, numpy as np, oracle, fasthist
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from fasthist.adapters.jax import count, histograms, to_histogram
devices = np.array(jax.devices())
assert devices.size == 8
values = np.random.default_rng(0).normal(0, 1, (16, 24)).astype(np.float32)
expected = oracle.answer(values, sums=False)
seen = 0
for shape, specs in {
    (8,): [P(), P("a")],
    (2, 4): [P("b"), P("a", "b"), P(("a", "b")), P(None, "b")],
    (2, 2, 2): [P(("a", "c"), "b")],
}.items():
    mesh = Mesh(devices.reshape(shape), ("a", "b", "c")[: len(shape)])
    for spec in specs:
        array = jax.device_put(values, NamedSharding(mesh, spec))
        tree = {"fc": [array], "host": values}
        for found in (histograms(tree), histograms(tree, buckets="tensorflow")):
            assert list(found) == ["fc/0", "host"]
            assert all(oracle.differences(one, expected) == [] for one in found.values()), (shape, spec)
        assert oracle.differences(fasthist.histogram(array), expected) == []
        names = tuple(name for part in spec if part for name in (part if isinstance(part, tuple) else (part,)))
        found = jax.jit(jax.shard_map(
            lambda x: count(x, names or None), mesh=mesh, in_specs=spec, out_specs=P(),
        ))(array)
        for found in (found, jax.jit(count)(array)):
            assert oracle.differences(to_histogram(found), expected) == [], (shape, spec)
            assert abs(to_histogram(found).sum - values.astype(float).sum()) < 1e-5
        seen += 1

mesh = Mesh(devices.reshape(2, 4), ("a", "b"))
array = jax.device_put(values, NamedSharding(mesh, P("a")))
shapes, reading = [], type(array).__array__
def __array__(self, *args, **kwargs):
    shapes.append(self.shape)
    return reading(self, *args, **kwargs)
type(array).__array__ = __array__
assert histograms({"x": array})["x"].num == values.size
assert values.shape not in shapes
assert fasthist.histogram(array).num == values.size
assert values.shape in shapes
with_explicit_axes = jax.make_mesh((2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
with jax.set_mesh(with_explicit_axes):
    array = jax.device_put(values, NamedSharding(with_explicit_axes, P("a", "b")))
    found = jax.jit(jax.sharding.auto_axes(count, out_sharding=P()))(array)
    assert oracle.differences(to_histogram(found), expected) == []
print(seen)
"""


def test_sharded_arrays_count_each_element_once(need):
    need("jax")
    assert run(SHARDED, XLA_FLAGS="--xla_force_host_platform_device_count=8") == ["7"]


TWO_PROCESSES = """
import sys, jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from fasthist.adapters.jax import histograms
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
values = np.random.default_rng(0).normal(0, 1, (4, 6)).astype(np.float32)
mesh = Mesh(np.array(jax.devices()).reshape(4), "a")
arrays = {
    name: jax.make_array_from_callback(values.shape, NamedSharding(mesh, spec), lambda i: values[i])
    for name, spec in {"divided": P("a"), "replicated": P()}.items()
}
for found in histograms(arrays).values():
    print(found.num, found.min, found.max)
"""


def run_two(script, devices):
    """Run a script in two processes of JAX; give the lines of each."""
    with socket.create_server(("localhost", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
    flags = f"--xla_force_host_platform_device_count={devices}"
    variables = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": PATH}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, address, str(i)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **variables},
        )
        for i in range(2)
    ]
    try:
        answers = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], answers
    told = [out.splitlines() for out, _ in answers]
    return [[line for line in lines if not line.startswith("[Gloo]")] for lines in told]


def test_each_process_counts_its_part(need):
    need("jax")
    values = np.random.default_rng(0).normal(0, 1, (4, 6)).astype(np.float32)
    parts = [f"12 {part.min()} {part.max()}" for part in values.astype(float).reshape(2, 12)]
    whole = f"24 {values.astype(float).min()} {values.astype(float).max()}"
    assert run_two(TWO_PROCESSES, 2) == [[parts[0], whole], [parts[1], "0 None None"]]


ADDED_UP = """
import sys, jax, numpy as np, oracle, fasthist
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from fasthist.adapters.jax import all_reduce, histograms
from fasthist.errors import ArgumentError
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
rng, me = np.random.default_rng(0), jax.process_index()
devices = np.array(jax.devices())
assert devices.size == 8

wholes, arrays = {}, {}
for number in range(200):
    shape = [(8,), (2, 4), (4, 2), (2, 2, 2)][number % 4]
    axes = ("a", "b", "c")[: len(shape)]
    mesh = Mesh(rng.permutation(devices).reshape(shape), axes)
    free = list(rng.permutation([*axes, *[None] * 3]))
    parts = [[axis for axis in (free.pop(), free.pop()) if axis] or None for _ in range(2)]
    spec = P(*(part and tuple(part) for part in parts))
    values = rng.normal(0, 10.0 ** rng.integers(-20, 20), (8, 16)).astype("f4")
    values[rng.random((8, 16)) < 0.1] = rng.choice([np.nan, np.inf, -np.inf, 0.0])
    tag = f"{number}: {shape} {spec}"
    wholes[tag] = values
    arrays[tag] = jax.make_array_from_callback(values.shape, NamedSharding(mesh, spec), lambda i: values[i])
order = list(arrays.items())
parts = histograms(dict(order[::-1] if me else order))
found = all_reduce(parts, step=3)
assert list(found) == list(parts)
wrong = [
    f"{tag} {name}" for tag, values in wholes.items() for name in oracle.differences(found[tag], oracle.answer(values))
]
print(len(found), wrong, sum(one.num for one in parts.values()) > 0)

# whatever mesh is set, and whatever the counts are as wide as
large = fasthist.histogram(np.ones(4), buckets=[0, 1, 2])
large = fasthist.Histogram(large.buckets, large.counts * np.uint64(2**40 + me), 5, 0, 2**42 + 4 * me + 5,
                           *(-1.0, 2.0, -7.5 - me, 1e300, 0, 0, 0, None, None, None))
with jax.set_mesh(jax.make_mesh((2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)):
    found = all_reduce({"x": large})["x"]
print(found.counts.tolist() == [0, 4 * (2**41 + 1)], found.num - 2**43, found.below_count, found.min, found.max, found.sum,
      found.sum_squares, found.neginf_count)
print(all_reduce({}))

tree = {f"layer{i}": fasthist.histogram([float(i)]) for i in range(3)}
without = {tag: one for tag, one in tree.items() if tag != "layer1"}
for mine, step in ((without if me else tree, 1), (tree if me else without, 1), (tree, me), ([] if me else tree, 1)):
    try:
        print(all_reduce(mine, step=step))
    except ArgumentError as error:
        print(error)
    assert all_reduce(tree, step=1)["layer2"].num == 2  # and the processes are as good as before
"""


def test_processes_add_up(need):
    need("jax")
    first, second = run_two(ADDED_UP, 4)
    assert first == second
    assert first[:3] == [
        "200 [] True",
        "True 14 10 -1.0 2.0 -16.0 2e+300 None",
        "{}",
    ]
    for told, expected in zip(
        first[3:],
        (
            "the ranks do not agree: rank 1 lacks 'layer1', which rank 0 has. Accepted: the same tags",
            "the ranks do not agree: rank 1 has 'layer1', which rank 0 lacks. Accepted",
            "the ranks do not agree: rank 1 has step 1, rank 0 0. Accepted",
            "nothing was added up, since not every rank has histograms. Rank 1: histograms=list is no dict.",
        ),
        strict=True,
    ):
        assert told.startswith(expected)


WIDE_NUMBERS = """
import jax, numpy as np, oracle
from strategies import limits_and_neighbours
from fasthist.adapters.jax import count, to_histogram
for name in ("float64", "int64", "uint64"):
    values = limits_and_neighbours(name)
    found = jax.jit(count)(values)
    assert found.slots.dtype == np.uint32
    assert oracle.differences(to_histogram(found), oracle.answer(values, sums=False)) == [], name
values = np.random.default_rng(0).normal(1, 1, 10001)
found = to_histogram(jax.jit(count)(values))
assert abs(found.sum - values.sum()) < 1e-9, found
print("right")
"""


def test_formats_of_64_bits(need):
    need("jax")
    assert run(WIDE_NUMBERS, JAX_ENABLE_X64="1") == ["right"]


def test_a_missing_framework_is_named():
    code = (
        "import sys; sys.modules['jax'] = None\n"
        "import fasthist\n"
        "try: import fasthist.adapters.jax\n"
        "except fasthist.FasthistError as error: print(str(error).split('Run: ')[1])\n"
    )
    assert run(code) == ["pip", "install", "jax"]


def test_complex_arrays_are_named_by_their_parts(jax, adapter):
    values = jax.numpy.array([1 + 2j, 3 - 4j])
    found = adapter.named(weights={"w": values, "n": jax.numpy.arange(3)})
    assert {tag: one.tolist() for tag, one in found.items()} == {
        "weights/w/real": [1, 3],
        "weights/w/imag": [2, -4],
    }


def test_torchs_writer_is_a_writer_within_jit(jax, adapter, need, tmp_path):
    need("torch"), need("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        jax.jit(lambda w, step: adapter.add_histograms(writer, {"w": w}, step))(
            jax.numpy.ones(3), 4
        )
        jax.effects_barrier()
    assert [(tag, step, one.num) for _, tag, step, _, one in fasthist.read(tmp_path)] == [
        ("w", 4, 3)
    ]
    with pytest.raises(fasthist.errors.ArgumentError, match="writer=7 takes no histograms"):
        adapter.add_histograms(7, {"w": jax.numpy.ones(3)}, 0)


# -- memory that JAX gives away ---------------------------------------------------------------------------


class OnGpu:
    """A JAX array on the CPU that gives its capsule for a GPU's stream, as one on a GPU does."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, stream=None):
        assert stream == 1
        return self.array.__dlpack__()


@pytest.mark.parametrize("held", [True, False])
def test_memory_is_not_given_away_while_it_is_counted(held, jax):
    from fasthist import gpu_intake

    doubled = jax.jit(lambda x: x * 2, donate_argnums=0)
    array = jax.block_until_ready(jax.numpy.ones(1 << 16))
    found = gpu_intake._from_dlpack(OnGpu(array), 0)
    address = found.address
    if not held:
        del found
    result = jax.block_until_ready(doubled(array))
    assert (result.unsafe_buffer_pointer() == address) == (not held)
