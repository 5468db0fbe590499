"""The command that prepares TFDS sets, and how sets are written."""

import gzip
import io
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from eenet_jax.data import convert, prepare, tfds_reader
from eenet_jax.errors import UserError


def _write_idx(source: pathlib.Path, sizes: dict[str, int]) -> None:
    for part, size in sizes.items():
        images = np.random.default_rng(size).integers(0, 256, (size, 28, 28), np.uint8)
        labels = (np.arange(size) % 10).astype(np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim])
            header += np.array(array.shape, ">i4").tobytes()
            file = source / f"{part}-{name}-ubyte.gz"
            file.write_bytes(gzip.compress(header + array.tobytes()))


def test_files_are_prepared_and_read_without_tensorflow(tmp_path, root):
    _write_idx(tmp_path, {"train": 60, "t10k": 20})
    script = f"""
import sys
from eenet_jax.data import prepare, sources
arguments = ["fashion_mnist", "--data_dir={tmp_path}/out", "--source={tmp_path}"]
assert prepare.main(arguments) == 0
data = sources.load("fashion_mnist", data_dir="{tmp_path}/out", val_size=10)
assert data.train.images.shape == (50, 28, 28, 1), data.train.images.shape
assert (len(data.val.labels), len(data.test.labels)) == (10, 20)
assert data.class_names[9] == "Ankle boot"
assert sum(int(part.images.sum()) for part in (data.train, data.val)) == {
        np.random.default_rng(60).integers(0, 256, (60, 28, 28), np.uint8).sum()
    }
assert prepare.main(arguments) == 0  # stands already
assert "tensorflow" not in sys.modules
"""
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("fashion_mnist is in ") == 2
    assert result.stdout.count("wrote fashion_mnist: train 60, test 20 examples") == 1


def test_fashion_mnist_refuses_wrong_files(tmp_path):
    def refused(message):
        with pytest.raises(UserError, match=message):
            prepare.prepare("fashion_mnist", tmp_path / "out", tmp_path)

    refused("has no train-images-idx3-ubyte.gz; give the directory")
    _write_idx(tmp_path, {"train": 60, "t10k": 20})
    labels = tmp_path / "train-labels-idx1-ubyte.gz"
    images = (tmp_path / "train-images-idx3-ubyte.gz").read_bytes()
    for content in (b"", images[:100], b"not gzip"):
        labels.write_bytes(content)
        refused("train-labels.*get it again")
    labels.write_bytes(images)
    refused(r"not an IDX file of uint8 \('N',\)")
    test_labels = (tmp_path / "t10k-labels-idx1-ubyte.gz").read_bytes()
    labels.write_bytes(test_labels)
    refused("has 20 labels for 60 images")
    bad = bytes([0, 0, 8, 1, 0, 0, 0, 60]) + bytes([10] * 60)
    labels.write_bytes(gzip.compress(bad))
    refused(r"train-labels-idx1-ubyte.gz: label 10 of example 0 is not in 0\.\.9")
    assert not (tmp_path / "out").exists()


def test_debian_files_are_found(tmp_path, monkeypatch, capsys):
    _write_idx(tmp_path, {"train": 20, "t10k": 10})
    monkeypatch.setattr(prepare, "DEBIAN", tmp_path)
    assert prepare.main(["fashion_mnist", f"--data_dir={tmp_path}/out"]) == 0
    assert f"is in {tmp_path}/out/fashion_mnist/3.0.1\n" in capsys.readouterr().out


def _content(keys) -> convert.Content:
    """A set of one-pixel images and their keys."""
    image = tfds.features.Image(shape=(1, 1, 3))
    features = {"image": image, "id": tfds.features.Text()}
    images = np.zeros((len(keys), 1, 1, 3), np.uint8)
    pixels = convert.pixels(images, id=[str(key) for key in keys])
    split = convert.Split(keys, pixels.example)
    return convert.Content(
        "1.2.3", features, dict.fromkeys(("train", "test"), split), 70
    )


