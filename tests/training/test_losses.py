"""Joint objective, label smoothing and self-distillation, against formulas by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from configs import default
from eenet_jax import backbones
from eenet_jax.training import losses, objectives

K, B, C = 3, 4, 5


@pytest.fixture
def logits() -> np.ndarray:
    return 2 * np.random.default_rng(0).standard_normal((K, B, C), np.float32)


@pytest.fixture
def labels() -> np.ndarray:
    return np.array([0, 4, 2, 2], np.int32)


def _softmax(z):
    exponent = np.exp(np.float64(z) - z.max(-1, keepdims=True))
    return exponent / exponent.sum(-1, keepdims=True)


@pytest.mark.parametrize("num_exits", [1, 2, 3, 5])
def test_exit_weights_grow_linearly_and_sum_to_one_half(num_exits):
    weights = np.asarray(losses.exit_weights(num_exits))
    assert weights.shape == (num_exits,)
    np.testing.assert_allclose(weights.sum(), 0.5, rtol=1e-6)
    np.testing.assert_allclose(weights / weights[0], range(1, num_exits + 1), rtol=1e-6)


def test_exit_weights_of_two_exits_are_a_sixth_and_a_third():
    np.testing.assert_allclose(losses.exit_weights(2), [1 / 6, 1 / 3], rtol=1e-6)


def test_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([[[1.0, 3.0], [1.0, 1.0]], [[4.0, 1.0], [1.0, 9.0]]]))
    loss = losses.cross_entropy(logits, jnp.array([1, 0]))
    expected = -np.log([[3 / 4, 1 / 2], [1 / 5, 1 / 10]])
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_label_smoothing_equals_the_one_hot_formula(logits, labels):
    share = 0.2
    loss = losses.cross_entropy(logits, labels, share)
    target = (1 - share) * np.eye(C)[labels] + share / C
    expected = -(target * np.log(_softmax(logits))).sum(-1)
    assert loss.shape == (K, B)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_distillation_by_hand():
    # At T = 2 the teacher has (3/4, 1/4) and the student (1/2, 1/2).
    logits = jnp.array([[[1.0, 1.0]], [[2 * np.log(3), 0.0]]])
    expected = 2**2 * (3 / 4 * np.log(3 / 2) + 1 / 4 * np.log(1 / 2))
    np.testing.assert_allclose(losses.distillation(logits, 2.0), [expected], rtol=1e-5)


def test_distillation_sums_over_the_early_exits(logits):
    teacher = _softmax(logits[-1] / 3)
    expected = sum(
        9 * (teacher * np.log(teacher / _softmax(z / 3))).sum(-1) for z in logits[:-1]
    )
    np.testing.assert_allclose(losses.distillation(logits, 3.0), expected, rtol=1e-4)


@pytest.mark.parametrize("form", losses.DISTILL_FORMS)
def test_equal_exits_have_nothing_to_distil(form, logits):
    equal = jnp.broadcast_to(logits[:1], logits.shape) + 1.5  # shifts do not matter
    np.testing.assert_allclose(losses.distillation(equal, 3.0, form), 0, atol=1e-5)
    assert (losses.distillation(logits, 3.0, form) > 0).all()


@pytest.mark.parametrize("form", losses.DISTILL_FORMS)
def test_a_single_exit_has_nothing_to_distil(form, logits):
    loss = losses.distillation(logits[:1], 3.0, form)
    np.testing.assert_array_equal(loss, np.zeros(B))


def test_the_published_form_is_a_cth_of_the_per_sample_form(logits):
    ours = losses.distillation(logits, 3.0, "per_sample")
    published = losses.distillation(logits, 3.0, "published")
    np.testing.assert_allclose(published, ours / C, rtol=1e-5)


def test_only_the_published_form_teaches_the_teacher(logits):
    def grads(form):
        return jax.grad(lambda z: losses.distillation(z, 3.0, form).sum())(logits)

    ours, published = grads("per_sample"), grads("published")
    np.testing.assert_array_equal(ours[-1], np.zeros((B, C)))
    assert jnp.abs(published[-1]).max() > 1e-3
    np.testing.assert_allclose(published[:-1], ours[:-1] / C, rtol=1e-4, atol=1e-7)


def test_student_gradient_of_distillation_is_t_times_the_difference(logits):
    grad = jax.grad(lambda z: losses.distillation(z, 3.0).sum())(logits)
    expected = 3 * (_softmax(logits[:-1] / 3) - _softmax(logits[-1:] / 3))
    np.testing.assert_allclose(grad[:-1], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("given", [(), (0.5, 2.0, 1.0)])
def test_joint_loss_is_the_weighted_sum_plus_distillation(logits, labels, given):
    weights = np.array(given or [1 / 12, 2 / 12, 3 / 12])
    ce = np.asarray(losses.cross_entropy(logits, labels, 0.1))
    extra = np.asarray(losses.distillation(logits, 2.0, "published"))
    loss = losses.joint_loss(
        logits,
        labels,
        weights=given,
        label_smoothing=0.1,
        distill_weight=0.3,
        distill_temperature=2.0,
        distill_form="published",
    )
    assert loss.shape == (B,)
    np.testing.assert_allclose(loss, weights @ ce + 0.3 * extra, rtol=1e-5)


def test_joint_loss_of_indifferent_exits_is_half_of_log_c(labels):
    loss = losses.joint_loss(jnp.zeros((K, B, C)), labels, distill_weight=1.0)
    np.testing.assert_allclose(loss, np.full(B, np.log(C) / 2), rtol=1e-6)


def test_joint_loss_treats_samples_alone(logits, labels):
    loss = functools.partial(losses.joint_loss, distill_weight=0.5)
    whole = loss(logits, labels)
    some = loss(logits[:, [3, 1]], labels[[3, 1]])
    np.testing.assert_allclose(some, whole[np.array([3, 1])], rtol=1e-5)


def test_jit_changes_nothing(logits, labels):
    loss = functools.partial(losses.joint_loss, label_smoothing=0.1)
    plain = loss(logits, labels, distill_weight=0.5)
    jitted = jax.jit(loss)(logits, labels, distill_weight=0.5)
    np.testing.assert_allclose(jitted, plain, rtol=1e-5)


def test_gradients_agree_with_finite_differences(logits, labels):
    def published(z):
        return losses.joint_loss(
            z,
            labels,
            label_smoothing=0.1,
            distill_weight=0.5,
            distill_form="published",
        )

    def students(z):  # of per_sample: its teacher is a constant
        return losses.distillation(jnp.concatenate([z, logits[-1:]]), 3.0)

    check_grads(published, (logits,), order=1, modes=["rev"], rtol=2e-2)
    check_grads(students, (logits[:-1],), order=1, modes=["rev"], rtol=2e-2)


@pytest.mark.parametrize("form", losses.DISTILL_FORMS)
def test_saturated_logits_keep_loss_and_gradient_finite(form, labels):
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (K, B, C))

    def loss(z):
        return losses.joint_loss(
            z, labels, label_smoothing=0.1, distill_weight=1.0, distill_form=form
        ).sum()

    value, grad = jax.value_and_grad(loss)(jnp.asarray(1e4 * signs, jnp.float32))
    assert np.isfinite(value) and np.isfinite(grad).all()


def test_a_run_distils_from_its_share_of_steps_on(logits, labels):
    config = default.get_config()
    config.loss.update(label_smoothing=0.1, distill_weight=0.5, distill_start=0.75)
    backbone = backbones.build("resnet20", num_classes=4)
    loss_fn = jax.jit(objectives.build(config, backbone).loss(40))
    before = losses.joint_loss(logits, labels, label_smoothing=0.1)
    after = before + 0.5 * losses.distillation(logits, 3.0)
    for index, expected in ((0, before), (29, before), (30, after), (39, after)):
        loss = loss_fn(logits, labels, jnp.int32(index))
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
