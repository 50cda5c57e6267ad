"""Formats of other programs: n-gram files, word vectors, weights, scenes."""
