"""The figure of the examples, and which samples it shows."""

import numpy as np
import pytest
from PIL import Image

from configs import default
from eenet_jax import config as config_lib
from eenet_jax import examples
from eenet_jax.data.datasets import Dataset, ImageSplit, TextSplit
from eenet_jax.data.stream import StreamSplit
from eenet_jax.errors import UserError
from eenet_jax.pictures import images_of
from eenet_jax.predictions import Predictions, Split
from eenet_jax.report import files
from eenet_jax.report.examples import class_names, read_images, save_examples

EXITS = np.array([0, 0, 0, 0, 2, 2])  # nobody leaves at exit 2
LABELS = np.array([0, 0, 0, 1, 1, 0])
ANSWERS = np.array([0, 0, 2, 1, 0, 0])
MARGINS = np.array([1.0, 400.0, 3.0, 200.0, 0.5, 2.0])


def chosen() -> list[dict]:
    """Six samples of classes 0 and 1 of three, three exits."""
    logits = MARGINS[:, None] * np.eye(3)[ANSWERS]
    logits = np.stack([logits] * 3).astype(np.float32)
    return examples.choose(logits, ANSWERS, LABELS, EXITS)


def results(exits: list[dict]) -> dict:
    of_all = {name: {"budget": 1.5, "exits": exits} for name in ("msdnet", "$one")}
    return {"cost_unit": "mflops", "examples": of_all}


def dataset(split, num_classes: int = 3, **more) -> Dataset:
    return Dataset("some", split, split, split, num_classes, **more)


def noise(count: int, *shape: int) -> ImageSplit:
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
    return ImageSplit(images, np.zeros(count, np.int32))


def size(path) -> tuple[int, int]:
    """Width and height in inches, of a figure that can be read to its end."""
    with Image.open(path) as image:
        image.load()
        assert len(image.getcolors(1 << 20)) > 50  # something is drawn
        return image.width / 150, image.height / 150


def test_surest_of_each_exit_and_class_by_hand() -> None:
    first, second, third = chosen()
    rows = {n: [e and e["row"] for e in first[n]] for n in ("right", "wrong")}
    assert rows == {"right": [1, 3, None], "wrong": [2, None, None]}
    assert first["wrong"][0]["answer"] == 2
    expected = np.exp(3) / (np.exp(3) + 2)
    assert first["wrong"][0]["probability"] == pytest.approx(expected)
    assert first["right"][0]["probability"] == 1.0
    assert (first["samples"], first["accuracy"]) == (4, 0.75)
    assert (second["samples"], second["accuracy"]) == (0, None)
    assert second["right"] == second["wrong"] == [None] * 3
    assert [e and e["row"] for e in third["right"]] == [5, None, None]
    assert [e and e["row"] for e in third["wrong"]] == [None, 4, None]


def test_of_many_classes_the_most_frequent_are_shown() -> None:
    labels = np.repeat([4, 30, 7], [1, 2, 1])
    assert examples.shown_classes(labels, 50) == [30, 4, 7]
    assert examples.shown_classes(np.arange(50), 50) == list(range(10))
    assert examples.shown_classes(labels[:0], 50) == []
    assert examples.shown_classes(labels[:0], 3) == [0, 1, 2]


@pytest.mark.parametrize("shape", [(8, 8, 1), (12, 20, 3)], ids=["grey", "colour"])
def test_figure_has_a_block_an_exit(shape, tmp_path) -> None:
    data = dataset(noise(6, *shape), class_names=("zero", "$one", "class number 1"))
    path = tmp_path / "examples.png"
    assert save_examples(results(chosen()), path, data)
    width, height = size(path)
    assert 4.0 < width < 7.0  # three columns, and a title that is wider
    assert 5.5 < height < 8.0  # two exits of two rows, and one without
    assert class_names(data)[1:] == ["$one", "class …mber 1"]


def test_no_figure_without_images_or_schedulers(tmp_path) -> None:
    path = tmp_path / "examples.png"
    ids = np.zeros((6, 4), np.int32)
    texts = dataset(TextSplit(ids, np.ones(6, np.int32), LABELS))
    assert not save_examples(results(chosen()), path, texts)
    assert not save_examples(results(chosen()), path, None)
    assert not save_examples({"examples": {}}, path, dataset(noise(6, 8, 8, 1)))
    assert not any(tmp_path.iterdir())


class Files(list):
    """Records of class 0, of the paths in a list."""

    def __getitem__(self, row):
        return super().__getitem__(row).read_bytes(), 0

    def name(self, row: int) -> str:
        return super().__getitem__(row).name


def test_of_a_stream_only_what_is_shown_is_decoded(tmp_path) -> None:
    names = [tmp_path / f"{i}.png" for i in range(5)]
    for i, name in enumerate(names):
        Image.new("RGB", (30, 20), (40 * i, 0, 0)).save(name)
    names[0].write_bytes(b"no image")
    labels = np.zeros(3, np.int32)
    split = StreamSplit(Files(names), labels, np.array([4, 0, 2]), 8, 9)
    shown = read_images(split, [2, 0])
    assert {row: image[4, 4, 0] for row, image in shown.items()} == {2: 80, 0: 160}
    with pytest.raises(UserError, match=r"0\.png"):
        read_images(split, [1])


def test_images_of_a_run_are_those_of_its_predictions(tmp_path) -> None:
    config = default.get_config()
    config.data.name = "digits"
    (tmp_path / "config.json").write_text(config_lib.to_json(config))
    labels = config_lib.load_data(config).test.labels

    def found(labels) -> Dataset | None:
        split = Split(np.zeros((1, len(labels), 10), np.float32), labels)
        return images_of(tmp_path, Predictions(split, split, np.ones(1)))

    np.testing.assert_array_equal(found(labels).test.labels, labels)
    with pytest.raises(UserError, match="digits are not those that"):
        found(labels[::-1])
    config.data.name = "sst2"  # of which no file is there to be read
    (tmp_path / "config.json").write_text(config_lib.to_json(config))
    assert found(labels) is None


def test_report_goes_without_images_that_cannot_be_read(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(files, "FIGURES", {})
    monkeypatch.setattr(files.frontier, "table", lambda _: "table")
    data, shown = dataset(noise(6, 8, 8, 1)), results(chosen())
    text = files.write_report(shown, tmp_path, lambda: data)
    assert text == f"table\n\nresults.json and examples.png are in {tmp_path}"

    def lost() -> Dataset:
        raise UserError("the data are gone")

    text = files.write_report(shown, tmp_path, lost)
    assert text.endswith("left out: examples.png; the data are gone")
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]
    files.write_report({"examples": {}}, tmp_path, lost)  # does not ask for them
