"""Output layers besides the softmax: tree, sampled, short list, energy, unknown words."""
