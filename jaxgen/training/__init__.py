"""Training: state, step, loop, optimiser recipes, metrics, checkpoints."""
