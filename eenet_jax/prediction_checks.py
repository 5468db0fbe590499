"""What the arrays of a predictions file must hold; errors name key, index and value."""

from collections.abc import Mapping, Sequence

import numpy as np

from eenet_jax.errors import UserError

# What gates may read of a map; see ``schedulers.feature_gates.INPUTS``.
GATE_INPUTS = ("flat", "average", "max", "both", "bins")
ROW_TOLERANCE = {np.dtype(np.float16): 2e-2}


def prices(
    arrays: Mapping[str, np.ndarray], num_exits: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads ``costs`` and ``head_costs`` and checks them together."""
    costs = per_exit(arrays, "costs", num_exits)
    if costs is None:
        raise UserError(
            "the key 'costs' is missing: float [K], the cost per sample up to each exit"
        )
    falls = np.flatnonzero(np.diff(costs) < 0)
    if len(falls):
        k = int(falls[0]) + 1
        raise UserError(
            f"costs[{k}]={costs[k]} is below costs[{k - 1}]={costs[k - 1]}; costs are "
            "cumulative and must not fall"
        )
    if costs[-1] <= 0:
        raise UserError(f"costs[{num_exits - 1}]={costs[-1]} must be above 0")
    head_costs = per_exit(arrays, "head_costs", num_exits)
    if head_costs is not None:
        stages = np.diff(costs - np.cumsum(head_costs), prepend=0.0)
        rule = "is more than exit k adds to costs, which include the heads so far"
        too_much = stages < -1e-9 * costs[-1]
        refuse_first("head_costs", head_costs, too_much, rule)
    return costs, head_costs


def check_rows(name: str, probs: np.ndarray) -> None:
    """Refuses probabilities that are negative or do not sum to 1."""
    refuse_first(name, probs, probs < 0, "must not be negative")
    sums = probs.sum(axis=-1, dtype=np.float64)
    wrong = np.abs(sums - 1) > ROW_TOLERANCE.get(probs.dtype, 1e-3)
    refuse_first(f"sum of {name}", sums, wrong, "must be 1")


def labels(
    arrays: Mapping[str, np.ndarray], name: str, num_samples: int, num_classes: int
) -> np.ndarray:
    """Reads labels, int32 ``[N]``."""
    if name not in arrays:
        raise UserError(f"{name} is missing: integers [N]")
    values = arrays[name]
    integers = np.issubdtype(values.dtype, np.integer)
    if not integers or values.shape != (num_samples,):
        raise UserError(
            f"{name} must be integers [{num_samples}], not {values.dtype} "
            f"{list(values.shape)}"
        )
    outside = (values < 0) | (values >= num_classes)
    refuse_first(name, values, outside, f"must be in 0..{num_classes - 1}")
    return values.astype(np.int32)


def of_maps(
    arrays: Mapping[str, np.ndarray],
    part: str,
    num_exits: int,
    num_samples: int,
    num_classes: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Reads confidences float32 ``[K, N]``, confusion matrices ``[K, N, C, C]``."""
    name = f"{part}_confidence"
    if name not in arrays:
        raise UserError(f"{name} is missing, though {part}_confusion is there")
    confidence, shape = arrays[name], (num_exits, num_samples)
    if not np.issubdtype(confidence.dtype, np.floating) or confidence.shape != shape:
        raise UserError(
            f"{name} must be float {list(shape)}, not {confidence.dtype} "
            f"{list(confidence.shape)}"
        )
    outside = ~((confidence >= 0) & (confidence <= 1 + 1e-6))
    refuse_first(name, confidence, outside, "must be in [0, 1]")
    name, shape = f"{part}_confusion", (*shape, num_classes, num_classes)
    confusion = arrays[name]
    if not np.issubdtype(confusion.dtype, np.integer) or confusion.shape != shape:
        raise UserError(
            f"{name} must be integers {list(shape)}, not {confusion.dtype} "
            f"{list(confusion.shape)}"
        )
    refuse_first(name, confusion, confusion < 0, "must not be negative")
    pixels = confusion.sum(axis=-1)
    other = np.broadcast_to((pixels != pixels[:1]).any(axis=-1), pixels.shape[:2])
    rule = "counts other pixels of the image than exit 1 does"
    refuse_first(f"sum of {name}", pixels.sum(axis=-1), other, rule)
    return confidence.astype(np.float32), confusion


def same_features(val: Sequence[np.ndarray], test: Sequence[np.ndarray]) -> None:
    """Refuses features of other sizes on the two parts."""
    for k, (ours, theirs) in enumerate(zip(val, test, strict=False)):
        if ours.shape[1] != theirs.shape[1]:
            raise UserError(
                f"val_features_{k} has {ours.shape[1]} numbers a sample, "
                f"test_features_{k} {theirs.shape[1]}; they must have as many"
            )


def class_names(
    arrays: Mapping[str, np.ndarray], num_classes: int
) -> tuple[str, ...] | None:
    """Reads what the classes are called; None where it is not said."""
    names = arrays.get("class_names")
    if names is None:
        return None
    if names.dtype.kind != "U" or names.shape != (num_classes,):
        raise UserError(
            f"class_names must be strings [{num_classes}], not {names.dtype} "
            f"{list(names.shape)}"
        )
    return tuple(names.tolist())


def samples_per_image(arrays: Mapping[str, np.ndarray], *sizes: int) -> int:
    """Reads how many samples are blocks of one image; 1 where it is not said."""
    count = arrays.get("samples_per_image", np.array(1))
    whole = not count.shape and np.issubdtype(count.dtype, np.integer) and count >= 1
    if not whole or any(size % count for size in sizes):
        raise UserError(
            f"samples_per_image={count} must be one integer that divides the "
            f"{' and '.join(map(str, sizes))} samples"
        )
    return int(count)


def features(
    arrays: Mapping[str, np.ndarray], part: str, num_exits: int, num_samples: int
) -> tuple[np.ndarray, ...] | None:
    """Reads features, float32 ``[N, D_k]`` of every early exit at least, or None."""
    names = [f"{part}_features_{k}" for k in range(num_exits)]
    present = [name for name in names if name in arrays]
    if not present:
        return None
    names = names[: max(len(present), num_exits - 1)]
    for name in names:
        if name not in arrays:
            raise UserError(f"{name} is missing, though {present[-1]} is there")
        values = arrays[name]
        floating = np.issubdtype(values.dtype, np.floating)
        if not floating or values.ndim != 2 or len(values) != num_samples:
            raise UserError(
                f"{name} must be float [{num_samples}, D], not {values.dtype} "
                f"{list(values.shape)}"
            )
        refuse_first(name, values, ~np.isfinite(values), "must be finite")
    return tuple(arrays[name].astype(np.float32) for name in present)


def per_exit(
    arrays: Mapping[str, np.ndarray], name: str, num_exits: int
) -> np.ndarray | None:
    """Reads one number for each exit, float64 ``[K]``; None if they are not there."""
    if name not in arrays:
        return None
    values = arrays[name]
    number = values.dtype.kind in "iuf"
    if not number or values.shape != (num_exits,):
        raise UserError(
            f"{name} must be numbers [{num_exits}], not {values.dtype} "
            f"{list(values.shape)}"
        )
    values = values.astype(np.float64)
    wrong = ~np.isfinite(values) | (values < 0)
    refuse_first(name, values, wrong, "must be finite and not negative")
    return values


def refuse_first(name: str, values: np.ndarray, wrong: np.ndarray, rule: str) -> None:
    """Raises a UserError that shows the first wrong value, if any is."""
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        place = ", ".join(map(str, index))
        raise UserError(f"{name}[{place}]={values[index]} {rule}")
