"""Does training wait for streamed images, and for how many workers does it not?

    python -m benchmarks.input_wait [--folder=DIR | --tfds=NAME --data_dir=DIR]
        [--workers=0,1,2,4] [--batch_size=64] [--size=224] [--step_ms=50 | --jit]

Reads training images of a folder or a prepared TFDS set; without either it makes a
folder of JPEG files of 500 x 375 pixels. Prints for each number of workers how many
images a second they decode, then what a consumer waits for that takes a step of
--step_ms (or, with --jit, a compiled one on JAX's device), beside the same consumer fed
from memory.
"""

import argparse
import contextlib
import itertools
import os
import pathlib
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import PIL
from PIL import Image

from eenet_jax.data import folder, stream, tfds_records, workers

Batch = tuple[np.ndarray, np.ndarray]
Step = Callable[[np.ndarray], Any]


def make_folder(root: pathlib.Path, count: int) -> None:
    """Writes a folder of random photograph-like JPEG files, two classes."""
    rng = np.random.default_rng(0)
    for i in range(count):
        # Coarse noise made large, and a little fine noise: about 60 kB at quality 90.
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC))
        noise = rng.normal(0, 8, smooth.shape)
        pixels = np.clip(smooth + noise, 0, 255).astype(np.uint8)
        for part in ("train", "test") if i < 2 else ("train",):
            place = root / part / "ab"[i % 2]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{i}.jpg", quality=90)


def training_split(args: argparse.Namespace, made: str) -> stream.StreamSplit:
    """Returns the images that the flags choose."""
    if args.tfds:
        directory = tfds_records.find_tfds(args.tfds, args.data_dir)
        records = tfds_records.TfdsRecords(directory, "train")
        labels = records.labels()
    else:
        if not args.folder:
            make_folder(pathlib.Path(made), args.images)
        records = folder.read(folder.find(args.folder or made))[0]["train"]
        labels = records.labels
    rows = np.arange(len(labels))
    return stream.StreamSplit(records, labels, rows, args.size, args.size)


def jitted_step(size: int) -> Step:
    """Returns one gradient step of a small convolutional network, waited for."""
    import jax  # not at the top, where each worker would import it too
    import jax.numpy as jnp

    kernels = [jnp.full((7, 7, 3, 64), 0.01), jnp.full((3, 3, 64, 64), 0.01)]

    def loss(kernels, images):
        x = images.astype(jnp.float32) / 255
        for kernel, stride in zip(kernels, (4, 2), strict=True):
            x = jax.lax.conv_general_dilated(
                x,
                kernel,
                (stride, stride),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            x = jax.nn.relu(x)
        return x.mean()

    step = jax.jit(jax.grad(loss))
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {size} pixels")
    return lambda images: jax.block_until_ready(step(kernels, images))


def measure(
    source: Iterable[Batch], step: Step, warm: int, count: int
) -> tuple[float, float]:
    """Consumes batches.

    Args:
      source: At least warm + count batches.
      step: What is done with each.
      warm: Batches not measured: those read ahead before, and the compilation.
      count: Batches measured.

    Returns:
      Images a second, and the share of the time spent waiting for them.
    """
    clock = stream.WaitClock()
    images = 0
    with contextlib.closing(clock.watch(source)) as watched:
        for pixels, _ in itertools.islice(watched, warm):
            step(pixels)
        clock.share()
        start = time.perf_counter()
        for pixels, _ in itertools.islice(watched, count):
            step(pixels)
            images += len(pixels)
        seconds = time.perf_counter() - start
        return images / seconds, clock.share()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", help="directory of train/CLASS/ and test/CLASS/")
    parser.add_argument("--tfds", help="name of a prepared TFDS set")
    parser.add_argument("--data_dir", help="TFDS directory")
    parser.add_argument("--images", type=int, default=200, help="files to make")
    parser.add_argument("--workers", default="0,1,2,4")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--step_ms", type=float, default=50.0)
    parser.add_argument("--jit", action="store_true", help="compute, do not sleep")
    parser.add_argument("--batches", type=int, default=30)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as made:
        split = training_split(args, made)

        def streamed(num_workers: int) -> Iterator[Batch]:
            return stream.train_batches(
                split,
                seed=0,
                epoch=0,
                batch_size=args.batch_size,
                num_workers=num_workers,
                stop_step=10**9,
            )

        if args.jit:
            step = jitted_step(args.size)
        else:
            step = lambda images: time.sleep(args.step_ms / 1e3)  # noqa: E731
        print(
            f"Python {platform.python_version()}, Pillow {PIL.__version__}, "
            f"{os.cpu_count()} cores; {len(split.labels)} images, batches of "
            f"{args.batch_size}, size {args.size}, step "
            + ("compiled" if args.jit else f"{args.step_ms:g} ms")
        )
        with contextlib.closing(streamed(0)) as source:
            stored = list(itertools.islice(source, 2))
        memory, waited = measure(itertools.cycle(stored), step, 2, args.batches)
        print("| workers | decoded, images/s | waited | images/s | / from memory |")
        print("| --- | --- | --- | --- | --- |")
        print(f"| from memory | | {waited:.1%} | {memory:.0f} | 1.00 |")
        for num_workers in map(int, args.workers.split(",")):
            # Twice what the workers are ahead.
            pieces = -(-args.batch_size // workers.PIECE)
            warm = 2 * max(2, -(-2 * num_workers // pieces)) + 2
            free, _ = measure(
                streamed(num_workers), lambda images: None, warm, args.batches
            )
            rate, waited = measure(streamed(num_workers), step, warm, args.batches)
            print(
                f"| {num_workers} | {free:.0f} | {waited:.1%} | {rate:.0f} | "
                f"{rate / memory:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
