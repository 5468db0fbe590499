"""What does PyTorch take for the networks that ``benchmarks/train_step.py`` times?

    python benchmarks/torch_models.py --model=resnet56_3 --batch_size=128 [--threads=1]

Runs without JAX, as ``train_step``'s subprocess: prints one line that describes the
network, then for each line "step" or "forward" on its standard input the seconds that
one training step or evaluation of all exits took. On a terminal, type these.
"""

import argparse
import json
import sys
import time

import torch
from torch import nn
from torch.nn import functional


def conv(inputs: int, width: int, kernel: int, stride: int = 1, bias=False):
    """Returns a convolution padded by kernel // 2."""
    return nn.Conv2d(inputs, width, kernel, stride, kernel // 2, bias=bias)


def conv_norm(inputs: int, width: int, kernel: int, stride: int = 1, bias=False):
    """Returns convolution, BatchNorm and ReLU."""
    return nn.Sequential(
        conv(inputs, width, kernel, stride, bias), nn.BatchNorm2d(width), nn.ReLU(True)
    )


def norm_conv(inputs: int, width: int, kernel: int):
    """Returns BatchNorm, ReLU and convolution."""
    return nn.Sequential(
        nn.BatchNorm2d(inputs), nn.ReLU(True), conv(inputs, width, kernel)
    )


class Bottleneck(nn.Module):
    """1x1, 3x3 (which strides) and 1x1 to four times the width, and a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        outputs = 4 * width
        self.branch = nn.Sequential(
            conv_norm(inputs, width, 1),
            conv_norm(width, width, 3, stride),
            conv(width, outputs, 1),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        return functional.relu(self.branch(x) + self.shortcut(x), inplace=True)


class DenseLayer(nn.Module):
    """Puts k new channels before its input's."""

    def __init__(self, inputs: int, growth: int):
        super().__init__()
        self.branch = nn.Sequential(
            norm_conv(inputs, 4 * growth, 1), norm_conv(4 * growth, growth, 3)
        )

    def forward(self, x):
        return torch.cat([self.branch(x), x], 1)


class MultiExit(nn.Module):
    """Stem, stages and heads; returns logits [K, B, C]."""

    def __init__(self, stem, stages, heads):
        super().__init__()
        self.stem = stem
        self.stages, self.heads = nn.ModuleList(stages), nn.ModuleList(heads)

    def forward(self, x):
        x, logits = self.stem(x), []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            logits.append(head(x))
        return torch.stack(logits)


def pooled_linear(inputs: int, num_classes: int):
    """Returns global average pool and a linear layer."""
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, num_classes)
    )


def conv_head(inputs: int, num_classes: int):
    """Returns EENet's head: three 3x3 convolutions of width D / 4, pool, linear."""
    width = inputs // 4
    convs = [conv_norm(inputs if i == 0 else width, width, 3) for i in range(3)]
    return nn.Sequential(*convs, pooled_linear(width, num_classes))


def bottleneck_stages(inputs: int, width: int, lengths):
    """Returns a stage a layer of bottlenecks, and the channels behind each."""
    stages, widths = [], []
    for layer, length in enumerate(lengths):
        blocks = []
        for i in range(length):
            stride = 2 if layer and i == 0 else 1
            blocks.append(Bottleneck(inputs, width * 2**layer, stride))
            inputs = 4 * width * 2**layer
        stages.append(nn.Sequential(*blocks))
        widths.append(inputs)
    return stages, widths


def resnet56_3(num_classes: int):
    """Returns EENet's ResNet56-3."""
    stages, widths = bottleneck_stages(16, 16, (9, 9, 9))
    heads = [conv_head(w, num_classes) for w in widths[:-1]]
    heads.append(pooled_linear(widths[-1], num_classes))
    return MultiExit(conv_norm(3, 16, 3), stages, heads)


def resnet50(num_classes: int):
    """Returns torchvision's ResNet-50 with exits behind its first three layers."""
    stem = nn.Sequential(conv_norm(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1))
    stages, widths = bottleneck_stages(64, 64, (3, 4, 6, 3))
    heads = [conv_head(w, num_classes) for w in widths[:-1]]
    heads.append(pooled_linear(widths[-1], num_classes))
    return MultiExit(stem, stages, heads)


