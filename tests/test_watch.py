"""`watch` logs what was trained, and training does not notice."""

from __future__ import annotations

import contextlib
import copy
import gc
import shutil
import subprocess
import sys
import warnings
import weakref

import numpy as np
import oracle
import pytest

import fasthist
from fasthist.errors import ArgumentError


class Recorder:
    """A sink that keeps all bucket counts, and the steps."""

    def __init__(self):
        self.steps = {}

    def add_histograms(self, tree, global_step=None):
        assert global_step not in self.steps
        self.steps[global_step] = fasthist.histograms(tree)

    def flush(self):
        pass

    def close(self):
        pass

    def differences(self, step, expected):
        """Say where the histograms of a step differ from the arrays that they should be of."""
        found = self.steps[step]
        wrong = sorted(found.keys() ^ expected.keys())
        for tag in found.keys() & expected.keys():
            answer = oracle.answer(expected[tag].detach().double().numpy().ravel(), sums=False)
            if not np.array_equal(found[tag].counts, answer.counts):
                wrong.append(tag)
        return wrong


@pytest.fixture
def torch(need):
    module = need("torch")
    module.manual_seed(0)
    return module


@pytest.fixture
def watch(need):
    need("torch")
    from fasthist.adapters.torch import watch

    return watch


def network(torch, dtype=None):
    torch.manual_seed(0)
    nn = torch.nn
    return nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.LayerNorm(16), nn.Linear(16, 1)
    ).to(dtype or torch.float32)


def batches(torch, count, dtype=None):
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(32, 8, generator=generator).to(dtype or torch.float32) for _ in range(count)
    ]


def train(torch, model, steps, *, on_step=None, before=None, micro=1):
    """Train and give the losses; `before` and `on_step` are called around the optimizer's step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    data = iter(batches(torch, steps * micro))
    for step in range(steps):
        optimizer.zero_grad()
        for _ in range(micro):
            loss = plain_loss(model, next(data))
            loss.backward()
        if before:
            before()
        optimizer.step()
        losses.append(loss.item())
        if on_step:
            on_step(step)
    return losses


def plain_loss(model, batch):
    return (model(batch) - batch.sum(1, keepdim=True)).square().mean()


# -- what is logged ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro", [1, 3])
def test_everything_logged_equals_an_independent_count(torch, watch, micro):
    model, sink = network(torch), Recorder()
    watched = watch(model, sink, ("all", "activations"), every=1)
    weights, outputs, expected = {}, {}, {}
    for name, module in model.named_children():
        module.register_forward_hook(
            lambda *found, name=name: outputs.setdefault(name, []).append(
                found[-1].detach().clone()
            )
        )

    def before():
        weights.update({name: one.detach().clone() for name, one in model.named_parameters()})

    def on_step(step):
        expected.clear()
        for name, one in model.named_parameters():
            expected[f"weights/{name}"] = one.detach().clone()
            expected[f"gradients/{name}"] = one.grad.clone()
            expected[f"updates/{name}"] = one.detach() - weights[name]
        for name, found in outputs.items():
            assert len(found) == micro
            expected[f"activations/{name}"] = torch.cat(found)
        outputs.clear()
        watched.step()
        assert sink.differences(step, expected) == []

    train(torch, model, 3, on_step=on_step, before=before, micro=micro)
    assert list(sink.steps) == [0, 1, 2]
    expected["weights/0.weight"][0, 0] += 1  # the comparison can fail
    assert sink.differences(2, expected) == ["weights/0.weight"]


def test_only_what_was_asked_for(torch, watch):
    model, sink = network(torch), Recorder()
    watched = watch(model, sink, "weights", every=1, include=r"\.weight$", exclude="^weights/3")
    train(torch, model, 1, on_step=watched.step)
    assert list(sink.steps[0]) == ["weights/0.weight", "weights/4.weight"]


def test_sixteen_bit_updates_are_what_the_step_added(torch, watch):
    model, sink = network(torch, torch.bfloat16), Recorder()
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    watched = watch(model, sink, "updates", every=1)
    with torch.no_grad():
        for one in model.parameters():
            one.mul_(1.01)
    watched.step()
    expected = {
        f"updates/{name}": one.double() - before[name].double()
        for name, one in model.named_parameters()
    }
    assert sink.differences(0, expected) == []


def test_tiny_bfloat16_gradients_are_not_zero(torch, watch):
    """Torch's add_histogram casts them to float16 first, and loses a quarter of them."""
    model, sink = torch.nn.Linear(256, 256, bias=False).to(torch.bfloat16), Recorder()
    model.weight.grad = (torch.randn(256, 256).abs() * 1e-7).to(torch.bfloat16)
    watch(model, sink, "gradients", every=1).step()
    expected = {"gradients/weight": model.weight.grad}
    assert sink.differences(0, expected) == []
    assert sink.steps[0]["gradients/weight"].zero_count == 0
    lost = (model.weight.grad.to(torch.float16) == 0).double().mean().item()
    assert 0.2 < lost < 0.3


