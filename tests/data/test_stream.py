"""Streams: the same samples whatever the workers and hosts, each exactly once."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from eenet_jax.data import batches, decode, folder, stream, workers
from eenet_jax.errors import UserError

OPTIONS = {"seed": 5, "batch_size": 20, "num_workers": 0}


@pytest.fixture
def records(tmp_path):
    """Fifty images of noise, PNG and JPEG of two sizes, in three classes."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for i in range(50):
            place = tmp_path / part / "abc"[i % 3]
            place.mkdir(parents=True, exist_ok=True)
            shape = (30, 24, 3) if i % 2 else (20, 40, 3)
            image = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
            image.save(place / f"{i:02d}.{('png', 'jpg')[i % 5 == 0]}")
    return folder.read(tmp_path)[0]["train"]


@pytest.fixture
def split(records):
    """All of them but the first three, in reverse order."""
    rows = np.arange(49, 2, -1)
    return stream.StreamSplit(records, records.labels[rows], rows, 16, 18)


def _train(split, **options):
    with contextlib.closing(
        stream.train_batches(split, **{"epoch": 0, **OPTIONS, **options})
    ) as source:
        return list(source)


def _equal(first, second) -> None:
    for one, other in zip(first, second, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_training_follows_the_epoch_s_order(split, records):
    result = _train(split)
    order = batches.epoch_indices(5, 0, 47, 20)
    assert len(result) == len(order) == 2
    for (images, labels), indices in zip(result, order, strict=True):
        assert images.shape == (20, 16, 16, 3) and images.dtype == np.uint8
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(labels, split.labels[indices])
        for image, index in zip(images, indices, strict=True):
            data, label = records[49 - int(index)]
            assert label == split.labels[index]
            rng = np.random.default_rng([5, 0, index])
            np.testing.assert_array_equal(decode.train_image(data, 16, rng), image)


def test_workers_hosts_and_a_later_start_change_nothing(split):
    whole = _train(split, stop_step=5)  # two epochs and a half
    assert len(whole) == 5
    _equal(whole[2:4], _train(split, epoch=1))
    _equal(whole[1:], _train(split, start_step=1, stop_step=5, num_workers=2))
    halves = [
        _train(split, stop_step=5, host_index=host, host_count=2) for host in (0, 1)
    ]
    assert halves[0][0][0].shape == (10, 16, 16, 3)
    joined = [
        tuple(np.concatenate(pair) for pair in zip(*step, strict=True))
        for step in zip(*halves, strict=True)
    ]
    _equal(whole, joined)


def test_seed_epoch_size_and_flip_matter(split):
    images, labels = _train(split)[0]
    for change in ({"seed": 6}, {"epoch": 1}):
        assert (_train(split, **change)[0][1] != labels).any()
    plain = _train(split, flip=False)[0][0]
    mirrored = [(a != b).any() for a, b in zip(images, plain, strict=True)]
    assert 2 <= sum(mirrored) <= 18
    np.testing.assert_array_equal(
        np.where(np.array(mirrored)[:, None, None, None], images[:, :, ::-1], images),
        plain,
    )


def test_what_lies_before_the_start_is_not_read(split, monkeypatch):
    read = []
    original = folder.FolderRecords.__getitem__
    monkeypatch.setattr(
        folder.FolderRecords,
        "__getitem__",
        lambda self, row: (read.append(row), original(self, row))[1],
    )
    source = stream.train_batches(split, epoch=0, start_step=1, **OPTIONS)
    next(source)
    expected = split.rows[batches.epoch_indices(5, 0, 47, 20)[1]]
    assert read == expected.tolist()


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("host_count", [1, 2])
def test_evaluation_shows_each_sample_once(split, records, num_workers, host_count):
    hosts = [
        list(
            stream.eval_batches(
                split,
                batch_size=32,
                num_workers=num_workers,
                host_index=host,
                host_count=host_count,
            )
        )
        for host in range(host_count)
    ]
    assert all(len(host) == 2 for host in hosts)  # the last is 15 of 32
    parts = [host[step] for step in (0, 1) for host in hosts]
    images, labels, mask = (np.concatenate(x) for x in zip(*parts, strict=True))
    assert images.shape == (64, 16, 16, 3) and mask.dtype == bool
    assert mask.tolist() == [True] * 47 + [False] * 17
    np.testing.assert_array_equal(labels[mask], split.labels)
    assert not images[~mask].any() and not labels[~mask].any()
    for image, row in zip(images[mask], split.rows, strict=True):
        expected = decode.eval_image(records[int(row)][0], 16, 18)
        np.testing.assert_array_equal(image, expected)


def test_subset(split):
    part = split.subset(np.array([4, 2]))
    np.testing.assert_array_equal(part.rows, [45, 47])
    np.testing.assert_array_equal(part.labels, split.labels[[4, 2]])
    assert (part.image_size, part.resize) == (16, 18)


@pytest.mark.parametrize("count", [0, 1])
def test_a_damaged_image_is_named(split, records, count):
    row = split.rows[batches.epoch_indices(5, 0, 47, 20)[1][3]]
    path = records.name(row)
    os.truncate(path, 300)
    source = stream.train_batches(split, epoch=0, **OPTIONS | {"num_workers": count})
    next(source)
    with pytest.raises(UserError, match=f"^{path} cannot be decoded .*or remove it$"):
        next(source)


def test_a_missing_image_and_a_changed_label_are_named(split, records):
    path = records.name(int(split.rows[7]))
    os.unlink(path)
    with pytest.raises(UserError, match=f"^{path} cannot be read: No such file"):
        list(stream.eval_batches(split, batch_size=47, num_workers=0))
    split.labels[3] += 1
    changed = records.name(int(split.rows[3]))
    with pytest.raises(UserError, match=f"^{changed} has label .*, which was "):
        list(stream.eval_batches(split, batch_size=47, num_workers=0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 48}, "train.batch_size=48 must be from 1 to the 47"),
        ({"num_workers": -1}, "data.num_workers=-1 must be at least 0"),
        ({"host_count": 3}, "batch_size=20 cannot be shared by host_count=3"),
        ({"host_count": 2, "host_index": 2}, "of which this is 2"),
    ],
)
def test_wrong_numbers_are_refused_at_once(split, change, message):
    with pytest.raises(UserError, match=message):
        stream.train_batches(split, **{"epoch": 0, **OPTIONS, **change})


