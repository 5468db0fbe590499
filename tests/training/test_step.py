"""Steps and chunks: their formulas, overfitting, devices, pieces, and the NaN stop."""

import functools
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import default
from eenet_jax import distributed
from eenet_jax.data import sources
from eenet_jax.errors import UserError
from eenet_jax.training import losses, optim, step
from eenet_jax.training.plan import build_plan, epoch_pieces
from eenet_jax.training.record import Recorder

# Compiling costs most of a test's time, and these run once.
UNOPTIMISED = {"xla_backend_optimization_level": 0}
jit = functools.partial(jax.jit, compiler_options=UNOPTIMISED)

# A network of one matrix, quick to compile: logits [2, B, 3], noise as its dropout.


def _toy_apply(variables, x, *, train, rngs):
    noise = jax.random.uniform(rngs["dropout"], x.shape)
    logits = (x + 0.1 * noise) @ variables["params"]["kernel"]
    state = {"batch_stats": {"mean": 0.9 * variables["batch_stats"]["mean"] + 1.0}}
    return jnp.stack([logits, 2 * logits]), state


def _toy_loss(logits, labels, step_index):
    return losses.joint_loss(logits, labels) * (1 + step_index)  # sees the step


TOY = SimpleNamespace(apply=_toy_apply)
VARIABLES = {
    "params": {"kernel": np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)},
    "batch_stats": {"mean": np.zeros(2, np.float32)},
}
IMAGES = np.random.default_rng(0).integers(0, 9, (10, 4)).astype(np.uint8)
LABELS = np.arange(10, dtype=np.int32) % 3


def _toy(tx, *, with_average=False, ema_decay=0.0):
    """Returns a fresh state, and the step as ``run_chunk`` takes it."""
    variables = jax.tree.map(jnp.asarray, VARIABLES)
    average = jax.tree.map(jnp.copy, variables) if with_average else None
    opt_state = tx.init(variables["params"])
    state = step.TrainState(jnp.int32(0), variables, opt_state, average)
    options = {"tx": tx, "loss_fn": _toy_loss, "ema_decay": ema_decay}
    forward = step.whole_network(TOY)
    return state, functools.partial(step.train_step, forward=forward, **options)


def test_a_step_descends_the_gradient_of_the_mean_loss(key):
    state, step_fn = _toy(optax.sgd(0.5))
    x = IMAGES.astype(np.float32)
    new, metrics = jit(step_fn)(state, x, LABELS, key=key)

    def mean_loss(params):
        variables = {**state.variables, "params": params}
        logits, _ = _toy_apply(variables, x, train=True, rngs={"dropout": key})
        return losses.joint_loss(logits, LABELS).mean(), logits

    params = state.variables["params"]
    grad_fn = jit(jax.value_and_grad(mean_loss, has_aux=True))
    (loss, logits), grads = grad_fn(params)
    expected = params["kernel"] - 0.5 * grads["kernel"]
    np.testing.assert_allclose(new.variables["params"]["kernel"], expected, rtol=1e-5)
    np.testing.assert_array_equal(new.variables["batch_stats"]["mean"], [1, 1])
    assert int(new.step) == 1 and new.average is None
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    right = (np.asarray(logits).argmax(-1) == LABELS).mean(1)
    np.testing.assert_allclose(metrics["correct"], right, rtol=1e-6)


def test_the_average_moves_by_one_minus_the_decay(key):
    state, step_fn = _toy(optax.sgd(0.5), with_average=True, ema_decay=0.75)
    old = jax.tree.map(lambda leaf: leaf + 1.0, state.average)
    new, _ = jit(step_fn)(state.replace(average=old), IMAGES / 255.0, LABELS, key=key)
    expected = jax.tree.map(lambda a, v: 0.75 * a + 0.25 * v, old, new.variables)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5), new.average, expected
    )
    assert new.eval_variables is new.average
    assert state.replace(average=None).eval_variables is state.variables


def _toy_prepare(batch, labels, *, key):
    return batch / 9.0 + 0.1 * jax.random.uniform(key, batch.shape), labels


def _toy_chunk(step_fn):
    bound = {"prepare": _toy_prepare, "step_fn": step_fn}
    return jit(functools.partial(step.run_chunk, **bound))


