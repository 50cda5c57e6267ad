"""Parts of the experiments on texts and images."""
