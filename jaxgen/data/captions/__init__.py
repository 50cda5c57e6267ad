"""Pictures and clips with captions: folders, shapes that need no download, damage, batches."""
