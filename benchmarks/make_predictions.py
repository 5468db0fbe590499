"""Makes predictions files of many kinds to compare schedulers on.

    python -m benchmarks.make_predictions --data_dir=DIR --out=DIR2 [NAME ...]

Each is of a small network trained here on real data: a chain of convolutions, or of
dense layers of which each sees twice as many inputs as the one before, with a linear
exit after each. ``DIR`` holds the prepared TFDS sets named in
``FILES``. K goes from 3 to 8 and C from 2 to 200; costs, in million multiply-adds, are
even or uneven; validation parts have 500 to 5,000 samples.
"""

import argparse
import functools
import itertools
import pathlib
import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tensorflow_datasets as tfds

from eenet_jax.data import sources, tfds_reader
from eenet_jax.files import save_arrays


class File(NamedTuple):
    """One file: its data, layers (one an exit), noise on the inputs and sizes."""

    data: str
    layers: tuple[tuple[int, ...], ...]  # (channels, stride), or (units,) if dense
    epochs: int = 4
    noise: float = 0.0
    misleading: bool = False
    num_val: int = 5000
    num_train: int = 30_000


FILES = {
    "digits_k6": File("digits", ((16,), (16,), (32,), (32,), (64,), (64,)), 40, 0.3,
                      num_val=500),
    "fmnist_k4": File("fashion_mnist", ((4, 2), (8, 2), (16, 2), (32, 1)), noise=0.6),
    "fmnist_k8": File("fashion_mnist", ((8,), (16,), (16,), (32,), (64,), (128,),
                      (128,), (256,)), noise=0.3),
    "fmnist_misleading": File("fashion_mnist", ((4, 2), (8, 2), (16, 2), (32, 1)),
                              misleading=True),
    "cifar10_k3_small": File("cifar10", ((8, 2), (16, 2), (64, 1)), num_val=1000),
    "cifar10_k5": File("cifar10", ((8, 2), (16, 2), (32, 1), (32, 2), (64, 1)),
                       epochs=5),
    "agnews_k4": File("ag_news_subset", ((16,), (16,), (32,), (64,)), 2,
                      num_train=15_000),
    "sst2_k5": File("sst2", ((16,), (16,), (16,), (32,), (32,)), 2),
    "tiny_imagenet_k4": File("tiny_imagenet", ((16, 4), (32, 2), (64, 2), (96, 1)), 7,
                             num_train=10_000),
    "pairs_k4": File("pairs", ((4, 2), (8, 2), (24, 2), (48, 1)), noise=0.3),
}  # fmt: skip


def main() -> None:
    """Trains every network named and writes its file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(FILES))
    parser.add_argument("--data_dir", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names:
        arrays = make(name, args.data_dir)
        save_arrays(args.out / f"{name}.npz", arrays)
        print(name, summary(arrays), flush=True)


def make(name: str, data_dir: pathlib.Path) -> dict[str, np.ndarray]:
    """Trains a network; returns the content of its predictions file."""
    file = FILES[name]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    x, y = load(file.data, data_dir, rng)
    order = rng.permutation(len(x))
    x, y = x[order], y[order]
    if len(file.layers[0]) == 1:  # dense layers see the first inputs only
        x = x.reshape(len(x), -1)[:, rng.permutation(x[0].size)]
    if file.noise:
        x = x + file.noise * rng.standard_normal(x.shape, np.float32)
    num_train = min(file.num_train, len(x) - 2 * file.num_val)
    num_classes = int(y.max()) + 1
    params, costs = init(rng, x.shape[1:], file.layers, num_classes)
    params = train(params, x[:num_train], y[:num_train], file, rng)
    arrays = {"costs": costs, "cost_unit": "million MACs"}
    ends = np.cumsum([num_train, file.num_val, 10_000])
    for part, start, end in zip(("val", "test"), ends, ends[1:], strict=False):
        inputs, labels = x[start:end], y[start:end]
        if file.misleading:  # noise that the network never saw, on half of the classes
            shape = inputs.shape
            noise = 1.5 * rng.standard_normal(shape, np.float32)
            inputs = inputs + noise * (labels % 2 == 0)[:, None, None, None]
        arrays[f"{part}_logits"] = predict(params, inputs, file.layers)
        arrays[f"{part}_labels"] = labels
    return arrays


def load(
    name: str, data_dir: pathlib.Path, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns standardised inputs ``[N, ...]`` and labels ``[N]`` of all parts."""
    if name == "digits":
        parts = sources.load("digits")
        parts = (parts.train, parts.val, parts.test)
        images = np.concatenate([part.images for part in parts])
        labels = np.concatenate([part.labels for part in parts])
    elif name == "pairs":  # two garments side by side: 100 classes
        x, y = load("fashion_mnist", data_dir, rng)
        other = rng.permutation(len(x))
        return np.concatenate([x, x[other]], axis=2), 10 * y + y[other]
    elif name in ("sst2", "ag_news_subset"):
        return load_text(name, data_dir)
    else:
        rows = read(name, data_dir)
        images = np.stack([row["image"] for row in rows])
        labels = np.array([row["label"] for row in rows])
    x = images.astype(np.float32)
    return (x - x.mean()) / x.std(), labels.astype(np.int32)


