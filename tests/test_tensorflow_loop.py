"""Loops with ``tf.GradientTape``, eager and traced, log what NumPy counts."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import oracle
import pytest
from test_watch import Recorder

import fasthist
from fasthist.errors import ArgumentError


@pytest.fixture
def adapter(need):
    need("tensorflow")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fasthist.adapters import tensorflow
    return tensorflow


def differences(found, expected):
    wrong = sorted(found.keys() ^ expected.keys())
    for tag in found.keys() & expected.keys():
        counts = oracle.answer(np.asarray(expected[tag], np.float64).ravel(), sums=False).counts
        if not np.array_equal(found[tag].counts, counts):
            wrong.append(tag)
    return wrong


@pytest.mark.parametrize("traced", [False, True])
def test_a_loop_of_ones_own(need, adapter, traced):
    tf = need("tensorflow")
    sink, traces, expected = Recorder(), [], {}
    generator = np.random.default_rng(0)
    table = tf.Variable(generator.normal(size=(20, 4)).astype(np.float32), name="table")
    kernel = tf.Variable(tf.cast(generator.normal(size=(4, 3)), tf.bfloat16), name="kernel")
    bias, unused = tf.Variable(np.zeros(3, np.float32)), tf.Variable(np.zeros(3, np.float32))
    variables = [table, kernel, bias, unused]

    def train(words, step):
        traces.append(1)
        with tf.GradientTape() as tape:
            rows = tf.gather(table, words)
            loss = tf.reduce_sum((rows @ tf.cast(kernel, tf.float32) + bias) ** 2)
        found = tape.gradient(loss, variables)
        adapter.add_histograms(
            sink,
            {**adapter.weights(variables), **adapter.gradients(found, variables)},
            step,
            every=3,
        )
        for one, variable in zip(found[1:3], variables[1:3], strict=True):
            variable.assign_sub(0.01 * one)
        return found

    run = tf.function(train) if traced else train
    for step in range(7):
        words = tf.constant([1, 5, 1, 7 + step])
        before = {
            f"weights/{name}": one.numpy()
            for name, one in zip(
                ("table", "kernel", "Variable", "Variable_1"), variables, strict=True
            )
        }
        found = run(words, tf.constant(step, tf.int64))
        rows = tf.convert_to_tensor(found[0]).numpy()[[1, 5, 7 + step]]
        expected[step] = {
            **before, "gradients/table": rows, "gradients/kernel": found[1].numpy(),
            "gradients/Variable": found[2].numpy(),
        }  # fmt: skip
    assert list(sink.steps) == [0, 3, 6]
    assert all(differences(sink.steps[step], expected[step]) == [] for step in (0, 3, 6))
    assert differences(sink.steps[6], expected[0]) != []  # it can fail
    assert len(traces) == (1 if traced else 7)


def test_a_keras_model_keeps_its_paths(need, adapter):
    tf, keras = need("tensorflow"), need("keras")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("Keras runs on another backend")
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2, name="fc")])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(tf.ones((4, 3))))
    found = tape.gradient(loss, model.trainable_variables)
    sink = Recorder()
    tree = {**adapter.weights(model), **adapter.gradients(found, model.trainable_variables)}
    adapter.add_histograms(sink, tree, tf.Variable(5))
    paths = [one.path for one in model.weights]
    assert list(sink.steps[5]) == [
        f"{kind}/{path}" for kind in ("weights", "gradients") for path in paths
    ]
    expected = {f"weights/{one.path}": one.numpy() for one in model.weights}
    weights = {tag: one for tag, one in sink.steps[5].items() if tag in expected}
    assert differences(weights, expected) == []


def test_names_differ_and_a_module_has_its_own(need, adapter):
    tf = need("tensorflow")
    module = tf.Module()
    module.a, module.b, module.c = (tf.Variable([1.0], name=name) for name in ("w", "w", "w_1"))
    assert list(adapter.weights(module)) == ["weights/w", "weights/w_1", "weights/w_1_1"]


def test_what_is_not_due_is_not_worked_out(need, adapter):
    tf = need("tensorflow")
    table = tf.Variable(tf.ones((20, 4)), name="table")

    @tf.function
    def train(words, step):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.gather(table, words))
        found = adapter.gradients(tape.gradient(loss, [table]), [table])
        adapter.add_histograms(Recorder(), found, step, every=2)

    graph = train.get_concrete_function(tf.constant([1, 1]), tf.constant(0, tf.int64)).graph
    outside = {one.type for one in graph.get_operations()}
    within = {one.op for f in graph.as_graph_def().library.function for one in f.node_def}
    costly = {"Unique", "UnsortedSegmentSum", "EagerPyFunc"}
    assert "If" in outside
    assert outside & costly == set()
    assert within >= costly


@pytest.mark.parametrize("traced", [False, True])
def test_a_step_sees_what_the_variables_hold_where_it_is_called(need, adapter, traced):
    tf = need("tensorflow")
    sink, one = Recorder(), tf.Variable([0.0], name="w")

    def train(step):
        one.assign([3.0])
        adapter.add_histograms(sink, adapter.weights([one]), step)
        one.assign([7.0])

    (tf.function(train) if traced else train)(tf.constant(4))
    assert (sink.steps[4]["weights/w"].min, one.numpy().item()) == (3.0, 7.0)


def test_into_a_file(need, adapter, tmp_path):
    tf = need("tensorflow")
    values = tf.constant(np.random.default_rng(0).normal(size=500).astype(np.float32))
    with fasthist.SummaryWriter(tmp_path) as writer:
        add = tf.function(lambda step: adapter.add_histograms(writer, {"x": values}, step, every=2))
        for step in range(5):
            add(tf.constant(step))
    found = {step: one for _, _, step, _, one in fasthist.read(tmp_path)}
    assert sorted(found) == [0, 2, 4]
    assert all(one.num == 500 and one.max == values.numpy().max() for one in found.values())


def test_what_is_wrong_is_said(need, adapter):
    tf = need("tensorflow")
    with pytest.raises(ArgumentError, match="every=0 must be a number of steps"):
        adapter.add_histograms(Recorder(), {}, 1, every=0)

    @tf.function
    def traced():
        adapter.add_histograms(Recorder(), {"x": tf.ones(2)}, 1)

    with pytest.raises(Exception, match=r"step=1 is a Python number within a tf\.function"):
        traced()

    failing = tf.function(
        lambda step: adapter.add_histograms(Recorder(), {"x": tf.ones(2, tf.complex64)}, step)
    )
    with pytest.raises(tf.errors.OpError, match="x: dtype complex64 cannot be counted"):
        failing(tf.constant(1))


def test_a_missing_framework_is_named():
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "import fasthist\n"
        "try: import fasthist.adapters.tensorflow\n"
        "except fasthist.FasthistError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Run: pip install tensorflow\n" in done.stdout


@pytest.mark.parametrize("traced", [False, True])
def test_tensorflows_own_writer_is_a_writer(need, adapter, tmp_path, traced):
    tf = need("tensorflow")
    need("tensorboard")
    writer, w = tf.summary.create_file_writer(str(tmp_path)), tf.Variable(np.arange(5.0))

    def log(step):
        adapter.add_histograms(writer, {"w": w}, step, every=2)

    log = tf.function(log) if traced else log
    for step in range(4):
        log(tf.constant(step, tf.int64))
    writer.close()
    found = [(tag, step, one.num) for _, tag, step, _, one in fasthist.read(tmp_path)]
    assert found == [("w", 0, 5), ("w", 2, 5)]


def test_a_path_is_no_writer_for_a_single_call(adapter, tmp_path):
    with pytest.raises(ArgumentError, match=r"Hint: fasthist\.SummaryWriter\(path\)"):
        adapter.add_histograms(str(tmp_path), {"w": [1.0]}, 0)
