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
        ({"every": 0}, "every=0 is no number of steps"),
        ({"include": "("}, r"include='\(' is no regular expression"),
        ({"optimizer": "adam"}, "optimizer=str tells nobody of its steps"),
        ({"model": [1.0]}, r"model=list is no torch\.nn\.Module"),
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
