"""Formats: how one program is written."""
