"""What a folder on disk is: its programs, files, hashes and manifest."""
