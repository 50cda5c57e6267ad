"""Compressors: autoencoders of images and videos, and the bottlenecks of their latents."""
