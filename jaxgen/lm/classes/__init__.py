"""Classes of words: the exchange algorithm and merging."""
