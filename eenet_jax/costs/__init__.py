"""What an exit costs: arithmetic, parameters, measured time, and energy."""

from eenet_jax.costs.exits import ExitCosts
from eenet_jax.costs.flops import exit_mflops, exit_mparams
from eenet_jax.costs.latency import exit_latency_ms
from eenet_jax.costs.masked import masked_macs

__all__ = [
    "ExitCosts",
    "exit_latency_ms",
    "exit_mflops",
    "exit_mparams",
    "masked_macs",
]