def test_a_crop_larger_than_the_image_is_refused(records):
    with pytest.raises(
        UserError, match="data.image_size=257 must be from 1 to resize=256"
    ):
        stream.StreamSplit(records, records.labels, np.arange(50), image_size=257)


# What the pool loads with: has to be found by the workers, so no fixture.


def _own_number(samples: np.ndarray) -> tuple[np.ndarray]:
    return (np.full(len(samples), os.getpid()),)


def _die(samples: np.ndarray) -> tuple[np.ndarray]:
    os.kill(os.getpid(), signal.SIGKILL)
    return (samples,)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _ended(processes, seconds: float = 10) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not any(map(_is_running, processes)):
            return True
        time.sleep(0.05)
    return False


def test_workers_end_when_the_iterator_is_closed():
    tasks = ((np.arange(64),) for _ in range(1000))
    source = workers.loaded(_own_number, tasks, 2)
    numbers = set(np.concatenate([next(source)[0] for _ in range(3)]).tolist())
    assert numbers and os.getpid() not in numbers
    assert all(map(_is_running, numbers))
    source.close()
    assert _ended(numbers)


def test_a_dead_worker_is_reported():
    with pytest.raises(UserError, match="one of data.num_workers=1 processes .* died"):
        list(workers.loaded(_die, [(np.arange(3),)], 1))


def test_workers_end_when_their_parent_is_killed(root, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("""
import time
import numpy as np
from eenet_jax.data import workers

def load(samples):
    return (samples,)

if __name__ == "__main__":
    source = workers.loaded(load, ((np.arange(64),) for _ in range(9)), 1)
    print(len(next(source)), flush=True)
    time.sleep(60)
""")
    with subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout.readline()
        parent.kill()
        parent.communicate(timeout=20)  # the worker has the pipe open until it ends


def test_workers_do_not_import_jax(root):
    script = """
import sys
import eenet_jax.data.stream, eenet_jax.data.folder, eenet_jax.data.tfds_records
assert not {"jax", "tensorflow", "tensorflow_datasets"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True)


def test_clock_tells_the_share_waited():
    def slow(count):
        for i in range(count):
            time.sleep(0.03)
            yield i

    clock = stream.WaitClock()
    for _ in clock.watch(slow(4)):
        time.sleep(0.01)
    assert 0.5 < clock.share() < 0.95
    for _ in clock.watch(range(4)):
        time.sleep(0.01)
    assert clock.share() < 0.2


def test_clock_closes_what_it_watches():
    closed = []

    def source():
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    watched = stream.WaitClock().watch(source())
    next(watched)
    watched.close()
    assert closed
