"""Images with label maps: augmentation, TFDS sets, what is refused."""

import io
import pathlib

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from eenet_jax.data import map_records, map_sets, maps, npz_reader, sources, stream
from eenet_jax.data.map_records import VOID
from eenet_jax.errors import UserError

MEAN = (0.5, 0.4, 0.3)
REAL = pathlib.Path(__file__).parents[3] / "shared/data/camvid/camvid_480x360.zip"


def _pair(count: int = 3):
    """Images whose red channel is their label, so that both can be compared."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 9, (count, 5, 7)).astype(np.uint8)
    labels = labels.repeat(8, axis=1).repeat(8, axis=2)
    images = np.stack([20 * labels] * 3, axis=-1)
    return images, labels


def test_without_options_nothing_changes(key):
    images, labels = _pair()
    found = maps.augment(images, labels, key=key, mean=MEAN)
    for one, other in zip(found, (images, labels), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "crop, scale", [((32, 40), (1.0, 1.0)), ((64, 96), (0.5, 2.0))]
)
def test_images_and_labels_stay_together(key, crop, scale):
    images, labels = _pair(6)
    options = {"crop": crop, "scale": scale, "flip": True, "mean": MEAN}
    x, y = jax.jit(lambda *a: maps.augment(*a, key=key, **options))(images, labels)
    assert x.shape == (6, *crop, 3) and y.shape == (6, *crop)
    assert x.dtype == y.dtype == np.uint8
    x, y = np.asarray(x), np.asarray(y)
    inside = y != VOID
    # Away from edges between classes both say the same.
    close = np.abs(x[..., 0].astype(int) - 20 * y.astype(int)) <= 1
    assert close[inside].mean() > 0.6
    outside = np.unique(x[~inside].reshape(-1, 3), axis=0)
    if crop == (64, 96):  # larger than the images at a factor of 1
        assert outside.tolist() == [[128, 102, 76]]
    else:
        assert inside.all()


def test_a_crop_is_a_part_of_the_image(key):
    images, labels = _pair(1)
    x, y = maps.augment(
        images, labels, key=key, crop=(32, 40), scale=(1.0, 1.0), mean=MEAN
    )
    y = np.asarray(y)[0]
    windows = np.lib.stride_tricks.sliding_window_view(labels[0], (32, 40))
    assert (windows == y).all(axis=(2, 3)).any()


def test_keys_decide(key):
    images, labels = _pair(4)
    options = {"crop": (32, 40), "scale": (0.5, 2.0), "mean": MEAN}
    one = maps.augment(images, labels, key=key, **options)[0]
    again = maps.augment(images, labels, key=key, **options)[0]
    other = maps.augment(images, labels, key=jax.random.key(1), **options)[0]
    np.testing.assert_array_equal(one, again)
    assert (np.asarray(one) != np.asarray(other)).any()


def _png(pixels: np.ndarray) -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    file.seek(0)
    return file


def _write(data_dir: pathlib.Path, name: str, features, splits, wrong=None) -> None:
    """Writes a TFDS set of images of 64 x 80 with label maps."""
    image_name, label_name = features

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            shape = (64, 80)
            features = {
                image_name: tfds.features.Image(shape=(*shape, 3)),
                label_name: tfds.features.Image(shape=(*shape, 1)),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(n) for split, n in splits.items()}

        def _generate_examples(self, count):
            rng = np.random.default_rng(count)
            for i in range(count):
                labels = rng.integers(0, 12, (8, 10)).astype(np.uint8)
                labels = labels.repeat(8, axis=0).repeat(8, axis=1)
                if wrong is not None:
                    labels[3, 4] = wrong
                pixels = np.stack([20 * labels] * 3, axis=-1)
                yield i, {image_name: _png(pixels), label_name: _png(labels)}

    Tiny.name = name
    Tiny(data_dir=data_dir, file_format="array_record").download_and_prepare()


CAMVID = ("image", "segmentation_label")


def test_camvid_in_memory_and_streamed_are_alike(tmp_path, monkeypatch):
    _write(tmp_path, "camvid", CAMVID, {"train": 6, "validation": 2, "test": 3})
    data = sources.load("camvid", data_dir=tmp_path)
    sizes = data.train.num_samples, data.val.num_samples, data.test.num_samples
    assert sizes == (6, 2, 3)
    assert (data.target, data.kind, data.num_classes) == ("map", "image", 11)
    assert data.train.labels.shape == (6, 64, 80)
    known = data.train.labels != VOID
    pixels = data.train.images[..., 0]
    np.testing.assert_array_equal(pixels[known], 20 * data.train.labels[known])
    assert (pixels[~known] == 220).all() and (~known).any()

    monkeypatch.setattr(map_sets, "IN_MEMORY", 0)
    streamed = sources.load("camvid", data_dir=tmp_path)
    assert isinstance(streamed.train, map_records.MapStream)
    assert streamed.target == "map"
    parts = list(stream.eval_batches(streamed.train, batch_size=4, num_workers=0))
    images = np.concatenate([images[mask] for images, _, mask in parts])
    labels = np.concatenate([labels[mask] for _, labels, mask in parts])
    np.testing.assert_array_equal(images, data.train.images)
    np.testing.assert_array_equal(labels, data.train.labels)
    taken = list(
        stream.train_batches(
            streamed.train, seed=0, epoch=0, batch_size=3, num_workers=1
        )
    )
    assert [images.shape for images, _ in taken] == [(3, 64, 80, 3)] * 2


def test_resizing_keeps_labels_whole(tmp_path):
    _write(tmp_path, "camvid", CAMVID, {"train": 2, "validation": 2, "test": 2})
    data = sources.load("camvid", data_dir=tmp_path, resize=(32, 40))
    assert data.train.images.shape == (2, 32, 40, 3)
    whole = sources.load("camvid", data_dir=tmp_path)
    np.testing.assert_array_equal(data.train.labels, whole.train.labels[:, 1::2, 1::2])


def test_cityscapes_ids_become_classes(tmp_path):
    features = ("image_left", "segmentation_label")
    _write(tmp_path, "cityscapes", features, {"train": 6, "validation": 2})
    data = sources.load("cityscapes", data_dir=tmp_path, val_size=2)
    assert (data.train.num_samples, data.val.num_samples) == (4, 2)
    assert data.num_classes == 19 and data.class_names[0] == "road"
    stored = data.train.images[..., 0] // 20
    expected = {7: 0, 8: 1, 11: 2}  # of ids 0..11; others are void
    table = np.array([expected.get(i, VOID) for i in range(12)])
    np.testing.assert_array_equal(data.train.labels, table[stored])


def test_a_label_outside_the_classes_names_record_and_pixel(tmp_path):
    _write(tmp_path, "camvid", CAMVID, {"train": 2, "validation": 2, "test": 2}, 17)
    with pytest.raises(
        UserError, match=r"record 0 of split 'train'.*17 at pixel \(3, 4\)"
    ):
        sources.load("camvid", data_dir=tmp_path)


def test_other_features_are_refused(tmp_path):
    _write(tmp_path, "camvid", ("image", "other"), {"train": 2, "validation": 2})
    with pytest.raises(UserError, match="lacks segmentation_label"):
        sources.load("camvid", data_dir=tmp_path)


def test_a_missing_set_is_named():
    with pytest.raises(UserError, match="camvid"):
        sources.check("camvid", "/nowhere")


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"val_labels": np.zeros(2, np.int64)},
            "both be a label for each image, or both",
        ),
        (
            {"train_labels": np.zeros((4, 9, 9), np.uint8)},
            "or label maps, uint8 of shape",
        ),
        ({"train_labels": np.zeros((4, 32, 40), np.int32)}, "train_labels are int32"),
    ],
)
def test_npz_maps_must_fit(tmp_path, change, message):
    stored = {
        f"{part}_{name}": array
        for part, count in (("train", 4), ("val", 2), ("test", 2))
        for name, array in (
            ("images", np.zeros((count, 32, 40, 3), np.uint8)),
            ("labels", np.zeros((count, 32, 40), np.uint8)),
        )
    }
    path = tmp_path / "maps.npz"
    np.savez(path, **{**stored, **change})
    with pytest.raises(UserError, match=message):
        npz_reader.read(path)
    np.savez(path, **stored)
    with pytest.raises(UserError, match="at least two classes"):
        sources.load("npz", data_dir=path)


def test_colours_differ():
    for name, count in (("camvid", 11), ("cityscapes", 19), ("npz", 7)):
        found = map_sets.colours(name, count)
        assert found.shape == (count, 3) and len(np.unique(found, axis=0)) == count
