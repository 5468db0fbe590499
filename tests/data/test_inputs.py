"""Splits of all kinds as inputs and feeds: every sample once, shapes, masks, orders."""

import jax
import numpy as np
import pytest

from eenet_jax import distributed
from eenet_jax.data import feeds, folder, inputs
from eenet_jax.data.datasets import Dataset, ImageSplit, TextSplit
from eenet_jax.data.stream import StreamSplit

LENGTHS = np.array([3, 9, 4, 16, 2, 7, 12, 5, 6, 15, 3], np.int32)


def texts() -> Dataset:
    """Eleven texts whose tokens tell which text they are of."""
    count, longest = len(LENGTHS), int(LENGTHS.max())
    real = np.arange(longest)[None] < LENGTHS[:, None]
    ids = np.where(real, 100 + np.arange(count)[:, None], 0).astype(np.int32)
    part = TextSplit(ids, LENGTHS, np.arange(count, dtype=np.int32))
    return Dataset("texts", part, part, part, count, boundaries=(4, 8, 24))


def pictures(size: int = 10) -> Dataset:
    values = np.arange(size, dtype=np.uint8)[:, None, None, None]
    part = ImageSplit(np.broadcast_to(values, (size, 4, 4, 1)), np.arange(size))
    return Dataset("pictures", part, part, part, size, (0.5,), (0.5,))


@pytest.mark.parametrize("dataset", [texts(), pictures()], ids=["texts", "pictures"])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_evaluation_sees_every_sample_once(dataset, batch_size):
    seen = []
    found = list(inputs.eval_batches(dataset, dataset.test, batch_size))
    for batch in found:
        leaves = jax.tree.leaves(batch.inputs)
        assert all(len(leaf) == batch_size for leaf in (*leaves, batch.mask))
        seen += batch.rows[batch.mask].tolist()
    assert sorted(seen) == list(range(len(dataset.test.labels)))
    count = inputs.num_eval_batches(dataset, dataset.test, batch_size)
    assert count == len(found)


@pytest.mark.parametrize("dataset", [texts(), pictures()], ids=["texts", "pictures"])
def test_hosts_have_parts_of_the_same_batches(dataset):
    whole = list(inputs.eval_batches(dataset, dataset.test, 4))
    hosts = [
        inputs.eval_batches(dataset, dataset.test, 4, host_index=i, host_count=2)
        for i in range(2)
    ]
    for batch, *parts in zip(whole, *hosts, strict=True):
        for part in parts:
            np.testing.assert_array_equal(part.rows, batch.rows)
            np.testing.assert_array_equal(part.mask, batch.mask)
        joined = jax.tree.map(lambda *a: np.concatenate(a), *(p.inputs for p in parts))
        jax.tree.map(np.testing.assert_array_equal, joined, batch.inputs)


def test_texts_are_cut_to_their_bucket_and_masked():
    dataset = texts()
    prepare = inputs.prepare_eval(dataset)
    widths = set()
    for batch in inputs.eval_batches(dataset, dataset.test, 2):
        x = jax.tree.map(np.asarray, prepare(batch.inputs))
        widths.add(x["ids"].shape[1])
        for row, ids, mask in zip(batch.rows, x["ids"], x["mask"], strict=True):
            assert mask.sum() == LENGTHS[row]
            np.testing.assert_array_equal(ids, np.where(mask, 100 + row, 0))
    assert widths == {4, 8, 24}  # the last is longer than any text


def test_groups_too_small_for_a_batch_join_others():
    dataset = texts()  # 4 texts up to 4 tokens, 3 up to 8, 4 up to 24

    def labels(size):
        groups = inputs.train_groups(dataset, size)
        return [sorted(part.tolist()) for _, part in groups]

    assert labels(2) == [[0, 2, 4, 10], [5, 7, 8], [1, 3, 6, 9]]
    assert labels(4) == [[0, 2, 4, 10], [1, 3, 5, 6, 7, 8, 9]]
    assert labels(5) == [list(range(11))]


def test_an_example_of_text_has_the_mean_padded_length():
    x = inputs.example(texts(), 2)
    expected = round((4 * 4 + 3 * 8 + 4 * 24) / 11)
    assert x["ids"].shape == x["mask"].shape == (2, expected)


def collect(feed, epoch: int, most: int):
    """Labels of every step's batch, and how many steps each call took."""
    labels, sizes = [], []
    for call in feed.calls(epoch, 0, feed.steps_per_epoch, most):
        if call.rows is None:
            labels.append(np.asarray(call.labels))
            sizes.append(1)
            continue
        labels += list(np.asarray(call.labels)[np.asarray(call.rows)])
        sizes.append(len(call.rows))
    return np.stack(labels), sizes


def test_a_memory_feed_sends_full_batches_of_one_group():
    mesh = distributed.data_mesh(jax.devices()[:1])
    for dataset, batch_size, steps in ((pictures(), 3, 3), (texts(), 2, 5)):
        groups = inputs.train_groups(dataset, batch_size)
        feed = feeds.MemoryFeed(groups, seed=0, batch_size=batch_size, mesh=mesh)
        assert feed.steps_per_epoch == steps
        labels, sizes = collect(feed, 0, most=2)
        assert labels.shape == (steps, batch_size)
        assert len(np.unique(labels)) == labels.size
        assert sizes == ([2, 1] if len(groups) == 1 else [1] * steps)
        again, _ = collect(feed, 0, most=1)
        np.testing.assert_array_equal(labels, again)
        assert (labels != collect(feed, 1, most=1)[0]).any()
        assert feed.input_wait() is None


def test_a_stream_feed_goes_on_over_epochs_and_resumes(tmp_path):
    from PIL import Image

    for i in range(7):
        target = tmp_path / "train" / f"class{i}"
        target.mkdir(parents=True)
        Image.new("RGB", (30, 30), (i, i, i)).save(target / "a.png")
    (tmp_path / "test" / "class0").mkdir(parents=True)
    Image.new("RGB", (30, 30)).save(tmp_path / "test" / "class0" / "a.png")
    records, _ = folder.read(folder.find(tmp_path))
    split = StreamSplit(records["train"], records["train"].labels, np.arange(7), 8, 9)
    options = {
        "seed": 0,
        "batch_size": 3,
        "mesh": distributed.data_mesh(jax.devices()[:1]),
        "flip": True,
        "num_workers": 0,
    }
    feed = feeds.StreamFeed(split, **options)
    assert feed.steps_per_epoch == 2
    first, second = (collect(feed, epoch, 1)[0] for epoch in (0, 1))
    assert (first != second).any()
    assert 0 <= feed.input_wait() <= 1
    resumed = feeds.StreamFeed(split, **options)
    np.testing.assert_array_equal(collect(resumed, 1, 1)[0], second)
    late = next(iter(resumed.calls(0, 1, 2, 1)))  # back, and into the middle
    np.testing.assert_array_equal(late.labels, first[1])
    pixels = np.asarray(late.inputs)
    assert pixels.shape == (3, 8, 8, 3)
    np.testing.assert_array_equal(pixels[:, 0, 0, 0], late.labels)
    for built in (feed, resumed):
        built.close()
