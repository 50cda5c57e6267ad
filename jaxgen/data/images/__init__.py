"""Images: sets in memory, folders, published files, tfds."""
