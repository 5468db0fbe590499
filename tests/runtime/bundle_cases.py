"""What the tests of bundles export."""

from eenet_jax.runtime.export_inputs import ImageInputs

INPUTS = ImageInputs(2, 2, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
LADDERS = {8: ((8,), (4, 8), (8,))}  # few to compile
NAMES = ("ant", "bee", "cat", "dog")
