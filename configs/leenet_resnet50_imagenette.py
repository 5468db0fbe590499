"""LEENet's ResNet-50 on Imagenette: exits and gates on a frozen, imported network.

    python train.py --config=configs/leenet_resnet50_imagenette.py --alpha=0.5 \
        --config.init_from=resnet50.pth --config.init_partial=True \
        --config.data.dir=DIR --workdir=runs/leenet_resnet50

The weights are torchvision's for ImageNet, whose classifier is left out and trained
anew. The exits read up to 802,816 numbers: features are computed in every step.
"""

import ml_collections

from configs import leenet_vgg11_cifar10


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    c = leenet_vgg11_cifar10.get_config()
    c.model.name = "leenet_resnet50"
    c.model.options = ml_collections.ConfigDict()

    c.data.name = "imagenette"
    c.data.val_size = 1000
    c.data.mean = (0.485, 0.456, 0.406)
    c.data.std = (0.229, 0.224, 0.225)

    c.train.batch_size = 32
    return c
