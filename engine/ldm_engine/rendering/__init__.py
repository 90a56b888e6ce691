"""Batch rendering: jobs in, images and records out, nothing lost, nothing twice."""
