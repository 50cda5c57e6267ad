"""Experiments with diffusion models of images; each file here is a program."""