def test_a_sparse_gradient_counts_the_rows_it_holds(torch, watch):
    model, sink = torch.nn.Embedding(50, 4, sparse=True), Recorder()
    model(torch.tensor([3, 7, 3])).square().sum().backward()
    watch(model, sink, "gradients", every=1).step()
    dense = model.weight.grad.to_dense()
    assert sink.differences(0, {"gradients/weight": dense[[3, 7]]}) == []


def test_activations_in_dicts_and_tuples_have_tags_of_their_own(torch, watch):
    class Two(torch.nn.Module):
        def forward(self, x):
            return {"first": x, "rest": (x + 1, x.long(), None)}

    class Outer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.two = Two()

        def forward(self, x):
            return self.two(x)["first"]

    model, sink = Outer(), Recorder()
    watched = watch(model, sink, "activations", every=1)
    x = torch.randn(10)
    model(x)
    model.eval()
    model(x)  # not trained with
    watched.step()
    expected = {"activations/two/first": x, "activations/two/rest/0": x + 1}
    assert sink.differences(0, expected) == []


def test_checkpointing_counts_activations_once(torch, watch):
    from torch.utils.checkpoint import checkpoint

    model, sink = network(torch), Recorder()
    watched = watch(model, sink, "activations", every=1)
    loss = checkpoint(model, batches(torch, 1)[0], use_reentrant=False).square().mean()
    loss.backward()
    watched.step()
    assert sink.steps[0]["activations/0"].num == 32 * 16


# -- when -------------------------------------------------------------------------------------------------


def test_every_tenth_step_and_no_hook_between(torch, watch):
    model, sink = network(torch), Recorder()
    hooks, copies = [], []

    def on_step(step):
        hooks.append(len(model[0]._forward_hooks))
        copies.append(len(watched._before))
        watched.step(step)

    watched = watch(model, sink, ("all", "activations"), every=10)
    train(torch, model, 25, on_step=on_step)
    assert list(sink.steps) == [0, 10, 20]
    assert [step for step, count in enumerate(hooks) if count] == [0, 10, 20]
    assert [step for step, count in enumerate(copies) if count] == [0, 10, 20]
    watched.close()
    watched.step(30)
    assert list(sink.steps) == [0, 10, 20]


def test_a_closed_watch_leaves_no_hook_and_no_copy(torch, watch):
    model = network(torch)
    with watch(model, Recorder(), ("all", "activations")) as watched:
        assert model[0]._forward_hooks
        assert watched._before
    assert not model[0]._forward_hooks
    assert not watched._before


@pytest.mark.parametrize(
    ("steps", "logged"),
    [
        (range(1, 26), [1, 10, 20]),  # counted from 1
        (range(1001, 1026), [1001, 1010, 1020]),  # a run that goes on
        (range(0, 200, 32), [0, 64, 96, 128, 160, 192]),  # each leaps over a multiple
        ([0, 1, 2, 50, 51, 0, 1, 2], [0, 51, 1]),  # a leap, and a run that begins anew: one late
    ],
)
def test_steps_of_the_users_own(torch, watch, steps, logged):
    sink = Recorder()
    watched = watch(torch.nn.Linear(2, 2), sink, "weights", every=10)
    for step in steps:
        watched.step(step)
    assert list(sink.steps) == logged