def densenet121_4(num_classes: int, growth: int = 12):
    """Returns EENet's DenseNet121-4 for CIFAR."""
    inputs, stages, heads = 2 * growth, [], []
    lengths = (6, 12, 24, 16)
    for k, length in enumerate(lengths):
        layers = [DenseLayer(inputs + i * growth, growth) for i in range(length)]
        inputs += length * growth
        if k < len(lengths) - 1:
            layers += [norm_conv(inputs, inputs // 2, 1), nn.AvgPool2d(2)]
            inputs //= 2
            heads.append(conv_head(inputs, num_classes))
        stages.append(nn.Sequential(*layers))
    norm = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
    heads.append(nn.Sequential(norm, pooled_linear(inputs, num_classes)))
    return MultiExit(conv(3, 2 * growth, 3), stages, heads)


def vgg11_bn(num_classes: int):
    """Returns torchvision's VGG-11 with BatchNorm, exits behind all pools but one."""
    inputs, stages, heads = 3, [], []
    for width, length in zip((64, 128, 256, 512, 512), (1, 1, 2, 2, 2), strict=True):
        layers = []
        for _ in range(length):
            layers.append(conv_norm(inputs, width, 3, bias=True))
            inputs = width
        stages.append(nn.Sequential(*layers, nn.MaxPool2d(2)))
        heads.append(conv_head(inputs, num_classes))
    heads[-1] = nn.Sequential(
        nn.AdaptiveAvgPool2d(7),
        nn.Flatten(),
        *(nn.Linear(7 * 7 * 512, 4096), nn.ReLU(True), nn.Dropout()),
        *(nn.Linear(4096, 4096), nn.ReLU(True), nn.Dropout()),
        nn.Linear(4096, num_classes),
    )
    return MultiExit(nn.Identity(), stages, heads)


MODELS = {f.__name__: f for f in (resnet56_3, densenet121_4, resnet50, vgg11_bn)}


class Timed:
    """A network on a device, of which a step or a forward pass is timed."""

    def __init__(self, args: argparse.Namespace):
        self.device = torch.device(args.device)
        layout = torch.channels_last if args.channels_last else torch.contiguous_format
        net = MODELS[args.model](args.num_classes).to(self.device, memory_format=layout)
        self.parameters = sum(p.numel() for p in net.parameters())
        shape = (args.batch_size, 3, args.size, args.size)
        self.x = torch.randn(shape, device=self.device).to(memory_format=layout)
        self.labels = torch.randint(
            args.num_classes, (args.batch_size,), device=self.device
        )
        self.net, self.dtype = net, getattr(torch, args.dtype)
        self.call = torch.compile(net) if args.compile else net
        self.optimizer = torch.optim.SGD(net.parameters(), 1e-3, 0.9)

    def autocast(self):
        """Returns the context of the compute type."""
        reduced = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype, enabled=reduced)

    def step(self) -> None:
        """Takes a step: the published weights of all exits' cross-entropies."""
        self.net.train()
        self.optimizer.zero_grad()
        with self.autocast():
            logits = self.call(self.x).float()
            count = len(logits)
            losses = [functional.cross_entropy(z, self.labels) for z in logits]
            weights = [(j + 1) / (count * (count + 1)) for j in range(count)]
            loss = sum(w * value for w, value in zip(weights, losses, strict=True))
        loss.backward()
        self.optimizer.step()

    def forward(self) -> None:
        """Computes the logits of all exits in evaluation mode."""
        self.net.eval()
        with torch.inference_mode(), self.autocast():
            self.call(self.x)

    def seconds(self, name: str) -> float:
        """Returns the wall time of "step" or "forward"."""
        function = {"step": self.step, "forward": self.forward}[name]
        start = time.perf_counter()
        function()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start


def main() -> None:
    """Describes the network, then times what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="resnet56_3")
    parser.add_argument("--num_classes", type=int, default=10)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--size", type=int, default=32, help="image side in pixels")
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's choice")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="float32", help="or bfloat16: autocast")
    parser.add_argument("--channels_last", action="store_true")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    timed = Timed(args)
    about = {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "parameters": timed.parameters,
    }
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        print(timed.seconds(line.strip()), flush=True)


if __name__ == "__main__":
    main()
