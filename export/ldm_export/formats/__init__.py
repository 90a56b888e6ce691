"""Writing an exported program: one file a format."""
