"""Corruptions besides Gaussian noise: deterministic ones (cold diffusion) and gamma noise."""
