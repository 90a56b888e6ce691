"""Solvers fitted to a bundle: converged references, least squares, judging on other prompts."""
