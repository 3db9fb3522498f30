"""Models to disk, one file a format."""
