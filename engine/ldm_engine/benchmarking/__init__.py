"""Measuring: samples, what they say, and the machine they were taken on."""
