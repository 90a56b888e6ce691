"""The version, kept in this one place (setup.py and the bundles read it)."""

__version__ = "0.1.0"
