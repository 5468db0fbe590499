"""Training of multi-exit backbones: objectives, optimisers, steps and the loop."""