def read(name: str, data_dir: pathlib.Path) -> list[dict]:
    """Returns the examples of all parts of a prepared TFDS set."""
    builder = tfds.builder_from_directory(tfds_reader.find(name, data_dir))
    parts = (builder.as_data_source(split=part) for part in builder.info.splits)
    return [row for part in parts for row in part]


def load_text(name: str, data_dir: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns bags of hashed words ``[N, 2048]``, and labels."""
    keys = ("sentence",) if name == "sst2" else ("title", "description")
    rows = read(name, data_dir)
    bags = np.zeros((len(rows), 2048), np.float32)
    for bag, row in zip(bags, rows, strict=True):
        words = b" ".join(row[key] for key in keys).lower().split()
        for word in words:
            bag[zlib.crc32(word) % 2048] += 1
    bags /= np.sqrt(np.maximum(bags.sum(axis=1, keepdims=True), 1))
    return 8 * bags, np.array([row["label"] for row in rows], np.int32)


def init(rng, shape, layers, num_classes):
    """Returns He-initialised parameters and the cost up to each exit, ``[K]``."""
    params, macs, total, units = [], [], 0, 0
    for k, layer in enumerate(layers):
        if len(layer) == 1:
            fan_in = units + (int(np.prod(shape)) >> (len(layers) - 1 - k))
            kernel = (fan_in, layer[0])
            head_in = units = layer[0]
            total += fan_in * units
        else:
            kernel = (3, 3, shape[2], layer[0])
            shape = (*(-(-s // layer[1]) for s in shape[:2]), layer[0])
            head_in = 4 * layer[0]
            total += int(np.prod(kernel)) * shape[0] * shape[1]
        total += head_in * num_classes
        scale = np.sqrt(2 / np.prod(kernel[:-1]))
        params.append({
            "kernel": (scale * rng.standard_normal(kernel)).astype(np.float32),
            "bias": np.zeros(kernel[-1], np.float32),
            "head": np.zeros((head_in, num_classes), np.float32),
            "head_bias": np.zeros(num_classes, np.float32),
        })  # fmt: skip
        macs.append(total)
    return params, np.array(macs) / 1e6


def forward(params, x, layers):
    """Returns logits ``[K, B, C]``."""
    logits = []
    pooled, flat = jnp.zeros((len(x), 0)), x.reshape(len(x), -1)
    for k, (p, layer) in enumerate(zip(params, layers, strict=True)):
        if len(layer) == 1:
            seen = flat[:, : flat.shape[1] >> (len(layers) - 1 - k)]
            inputs = jnp.concatenate([pooled, seen], axis=1)
            pooled = jax.nn.relu(inputs @ p["kernel"] + p["bias"][None])
        else:
            x = jax.lax.conv_general_dilated(
                x, p["kernel"], (layer[1],) * 2, "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )  # fmt: skip
            x = jax.nn.relu(x + p["bias"])
            high, wide = (s // 2 for s in x.shape[1:3])
            corners = itertools.product(
                (slice(high), slice(high, None)), (slice(wide), slice(wide, None))
            )
            pooled = jnp.concatenate(
                [x[:, i, j].mean(axis=(1, 2)) for i, j in corners], axis=1
            )
        logits.append(pooled @ p["head"] + p["head_bias"][None])
    return jnp.stack(logits)


def train(params, x, y, file, rng):
    """Trains by Adam, batch 128, on the mean of the exits' cross-entropies."""
    steps = file.epochs * len(x) // 128
    tx = optax.adam(optax.cosine_onecycle_schedule(max(steps, 10), 4e-3))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, opt_state, x, y):
        def loss(params):
            logits = forward(params, x, file.layers)
            return optax.softmax_cross_entropy_with_integer_labels(
                logits, jnp.broadcast_to(y, logits.shape[:2])
            ).mean()

        updates, opt_state = tx.update(jax.grad(loss)(params), opt_state)
        return optax.apply_updates(params, updates), opt_state

    params = jax.tree.map(jnp.asarray, params)
    opt_state = tx.init(params)
    for _ in range(steps):
        rows = rng.integers(0, len(x), 128)
        params, opt_state = step(params, opt_state, x[rows], y[rows])
    return params


def predict(params, x, layers):
    """Returns logits ``[K, N, C]``."""
    run = jax.jit(functools.partial(forward, layers=layers))
    batches = [run(params, x[i : i + 1000]) for i in range(0, len(x), 1000)]
    return np.concatenate(batches, axis=1)


def summary(arrays: dict[str, np.ndarray]) -> str:
    """Returns sizes, costs and test accuracies in a line."""
    logits = arrays["test_logits"]
    right = (logits.argmax(-1) == arrays["test_labels"]).mean(axis=1)
    shape = "K={} N={} C={}".format(*logits.shape)
    costs = " ".join(f"{c:.3g}" for c in arrays["costs"])
    return f"{shape} costs {costs}, test % " + " ".join(f"{100 * r:.1f}" for r in right)


if __name__ == "__main__":
    main()