def _rows(steps: int, batch: int = 4) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.stack([rng.permutation(10)[:batch] for _ in range(steps)])


@pytest.mark.parametrize("pieces", [[1] * 6, [3, 3], [1, 5]])
def test_a_chunk_is_its_steps_whatever_the_cut(pieces, key):
    rows = _rows(6)
    tx = optax.sgd(0.5, 0.9)
    state, step_fn = _toy(tx, with_average=True, ema_decay=0.9)
    run = _toy_chunk(step_fn)
    whole, expected = run(state, IMAGES, LABELS, rows, key=key)
    found = []
    for chunk in np.split(rows, np.cumsum(pieces)[:-1]):
        state, metrics = run(state, IMAGES, LABELS, chunk, key=key)
        found.append(metrics)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, state, whole)
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *found)
    jax.tree.map(close, joined, expected)
    assert joined["loss"].shape == (6,) and joined["correct"].shape == (6, 2)


def test_every_step_draws_fresh_randomness(key):
    state, step_fn = _toy(optax.sgd(0.0))
    rows = np.repeat(_rows(1), 3, axis=0)
    _, metrics = _toy_chunk(step_fn)(state, IMAGES, LABELS, rows, key=key)
    scaled = np.asarray(metrics["loss"]) / [1, 2, 3]  # see _toy_loss
    assert np.diff(np.sort(scaled)).min() > 1e-4


# The real thing: a small ResNet on the digits, as ``training.loop`` runs it.


@functools.cache
def _digits() -> sources.Dataset:
    return sources.load("digits", val_size=297)


def _plan(mesh, size: int = 1000, **changes):
    """Builds a plan for the first ``size`` digits; changes are ``section__field``."""
    config = default.get_config()
    config.model.name = "cifar_resnet"
    config.model.options = {"depth": 8, "width": 8, "reduction": 2}
    config.dtype = "float32"
    flat = {name.replace("__", "."): value for name, value in changes.items()}
    config.update_from_flattened_dict(flat)
    digits = _digits()
    train = sources.ImageSplit(digits.train.images[:size], digits.train.labels[:size])
    data = sources.Dataset(
        "digits", train, digits.val, digits.test, 10, digits.mean, digits.std
    )
    return build_plan(config, data, mesh), train


def _start(plan, mesh) -> step.TrainState:
    """Draws a state with NumPy: compiling ``plan.init`` would take longer."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            bound = 1 / math.sqrt(math.prod(leaf.shape[:-1]))
            return rng.uniform(-bound, bound, leaf.shape).astype(np.float32)
        return np.full(leaf.shape, float(path[-1].key in ("scale", "var")), np.float32)

    shapes = jax.eval_shape(plan.init, jax.random.key(0))
    variables = jax.tree_util.tree_map_with_path(draw, shapes.variables)
    state = step.TrainState(
        step=np.int32(0),
        variables=variables,
        opt_state=plan.tx.init(variables["params"]),
        average=None if shapes.average is None else variables,
    )
    assert jax.tree.structure(state) == jax.tree.structure(shapes)
    return distributed.replicate(state, mesh)


def _run(plan, mesh, train, rows, key):
    """Takes the steps as the loop does; returns the state and each step's metrics."""
    images, labels = distributed.replicate((train.images, train.labels), mesh)
    key = distributed.replicate(key, mesh)
    state, results = _start(plan, mesh), []
    rows = rows[:, None].astype(np.int32)
    rows = jax.device_put(rows, distributed.batch_sharding(mesh, axis=2))
    lowered = plan.run_chunk.lower(state, images, labels, rows[0], key=key)
    run_chunk = lowered.compile(compiler_options=UNOPTIMISED)
    for row in rows:
        state, metrics = run_chunk(state, images, labels, row, key=key)
        results.append(jax.device_get(metrics))
    return jax.device_get(state), results