def test_an_optimizer_that_is_attached_counts_its_own_steps(torch, watch):
    model, sink = network(torch), Recorder()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, sink, every=2, optimizer=optimizer)
    for batch in batches(torch, 5):
        plain_loss(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()  # too early for anybody who looks after the loop's body
    assert list(sink.steps) == [0, 2, 4]
    assert "gradients/0.weight" in sink.steps[4]
    watched.close()
    optimizer.step()
    optimizer.step()
    assert list(sink.steps) == [0, 2, 4]


def test_a_loss_scaler_is_undone_before_gradients_are_read(torch, watch):
    model, sink = network(torch), Recorder()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    watched = watch(model, sink, "gradients", every=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = plain_loss(model, batches(torch, 1)[0])
    expected = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    watched.step()
    for (name, _), gradient in zip(model.named_parameters(), expected, strict=True):
        found = sink.steps[0][f"gradients/{name}"]
        assert found.max == pytest.approx(gradient.max().item(), rel=0.02, abs=1e-6)


# -- and training does not notice -------------------------------------------------------------------------


def test_training_is_the_same_to_the_bit(torch, watch):
    without = network(torch)
    torch.manual_seed(2)
    losses = train(torch, without, 12)
    model, sink = network(torch), Recorder()
    torch.manual_seed(2)
    watched = watch(model, sink, ("all", "activations"), every=5)
    assert train(torch, model, 12, on_step=watched.step) == losses
    for one, other in zip(model.parameters(), without.parameters(), strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one.grad, other.grad)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_model_has_no_break_and_is_not_compiled_again(torch, watch, backend):
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    from torch._dynamo.utils import counters

    def compiled():
        torch._dynamo.reset()
        counters.clear()
        return torch.compile(network(torch), backend=backend, fullgraph=True)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        model = compiled()
        torch.manual_seed(2)
        losses = train(torch, model, 25)
        graphs = counters["stats"]["unique_graphs"]
        model, sink = compiled(), Recorder()
        torch.manual_seed(2)
        with torch._dynamo.config.patch(error_on_recompile=True):
            watched = watch(model, sink, every=10)
            assert train(torch, model, 25, on_step=watched.step) == losses
    assert counters["stats"]["unique_graphs"] == graphs > 0
    assert not counters["graph_break"]
    assert list(sink.steps) == [0, 10, 20]
    assert "weights/0.weight" in sink.steps[0]


def test_no_tensor_is_kept(torch, watch):
    model, sink = network(torch), Recorder()
    watched = watch(model, sink, ("all", "activations"), every=1000)
    train(torch, model, 2, on_step=watched.step)
    kept = [weakref.ref(one) for one in model.parameters()]
    kept += [weakref.ref(one.grad) for one in model.parameters()]
    del model
    gc.collect()
    assert not any(one() is not None for one in kept)
    watched.step()


def test_wrapped_models_have_the_names_of_the_one_inside(torch, watch):
    model, sink = torch.nn.DataParallel(network(torch)), Recorder()
    watch(model, sink, "weights", every=1).step()
    assert list(sink.steps[0])[:2] == ["weights/0.weight", "weights/0.bias"]


# -- what cannot be done ----------------------------------------------------------------------------------


def test_gradients_that_are_gone_are_said_once(torch, watch):
    model, sink = network(torch), Recorder()
    watched = watch(model, sink, every=1)
    with pytest.warns(UserWarning, match="before zero_grad"):
        watched.step()
    watched.step()
    assert not any(tag.startswith("gradients") for tag in sink.steps[1])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"log": "grads"}, "log='grads' is not known"),
        ({"log": ()}, r"log=\(\) is not known"),
        ({"every": 0}, "every=0 must be a number of steps"),
        ({"include": "("}, r"include='\(' must be a regular expression"),
        ({"optimizer": "adam"}, "optimizer=str does not report its steps"),
        ({"model": [1.0]}, r"model=list is not a torch\.nn\.Module"),
    ],
)
def test_wrong_arguments_are_named(torch, watch, arguments, text):
    with pytest.raises(ArgumentError, match=text):
        watch(**{"model": network(torch), "writer": Recorder(), **arguments})


