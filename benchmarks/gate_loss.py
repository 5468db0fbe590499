"""How much faster is the gates' loss than a loop over samples and exits?

    python -m benchmarks.gate_loss

LEENet's loss for 64 samples, 5 exits and 100 classes, from logits: ours with its
gradients, compiled, against a loop in Python: the value alone with NumPy and with eager
JAX, and with gradients in PyTorch, the original's library, where torch is installed.
"""

import importlib.util
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eenet_jax.schedulers.gate_training import gate_loss
from eenet_jax.stopwatch import take_turns

SAMPLES, EXITS, CLASSES, ALPHA = 64, 5, 100, 0.5


def loop(xp, gate_logits, class_logits, labels, costs) -> float:
    """The loss, sample by sample and exit by exit, with NumPy or JAX as ``xp``."""
    total = 0.0
    for n in range(len(labels)):
        reach = 1.0
        for k in range(len(costs)):
            logits = class_logits[k, n]
            error = xp.log(xp.sum(xp.exp(logits))) - logits[labels[n]]
            last = k == len(costs) - 1
            gate = 1.0 if last else 1 / (1 + xp.exp(-gate_logits[k, n]))
            total += reach * gate * ((1 - ALPHA) * error + ALPHA * costs[k])
            reach = reach * (1 - gate)
    return total / len(labels)


@jax.jit
def ours(gate_logits, class_logits, labels, costs):
    """The loss and its gradients."""

    def loss(gate_logits, class_logits):
        of_exits = jnp.broadcast_to(labels, class_logits.shape[:2])
        losses = optax.softmax_cross_entropy_with_integer_labels(class_logits, of_exits)
        return gate_loss(gate_logits, losses, costs, ALPHA).loss

    return jax.value_and_grad(loss, argnums=(0, 1))(gate_logits, class_logits)


def torch_loop(gate_logits, class_logits, labels, costs) -> Callable[[], list]:
    """The loop in PyTorch; returns what computes its gradients."""
    import torch

    torch.set_num_threads(1)
    gate_logits, class_logits, labels, costs = map(
        torch.tensor, (gate_logits, class_logits, labels, costs)
    )
    logits = [gate_logits.requires_grad_(), class_logits.requires_grad_()]

    def gradients() -> list[np.ndarray]:
        value = loop(torch, *logits, labels, costs)
        return [grad.numpy() for grad in torch.autograd.grad(value, logits)]

    return gradients


def main() -> None:
    """Measures and prints."""
    rng = np.random.default_rng(0)
    given = (
        rng.standard_normal((EXITS - 1, SAMPLES)).astype(np.float32),
        rng.standard_normal((EXITS, SAMPLES, CLASSES)).astype(np.float32),
        rng.integers(0, CLASSES, SAMPLES),
        np.linspace(0, 1, EXITS).astype(np.float32),
    )
    on_device = jax.device_put(given)
    np.testing.assert_allclose(ours(*on_device)[0], loop(np, *given), rtol=1e-5)
    ways = {
        "ours, with gradients": lambda: ours(*on_device),
        "loop, NumPy": lambda: loop(np, *given),
        "loop, eager JAX": lambda: loop(jnp, *on_device),
    }
    if importlib.util.find_spec("torch"):
        ways["loop, PyTorch, with gradients"] = torch_loop(*given)
    times = take_turns(ways, repeats=10)
    medians = {name: float(np.median(ms)) for name, ms in times.items()}
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}")
    for name, ms in medians.items():
        ratio = ms / medians["ours, with gradients"]
        print(f"{name}: {ms:.3f} ms, ratio to ours {ratio:.0f}")


if __name__ == "__main__":
    main()
