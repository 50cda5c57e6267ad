"""Videos: files read and written, and folders of them as sets of clips."""
