"""Facts of the TFDS image sets that are read by name."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class TfdsFacts:
    """What must be known of a TFDS image set before it is read.

    ``shape`` is None where images differ in size; they are streamed. With
    ``test_split="validation"`` the test labels are not published: the official
    validation part then serves as test, and ours comes from train.
    """

    shape: tuple[int, int, int] | None
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    val_size: int = 5000
    test_split: str = "test"


_CIFAR10 = (0.4914, 0.4824, 0.4467), (0.2471, 0.2435, 0.2616)
_CIFAR100 = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
_SVHN = (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)
_STL10 = (0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713)
_TINY_IMAGENET = (0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TFDS = {
    "cifar10": TfdsFacts((32, 32, 3), 10, *_CIFAR10),
    "cifar100": TfdsFacts((32, 32, 3), 100, *_CIFAR100),
    "fashion_mnist": TfdsFacts((28, 28, 1), 10, (0.2860,), (0.3530,)),
    "svhn_cropped": TfdsFacts((32, 32, 3), 10, *_SVHN),
    "stl10": TfdsFacts((96, 96, 3), 10, *_STL10, 500),
    "tiny_imagenet": TfdsFacts((64, 64, 3), 200, *_TINY_IMAGENET, 10_000, "validation"),
    "imagenette": TfdsFacts(None, 10, *IMAGENET, 1000, "validation"),
    "imagenet2012": TfdsFacts(None, 1000, *IMAGENET, 50_000, "validation"),
}
