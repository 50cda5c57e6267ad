"""Text: corpora, vocabularies, and the formats that they are read from."""