@pytest.mark.parametrize("keys", [range(250), [f"a/{i}.png" for i in range(0, 900, 7)]])
def test_order_is_that_of_tfds(tmp_path, keys):
    content = _content(keys)

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.2.3")

        def _info(self):
            features = tfds.features.FeaturesDict(dict(content.features))
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {
                name: ((key, split.example(i)) for i, key in enumerate(split.keys))
                for name, split in content.splits.items()
            }

        def _generate_examples(self): ...

    theirs = Tiny(data_dir=tmp_path / "theirs", file_format="array_record")
    theirs.download_and_prepare()
    directory = convert.write("tiny", content, tmp_path / "ours")
    assert directory == tmp_path / "ours" / "tiny" / "1.2.3"
    ours = tfds.builder_from_directory(directory)
    for split in ("train", "test"):
        ids = [[x["id"] for x in b.as_data_source(split)] for b in (ours, theirs)]
        assert ids[0] == ids[1] and len(ids[0]) == len(keys)
    train, test = ([x["id"] for x in ours.as_data_source(s)] for s in ("train", "test"))
    assert train != test
    assert len(list(directory.glob("tiny-train.array_record*"))) == -(-len(keys) // 70)


def test_nothing_is_left_of_a_conversion_cut_short(tmp_path):
    content = _content(range(250))

    def example(i):
        if i == 249:
            raise KeyboardInterrupt
        return content.splits["train"].example(i)

    splits = content.splits | {"test": convert.Split(range(250), example)}
    cut_short = convert.Content("1.2.3", content.features, splits)
    with pytest.raises(KeyboardInterrupt):
        convert.write("tiny", cut_short, tmp_path)
    assert list((tmp_path / "tiny").iterdir()) == []
    convert.write("tiny", content, tmp_path)
    assert [p.name for p in (tmp_path / "tiny").iterdir()] == ["1.2.3"]


def test_killed_conversion_is_not_taken_for_whole(tmp_path, root):
    script = f"""
import os, signal
from eenet_jax.data import convert
import tensorflow_datasets as tfds
def example(i):
    if done.append(i) or len(done) == 150:
        os.kill(os.getpid(), signal.SIGKILL)
    return {{"x": "text"}}
done = []
splits = {{"train": convert.Split(range(200), example)}}
content = convert.Content("1.0.0", {{"x": tfds.features.Text()}}, splits)
convert.write("tiny", content, __import__("pathlib").Path("{tmp_path}"))
"""
    result = subprocess.run([sys.executable, "-c", script], cwd=root)
    assert result.returncode == -9
    (left,) = (tmp_path / "tiny").iterdir()
    assert left.name.startswith("incomplete.") and list(left.glob("1.0.0/*record*"))
    assert tfds_reader.newest(tmp_path / "tiny") is None
    with pytest.raises(tfds.core.DatasetNotFoundError):
        tfds.builder("tiny", data_dir=tmp_path)


def test_unwritable_places_are_refused(tmp_path):
    (tmp_path / "tiny").write_text("a file")
    with pytest.raises(UserError, match="cannot write .*give another --data_dir"):
        convert.write("tiny", _content(range(3)), tmp_path)
    (tmp_path / "in the way" / "1.2.3" / "x").mkdir(parents=True)
    with pytest.raises(UserError, match="cannot write .*in the way/1.2.3: "):
        convert.write("in the way", _content(range(3)), tmp_path)
    with pytest.raises(UserError, match="tiny has no examples in train and test"):
        convert.write("tiny", _content([]), tmp_path)


def test_set_can_be_read_by_others(tmp_path):
    """The mode of its directory is that of any new one."""
    directory = convert.write("tiny", _content(range(3)), tmp_path)
    (tmp_path / "new").mkdir()
    assert directory.stat().st_mode == (tmp_path / "new").stat().st_mode


def test_existing_set_is_left_alone(tmp_path, capsys):
    for directory in ("cifar10/3.0.2", "glue/sst2/2.0.0", "imagenette/160px-v2/1.0.0"):
        (tmp_path / directory).mkdir(parents=True)
        info = json.dumps({"fileFormat": "array_record"})
        (tmp_path / directory / "dataset_info.json").write_text(info)
        name = "sst2" if "sst2" in directory else directory.partition("/")[0]
        arguments = [name, f"--data_dir={tmp_path}", "--source=absent"]
        assert prepare.main(arguments) == 0
        assert capsys.readouterr().out == f"{name} is in {tmp_path}/{directory}\n"
    tfrecord = tmp_path / "stl10" / "1.0.0" / "dataset_info.json"
    tfrecord.parent.mkdir(parents=True)
    tfrecord.write_text(json.dumps({"fileFormat": "tfrecord"}))
    assert prepare.main(["stl10", f"--data_dir={tmp_path}"]) == 1
    assert "another data.dir" in capsys.readouterr().err


def test_nothing_to_download_with_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prepare.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(prepare, "DEBIAN", tmp_path / "absent")
    for name, recipe in prepare.RECIPES.items():
        assert prepare.main([name, f"--data_dir={tmp_path}/my data"]) == 1
        text = capsys.readouterr().err
        if recipe.tfds is None:
            assert f"error: {name} cannot be downloaded from here; get its" in text
        else:
            assert "error: TFDS needs tensorflow" in text
            assert "pip install tensorflow" in text
        command = f"prepare {name} --data_dir='{tmp_path}/my data' --source=FILES"
        assert f"({recipe.origin}) and convert them with: python -m " in text
        assert f"{command}, where FILES is {recipe.what}\n" in text
    assert prepare.RECIPES["svhn_cropped"].needs == ("tensorflow", "scipy")
    assert {n for n, r in prepare.RECIPES.items() if r.tfds is None} == {
        "camvid",
        "cityscapes",
        "imagenet2012",
        "sst2_sentence",
        "tiny_imagenet",
    }


# The versions are those that the conversions are tested to write.
@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("ag_news_subset", "1.0.0"),
        ("cifar10", "3.0.2"),
        ("cifar100", "3.0.2"),
        ("fashion_mnist", "3.0.1"),
        ("imagenette", "1.0.0"),
        ("sst2", "2.0.0"),
        ("stl10", "1.0.0"),
        ("svhn_cropped", "3.1.0"),
    ],
)
def test_tfds_downloads_the_others(tmp_path, monkeypatch, name, version, capsys):
    asked = []

    def fails(builder, *args, **kwargs):
        asked.append(builder)
        raise ConnectionError("no network")

    monkeypatch.setattr(prepare.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(prepare, "DEBIAN", tmp_path / "absent")
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fails)
    assert prepare.main([name, f"--data_dir={tmp_path}"]) == 1
    text = capsys.readouterr().err
    assert f"cannot prepare {name} in {tmp_path}: no network; or get its files" in text
    (builder,) = asked
    directory = prepare.RECIPES[name].tfds
    assert pathlib.Path(builder.data_dir) == tmp_path / directory / version


