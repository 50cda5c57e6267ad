"""Experiments with language models; each file here is a program."""
