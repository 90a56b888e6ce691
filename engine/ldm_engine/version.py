"""The version, kept in this one place (pyproject.toml and the bundles read it)."""

__version__ = "0.1.0"