def test_activations_of_compiled_code_are_refused(torch, watch):
    model = torch.nn.Sequential(network(torch))
    for compiled in (torch.compile(model, backend="eager"), model):
        with pytest.raises(ArgumentError, match="compiled code runs no hooks"):
            watch(compiled, Recorder(), "activations")
        model[0].compile(backend="eager")


def test_a_parameter_without_memory_is_left_out_until_it_has_some(torch, watch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that lazy modules are new
        model, sink = torch.nn.LazyLinear(3), Recorder()
    watched = watch(model, sink, "all", every=1)
    model(torch.ones(2, 4)).sum().backward()
    watched.step()
    assert sorted(sink.steps[0]) == [
        "gradients/bias", "gradients/weight", "weights/bias", "weights/weight",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("module", "missing", "line"),
    [
        ("torch", "torch", "pip install torch"),
        ("torch_writer", "tensorboard", "pip install tensorboard"),
        ("lightning", "lightning.pytorch", "pip install lightning"),
        ("transformers", "transformers", "pip install transformers"),
    ],
)
def test_a_missing_framework_is_named_with_its_line(need, module, missing, line):
    need("torch")
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "import fasthist\n"
        f"try: import fasthist.adapters.{module}\n"
        "except fasthist.FasthistError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"Run: {line}\n" in done.stdout, done.stderr


def test_watching_loads_no_framework():
    code = "import sys, fasthist.adapters.watching, fasthist.sinks\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"torch", "keras", "tensorflow", "jax", "wandb", "lightning", "numba"}


# -- several models, and several watches -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrap", "names"),
    [
        (lambda G, D: {"G": G, "D": D}, ["G/weight", "G/bias", "D/weight", "D/bias"]),
        (lambda G, D: [G, D], ["0/weight", "0/bias", "1/weight", "1/bias"]),
        (lambda G, D: (G, D), ["0/weight", "0/bias", "1/weight", "1/bias"]),
    ],
)
def test_several_models_have_names_of_their_own(torch, watch, wrap, names):
    G, D = torch.nn.Linear(4, 3), torch.nn.Linear(3, 1)
    sink = Recorder()
    watched = watch(wrap(G, D), sink, "weights", every=1, prefix="gan/")
    watched.step(0)
    expected = [G.weight, G.bias, D.weight, D.bias]
    tags = [f"weights/gan/{name}" for name in names]
    assert sink.differences(0, dict(zip(tags, expected, strict=True))) == []


def test_activations_of_several_models_have_names_of_their_own(torch, watch):
    models, sink = {"a": network(torch), "b": network(torch)}, Recorder()
    watched = watch(models, sink, "activations", every=1)
    models["b"](batches(torch, 1)[0])
    watched.step(0)
    assert list(sink.steps[0]) == [f"activations/b/{place}" for place in range(5)]


def test_a_temporary_model_stands_for_the_modules_in_it(torch, watch):
    class Pair(torch.nn.Module):
        def __init__(self, one, other):
            super().__init__()
            self.one, self.other = one, torch.nn.Sequential(other)

    G, D, sink = network(torch), torch.nn.Linear(1, 1), Recorder()
    watched = watch(Pair(G, D), sink, ("all", "activations"), every=1)
    gc.collect()
    for step in range(2):
        D(G(batches(torch, 1)[0])).sum().backward()
        watched.step(step)
    assert {"weights/one.0.weight", "weights/other.0.bias", "gradients/one.4.bias"} <= sink.steps[
        1
    ].keys()
    assert {"activations/one.0", "activations/other.0"} <= sink.steps[1].keys()
    kept = weakref.ref(G[0].weight)
    del G
    gc.collect()
    assert kept() is None
    D(torch.ones(1, 1)).sum().backward()
    watched.step(2)
    assert sorted(tag for tag in sink.steps[2] if tag.startswith("w")) == [
        "weights/other.0.bias",
        "weights/other.0.weight",
    ]


