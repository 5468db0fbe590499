"""Losses and metrics where every pixel has a class."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from eenet_jax import iou, map_inference
from eenet_jax.data.map_records import VOID
from eenet_jax.map_inference import confusion
from eenet_jax.schedulers.evidence import pooled
from eenet_jax.training import losses, map_losses
from tests import maps


@pytest.fixture
def given():
    """Logits [2, 3, 4, 5, 3] and label maps of twice the side, a third of them void."""
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(2, 3, 4, 5, 3)), jnp.float32)
    labels = rng.integers(0, 3, (3, 8, 10)).astype(np.uint8)
    labels[rng.random(labels.shape) < 1 / 3] = VOID
    return logits, labels


def test_void_pixels_are_as_good_as_dropped(given):
    logits, labels = given
    weights = (0.5, 1.0, 2.0)
    found = map_losses.pixel_cross_entropy(logits, labels, class_weights=weights)
    assert found.shape == (2, 3)
    full = map_inference.resize_logits(logits, labels.shape[1:])
    known = labels != VOID
    of_pixel = jnp.asarray(weights)[labels[known]]
    for k in range(2):
        loss = optax.softmax_cross_entropy_with_integer_labels(
            full[k][known], labels[known].astype(np.int32)
        )
        expected = (of_pixel * loss).sum() / of_pixel.sum()
        np.testing.assert_allclose(found[k].mean(), expected, rtol=1e-5)
    other = np.where(known, labels, VOID)
    changed = logits.at[:, :, 0].add(0.0)
    np.testing.assert_array_equal(
        found,
        map_losses.pixel_cross_entropy(changed, other, class_weights=weights),
    )


def test_all_void_gives_zero_and_finite_gradients(given):
    logits, labels = given
    nothing = np.full_like(labels, VOID)

    def total(logits):
        return map_losses.pixel_cross_entropy(logits, nothing).sum()

    value, grads = jax.value_and_grad(total)(logits)
    assert value == 0 and not np.abs(grads).any()


def test_gradients_and_label_smoothing(given):
    logits, labels = given

    def total(logits):
        options = {"label_smoothing": 0.1, "class_weights": (1.0, 2.0, 3.0)}
        return map_losses.pixel_cross_entropy(logits, labels, **options).sum()

    check_grads(total, (logits,), order=1, modes=["rev"], rtol=2e-2)


def test_resizing_is_half_pixel_bilinear():
    logits = jnp.array([0.0, 1.0]).reshape(1, 2, 1, 1)
    found = map_inference.resize_logits(logits, (4, 1))[0, :, 0, 0]
    np.testing.assert_allclose(found, [0.0, 0.25, 0.75, 1.0])


def test_joint_loss_of_maps_distils_place_by_place(given):
    logits, labels = given
    plain = losses.joint_loss(logits, labels, weights=(1.0, 1.0))
    expected = map_losses.pixel_cross_entropy(logits, labels).sum(axis=0)
    np.testing.assert_allclose(plain, expected, rtol=1e-6)
    taught = losses.joint_loss(
        logits, labels, weights=(1.0, 1.0), distill_weight=1.0, distill_temperature=2.0
    )
    places = logits.reshape(2, 3 * 20, 3)
    extra = losses.distillation(places, 2.0).reshape(3, 20).mean(axis=1)
    np.testing.assert_allclose(taught - plain, extra, rtol=1e-4)


def test_hits_count_labelled_places(given):
    logits, labels = given
    found = map_losses.pixel_hits(logits, labels)
    middle = labels[:, 1::2, 1::2]
    right = (np.asarray(logits).argmax(-1) == middle) & (middle != VOID)
    np.testing.assert_allclose(found, right.sum((1, 2, 3)) / (middle != VOID).sum())


def test_confusion_counts_every_labelled_pixel_once(given):
    logits, labels = given
    counts = np.asarray(confusion(logits, labels))
    answers = np.asarray(map_inference.resize_logits(logits, (8, 10))).argmax(-1)
    for k in range(2):
        for b in range(3):
            for i in range(3):
                for j in range(3):
                    both = (labels[b] == i) & (answers[k, b] == j)
                    assert counts[k, b, i, j] == both.sum()


def test_iou_by_hand():
    counts = np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]])
    np.testing.assert_allclose(iou.class_iou(counts), [3 / 6, 4 / 7, np.nan])
    assert iou.mean_iou(counts) == pytest.approx((3 / 6 + 4 / 7) / 2)
    assert iou.mean_iou(np.zeros((3, 3))) == 0
    counts = np.array([[3, 0, 1], [0, 4, 0], [0, 0, 0]])  # class 2 is only answered
    assert iou.image_iou(counts) == pytest.approx((3 / 4 + 1) / 2)
    assert iou.mean_iou(counts) == pytest.approx((3 / 4 + 1 + 0) / 3)


def test_pooled_maps_are_means_over_pixels(given):
    logits, _ = given
    mean, confidence = pooled(logits)
    probs = np.asarray(jax.nn.softmax(logits))
    np.testing.assert_allclose(np.exp(mean), probs.mean((2, 3)), rtol=1e-5)
    np.testing.assert_allclose(confidence, probs.max(-1).mean((2, 3)), rtol=1e-5)


def test_toy_data_have_void_and_all_classes():
    labels = maps.arrays(0, 4)["labels"]
    assert set(np.unique(labels)) == {0, 1, 2, VOID}