def test_thirty_steps_learn_32_examples_by_heart(key):
    mesh = distributed.data_mesh(jax.devices()[:1])
    fields = {"optimizer__name": "adamw", "optimizer__learning_rate": 0.1}
    fields |= {"schedule__name": "constant", "model__options__reduction": 1}
    fields |= {"train__batch_size": 32, "train__epochs": 30}
    plan, train = _plan(mesh, size=32, **fields)
    rows = np.tile(np.arange(32), (30, 1))
    _, results = _run(plan, mesh, train, rows, key)
    np.testing.assert_array_equal(results[-1]["correct"], np.ones((1, 3)))
    assert results[-1]["loss"] < 0.1 * results[0]["loss"]


@pytest.mark.slow
def test_eight_devices_end_with_the_parameters_of_one(key):
    rows = np.random.default_rng(2).permutation(1000)[: 3 * 64].reshape(3, 64)
    fields = {"data__crop_padding": 1, "train__batch_size": 64}
    ends, seen = [], []
    for mesh in (distributed.data_mesh(jax.devices()[:1]), distributed.data_mesh()):
        plan, train = _plan(mesh, optimizer__learning_rate=0.05, **fields)
        state, results = _run(plan, mesh, train, rows, key)
        ends.append(state)
        seen.append([metrics["loss"] for metrics in results])
    one, eight = ends
    np.testing.assert_allclose(seen[1], seen[0], rtol=1e-5)

    def close(a, b):
        atol = 1e-5 * max(1.0, np.abs(a).max())
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=atol)

    jax.tree.map(close, one.variables, eight.variables)
    assert one.step == eight.step == 3


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_chunk_keeps_shapes_and_types_of_the_state(name, ema_decay, key):
    plan, train = _plan(
        distributed.data_mesh(),
        train__ema_decay=ema_decay,
        optimizer__name=name,
        data__flip=True,
    )
    state = jax.eval_shape(plan.init, key)
    rows = np.zeros((4, 64), np.int32)
    run = functools.partial(plan.run_chunk, key=key)
    new, metrics = jax.eval_shape(run, state, train.images, train.labels, rows)
    specs = [
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), t) for t in (state, new)
    ]
    assert specs[0] == specs[1]
    assert (new.average is None) == (ema_decay == 0)
    assert metrics["loss"].shape == (4,) and metrics["correct"].shape == (4, 3)


def test_pieces_cover_an_epoch_with_two_lengths_at_most():
    for longest in (1, 2, 3, 7, 50, 100):
        for steps in (*range(1, 130), 351, 390, 1000, 9999):
            pieces = epoch_pieces(steps, longest)
            starts, ends = zip(*pieces, strict=True)
            assert starts == (0, *ends[:-1]) and ends[-1] == steps
            lengths = {end - start for start, end in pieces}
            assert len(lengths) <= 2 and max(lengths) - min(lengths) <= 1
            assert 1 <= min(lengths) and max(lengths) <= longest


@pytest.fixture
def recorder():
    """A recorder, and the (step, scalars) that it wrote."""
    written = []
    writer = SimpleNamespace(write=lambda *line: written.append(line), close=str)
    progress = SimpleNamespace(update=print, line=print, close=str)
    options = {"schedule": lambda s: 0.5 * s, "steps_per_epoch": 4, "batch_size": 8}
    return Recorder(writer, progress, **options), written


def _metrics(*loss_values: float):
    loss = np.array(loss_values, np.float32)
    return {"loss": loss, "correct": np.full((len(loss), 2), [0.25, 0.5])}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_its_step(bad, recorder):
    built, written = recorder
    built.chunk(12, [_metrics(1.0, 2.0), _metrics(bad, np.nan)])
    with pytest.raises(UserError, match=rf"loss is {bad} at step 11: .*learning_rate"):
        built.flush()
    assert not written


def test_metrics_are_written_one_chunk_late(recorder):
    built, written = recorder
    built.chunk(2, [_metrics(1.0), _metrics(3.0)])
    assert not written
    built.chunk(4, [_metrics(5.0, 7.0)])
    assert [line[0] for line in written] == [2]
    built.flush()
    built.flush()
    assert [line[0] for line in written] == [2, 4]
    scalars = written[1][1]
    assert scalars.pop("train/samples_per_second") > 0
    assert scalars == {
        "epoch": 1.0,
        "train/loss": 6.0,
        "train/learning_rate": 1.5,
        "train/accuracy/exit_1": 0.25,
        "train/accuracy/exit_2": 0.5,
    }
