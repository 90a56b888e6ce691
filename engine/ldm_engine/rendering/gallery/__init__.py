"""The page over what a run made, in files that a browser loads from the disk."""