def test_two_watches_that_would_write_one_tag_are_refused(torch, watch, tmp_path):
    G, D, sink = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), Recorder()
    first = watch(G, sink, "weights")
    for model in (G, D):
        with pytest.raises(ArgumentError, match=r"another watch\(\) writes 'weights/bias'"):
            watch(model, sink)
    others = [watch(D, sink, prefix="D"), watch(G, sink, "gradients"), watch(G, Recorder())]
    first.close()
    again = watch(D, sink, "weights")
    del again, others
    in_a_file = watch(G, tmp_path)
    with (
        fasthist.SummaryWriter(tmp_path) as writer,
        pytest.raises(ArgumentError, match="another watch"),
    ):
        watch(D, writer)
    in_a_file.close()


def test_a_cell_that_is_run_again_meets_no_ghost_of_its_own(torch, watch):
    sink = Recorder()
    for _ in range(2):
        model = network(torch)
        model.itself = [model]  # kept until the garbage is collected
        watched = watch(model, sink, "weights")
        watched.step()
        assert list(sink.steps) == [0]
        sink.steps.clear()


def test_one_step_is_logged_once(torch, watch):
    model, sink = network(torch), Recorder()  # which refuses a second time
    watched = watch(model, sink, "weights", every=1)
    for step in (3, 3, 4):
        watched.step(step)
    assert list(sink.steps) == [3, 4]


@pytest.mark.parametrize("name", ["log_freq", "log_every_n_steps", "histogram_freq", "interval"])
def test_what_others_call_every_is_named(torch, watch, name):
    with pytest.raises(ArgumentError, match=f"{name} is every= here"):
        watch(network(torch), Recorder(), **{name: 10})
    with pytest.raises(ArgumentError, match="Accepted: model, writer, log, every"):
        watch(network(torch), Recorder(), criterion=None)


# -- tensors that cannot be counted, and layers that change ------------------------------------------------