def test_unknown_name_and_absent_source_are_refused(tmp_path, capsys):
    assert prepare.main(["cifar", f"--data_dir={tmp_path}"]) == 1
    assert "unknown data set 'cifar'; choose from ag_news" in capsys.readouterr().err
    arguments = ["cifar10", "--source=~/absent.tar.gz", f"--data_dir={tmp_path}"]
    assert prepare.main(arguments) == 1
    home = os.path.expanduser("~")
    assert f"--source='{home}/absent.tar.gz' does not exist; give cifar-10-python" in (
        capsys.readouterr().err
    )


def test_help_has_every_set_and_its_source(capsys):
    with pytest.raises(SystemExit) as caught:
        prepare.main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for name, recipe in prepare.RECIPES.items():
        assert f"  {name:15} {recipe.what}\n" in text and recipe.origin in text
    assert text.count("not downloaded: --source is required") == 5
    assert max(map(len, text.splitlines())) <= 92


def test_png_keeps_pixels():
    for channels in (1, 3):
        image = np.random.default_rng(0).integers(0, 256, (5, 4, channels), np.uint8)
        with Image.open(io.BytesIO(convert.png(image))) as stored:
            assert stored.mode == {1: "L", 3: "RGB"}[channels]
            np.testing.assert_array_equal(np.asarray(stored).reshape(5, 4, -1), image)