def odd_tensors(torch):
    """Give tensors by name, and what is logged of each."""
    values = torch.tensor([[1.0, 0.0], [0.0, -2.0]])
    quantised = torch.quantize_per_tensor(values, 0.1, 0, torch.qint8)
    imaginary = torch.complex(values, 2 * values)
    with torch._subclasses.FakeTensorMode():
        fake = torch.ones(2)
    return {
        "complex": (imaginary, {"/real": values, "/imag": 2 * values}),
        "conjugate": (imaginary.conj(), {"/real": values, "/imag": -2 * values}),
        "coo": (values.to_sparse(), {"": values[values != 0]}),
        "csr": (values.to_sparse_csr(), {"": values[values != 0]}),
        "csc": (imaginary.to_sparse_csc(), {"/real": values[values != 0], "/imag": 2 * values[values != 0]}),
        "jagged": (torch.nested.nested_tensor([values, values[:1]], layout=torch.jagged), {"": torch.cat([values, values[:1]])}),
        "nested": (torch.nested.nested_tensor([values, values[:1]]), {"": torch.cat([values, values[:1]])}),
        "uint32": (torch.tensor([1, 2], dtype=torch.uint32), {"": torch.tensor([1.0, 2.0])}),
        "meta": (torch.ones(2, device="meta"), None),
        "quantised": (quantised, None),
        "e8m0": (torch.tensor([1.0, 2.0]).to(torch.float8_e8m0fnu), {"": torch.tensor([1.0, 2.0])}),
        "fake": (fake, None),
    }  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["complex", "conjugate", "coo", "csr", "csc", "jagged", "nested", "uint32", "meta", "quantised", "e8m0", "fake"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*(prototype|beta|quantization|TypedStorage|deprecated)")
def test_a_tensor_that_cannot_be_counted_does_not_end_the_training(torch, watch, name):
    tensor, expected = odd_tensors(torch)[name]
    model, sink = torch.nn.Linear(2, 1), Recorder()
    model.register_parameter("odd", torch.nn.Parameter(tensor, requires_grad=False))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        watched = watch(model, sink, ("weights", "updates"), every=1)
        for step in range(2):
            watched.step(step)
    ours = [str(one.message) for one in told if str(one.message).startswith("fasthist: ")]
    found = {tag: one for tag, one in sink.steps[1].items() if tag.startswith("weights/odd")}
    assert {"weights/weight", "weights/bias", "updates/weight"} <= sink.steps[1].keys()
    if expected is None:
        assert not found
        assert len(ours) == 1
        assert "weights/odd" in ours[0]
    else:
        assert ours == []
        sink.steps[1] = found
        assert (
            sink.differences(1, {f"weights/odd{end}": one for end, one in expected.items()}) == []
        )


def test_activations_of_every_kind_leave_the_forward_pass_alone(torch, watch):
    class Give(torch.nn.Module):
        def forward(self, x):
            return x

    model = torch.nn.Sequential(Give())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensors = odd_tensors(torch)
        for name, (tensor, expected) in tensors.items():
            sink = Recorder()
            with watch(model, sink, "activations", every=1) as watched:
                assert model(tensor) is tensor
                watched.step(0)
            if expected is not None and name != "uint32":  # integers are no activations
                wanted = {f"activations/0{end}": one for end, one in expected.items()}
                assert sink.differences(0, wanted) == [], name
            else:
                assert not sink.steps[0], name


def test_updates_are_of_the_same_parameter_or_left_out(torch, watch):
    model, sink = torch.nn.Embedding(4, 2), Recorder()
    watched = watch(model, sink, "updates", every=1)
    changes = [
        lambda: setattr(
            model, "weight", torch.nn.Parameter(torch.ones(6, 2))
        ),  # a vocabulary grows
        lambda: setattr(model.weight, "data", torch.ones(7, 2)),
        lambda: setattr(
            model, "weight", torch.nn.Parameter(torch.ones(7, 2))
        ),  # another of the same shape
        lambda: model.to("meta"),
        lambda: model.to_empty(device="cpu"),
        model.double,
    ]
    for step, change in enumerate(changes):
        change()
        watched.step(2 * step)
        assert not sink.steps[2 * step], step
        watched.step(2 * step + 1)
        assert list(sink.steps[2 * step + 1]) == (
            [] if model.weight.is_meta else ["updates/weight"]
        )


# -- hooks disturb nobody ----------------------------------------------------------------------------------


def hooked(torch, watch, **arguments):
    model, sink = network(torch), Recorder()
    return model, sink, watch(model, sink, "activations", every=1, **arguments)


def hooks_of(model):
    return [len(one._forward_hooks) for one in model.modules()]


def copies(torch):
    import io
    import pickle

    def saved(model):
        file = io.BytesIO()
        torch.save(model, file)
        assert b"fasthist" not in file.getvalue()
        file.seek(0)
        return torch.load(file, weights_only=False)

    def pickled(model):
        data = pickle.dumps(model)
        assert b"fasthist" not in data
        return pickle.loads(data)

    return {"save": saved, "pickle": pickled, "deepcopy": copy.deepcopy}


@pytest.mark.parametrize("way", ["save", "pickle", "deepcopy"])
def test_copies_of_a_model_know_nothing_of_its_hooks(torch, watch, way):
    model, sink, watched = hooked(torch, watch)
    model[1].register_forward_hook(own_hook)
    assert sum(hooks_of(model)) == 6
    other = copies(torch)[way](model)
    assert hooks_of(other) == [0, 0, 1, 0, 0, 0]  # the user's own
    assert all("__getstate__" not in vars(one) for one in other.modules())
    assert model.state_dict().keys() == other.state_dict().keys()
    other(batches(torch, 1)[0])
    assert not watched._outputs
    model(batches(torch, 1)[0])
    watched.step(0)
    assert sink.steps[0]["activations/0"].num == 32 * 16
    watched.close()
    assert hooks_of(model) == [0, 0, 1, 0, 0, 0]
    assert all("__getstate__" not in vars(one) for one in model.modules())


def own_hook(module, inputs, output):
    """Do nothing, as a hook of the user's own."""
    del module, inputs, output


def transformed(torch):
    x, parameters = batches(torch, 1)[0], lambda model: dict(model.named_parameters())

    def grads(model):
        def loss(values, row):
            return torch.func.functional_call(model, values, (row,)).sum()

        by_row = torch.func.vmap(torch.func.grad(loss), (None, 0), randomness="same")
        return by_row(parameters(model), x)

    def fake(model):
        from torch._subclasses import FakeTensorMode

        with FakeTensorMode(allow_non_fake_inputs=True):
            return model(torch.ones(2, 8))

    return {
        "functional_call": lambda model: torch.func.functional_call(model, parameters(model), (x,)),
        "vmap of grad": grads,
        "export": lambda model: len(torch.export.export(model, (x,)).graph.nodes),
        "strict export": lambda model: len(torch.export.export(model, (x,), strict=True).graph.nodes),
        "make_fx": lambda model: len(torch.fx.experimental.proxy_tensor.make_fx(model)(x).graph.nodes),
        "trace": lambda model: len(list(torch.jit.trace(model, x, check_trace=False).inlined_graph.nodes())),
        "symbolic trace": lambda model: len(torch.fx.symbolic_trace(model).graph.nodes),
        "fake": fake,
        "compile": lambda model: torch.compile(model, backend="eager", fullgraph=True)(x),
    }  # fmt: skip


@pytest.mark.parametrize(
    "way",
    [
        "functional_call", "vmap of grad", "export", "strict export", "make_fx", "trace", "symbolic trace", "fake",
        "compile",
    ],
)  # fmt: skip
def test_transforms_of_a_model_know_nothing_of_its_hooks(torch, watch, way):
    import torch.fx.experimental.proxy_tensor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch says of old ways
        torch.manual_seed(3)
        plain = transformed(torch)[way](network(torch))
        torch.manual_seed(3)
        model, sink, watched = hooked(torch, watch)
        result = transformed(torch)[way](model)
        watched.step(0)
    if isinstance(plain, int):
        assert result == plain
    elif way == "vmap of grad":
        assert all(torch.equal(result[name], one) for name, one in plain.items())
    assert bool(sink.steps[0]) == (way == "functional_call")


def test_a_model_compiled_after_watch_is_told_of_once(torch, watch):
    for compiled in (
        lambda model: model.compile(backend="eager"),
        lambda model: torch.compile(model, backend="eager"),
    ):
        torch._dynamo.reset()
        model, sink, watched = hooked(torch, watch)
        run = compiled(model) or model
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for step in range(3):
                run(batches(torch, 1)[0])
                watched.step(step)
        ours = [str(one.message) for one in told if str(one.message).startswith("fasthist: ")]
        assert 1 <= len(ours) <= 2
        assert any("compiled" in text for text in ours)
        assert not any(sink.steps.values())
        watched.close()


def test_a_compiled_optimizer_step_is_counted(torch, watch):
    torch._dynamo.reset()
    model, sink = torch.nn.Linear(4, 1), Recorder()
    optimizer = torch.optim.Adam(model.parameters())
    watch(model, sink, every=1, optimizer=optimizer)
    step = torch.compile(optimizer.step, backend="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(3):
            model(torch.ones(2, 4)).sum().backward()
            step()
            expected = {"weights/weight": model.weight.clone()}
    assert list(sink.steps) == [0, 1, 2]
    sink.steps[2] = {tag: one for tag, one in sink.steps[2].items() if tag in expected}
    assert sink.differences(2, expected) == []


def test_many_forward_passes_keep_one_histogram(torch, watch):
    model, sink, watched = hooked(torch, watch)
    model(batches(torch, 1)[0])
    first = watched._outputs["activations/0"]
    for _ in range(9):
        model(batches(torch, 1)[0])
    kept = watched._outputs["activations/0"]
    assert type(kept) is type(first)
    assert kept.num == 10 * 32 * 16
    watched.step(0)
    assert (sink.steps[0]["activations/0"].counts == 10 * first.counts).all()


def test_hooks_go_with_the_watch_that_nobody_keeps(torch, watch):
    model = network(torch)
    watch(model, Recorder(), "activations", every=1)
    assert sum(hooks_of(model)) == 0
    watched = watch(model, Recorder(), "activations", every=1)
    assert sum(hooks_of(model)) == 5
    model(batches(torch, 1)[0])
    with pytest.raises(ZeroDivisionError), watched:
        1 / 0  # noqa: B018 - ends the training
    assert sum(hooks_of(model)) == 0


# -- other trainers ---------------------------------------------------------------------------------------


def test_accelerate_counts_the_steps_that_it_makes(torch, watch, need):
    accelerate = need("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, sink = network(torch), Recorder()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer = accelerator.prepare(model, optimizer)
    watch(model, sink, every=1, optimizer=optimizer)
    expected = {}
    for batch in batches(torch, 4):
        with accelerator.accumulate(model):
            accelerator.backward(plain_loss(model, batch))
            expected.update({f"gradients/{n}": p.grad.clone() for n, p in model.named_parameters()})
            optimizer.step()
            optimizer.zero_grad()
    assert list(sink.steps) == [0, 1]
    found = {tag: one for tag, one in sink.steps[1].items() if tag.startswith("gradients")}
    sink.steps[1] = found
    assert sink.differences(1, expected) == []


# -- torch's writer ---------------------------------------------------------------------------------------


def test_torchs_writer_with_our_histograms(torch, need, tmp_path):
    need("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter as TorchWriter

    from fasthist.adapters.torch import SummaryWriter

    values = torch.randn(1000)
    with SummaryWriter(tmp_path, filename_suffix=".x") as writer:
        assert isinstance(writer, TorchWriter)
        assert isinstance(writer, fasthist.SummaryWriter)
        writer.add_scalar("loss", 0.5, 1)
        writer.add_text("note", "hello", 1)
        writer.add_image("picture", torch.zeros(3, 4, 4), 1)
        writer.add_histogram("weights/fc", values, 1)
        writer.add_histograms({"weights/two": values}, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's way to draw a graph is old
            writer.add_graph(torch.nn.Linear(8, 2), values[:8].reshape(1, 8))
        writer.add_scalars("both", {"a": 1.0, "b": 2.0}, 1)
        writer.add_hparams({"lr": 0.1}, {"loss": 0.5}, run_name="hparams")
        writer.flush()
    writer.add_text("note", "again", 2)
    writer.close()
    files = sorted(tmp_path.glob("*tfevents*"))
    assert len(files) == 2
    assert all(path.name.endswith(".x") for path in files)
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    assert found.Scalars("loss")[0].value == 0.5
    assert [one.step for one in found.Tensors("note/text_summary")] == [1, 2]
    assert found.Images("picture")[0].height == 4
    assert found.Graph() is not None
    read = {tag: one for _, tag, _, _, one in fasthist.read(tmp_path)}
    assert read["weights/fc"].num == read["weights/two"].num == 1000
    assert read["weights/fc"].max == values.max().item()
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {
        "both_a", "both_b", "hparams",
    }  # fmt: skip


def test_torchs_writer_purges_as_ours_does(need, tmp_path):
    need("torch")
    need("tensorboard")
    from fasthist.adapters.torch import SummaryWriter

    with SummaryWriter(tmp_path, purge_step=3) as writer, contextlib.closing(writer):
        assert writer.default_bins == oracle.tensorflow_edges()[1:-1].tolist()
        assert writer.get_logdir() == str(tmp_path)
    with pytest.raises(AttributeError, match="no attribute 'add_nothing'"):
        writer.add_nothing()
    assert copy.copy(writer.log_dir) == str(tmp_path)
