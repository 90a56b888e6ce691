"""Weights of a solver's steps by least squares, on the solver's own path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..sampling.schedule import NoiseSchedule
from ..sampling.solvers import dpmsolver_rows
from ..sampling.solvers_file import MAX_TERMS
from .images import Array, Images, advanced

Weights = tuple[tuple[float, ...], ...]  #: a step's a, b[0], b[1], ...
RIDGE = 1e-6  #: of the mean square of what is weighted, towards DPM-Solver++ 2M


def fit_weights(
    images: Images,
    reference: Mapping[int | None, Array],
    timesteps: Sequence[int],
    schedule: NoiseSchedule,
) -> Weights:
    """For each step the weights a, b[0], b[1], ... that lead nearest to `reference`.

    A step is fitted where the steps before have led, so that it corrects their errors too.

    Args:
        images: to fit to.
        reference: their converged latents at each of `timesteps`, and under None at the end.
        timesteps: of the solver, descending.
        schedule: of the model.
    """
    x, history = images.noise.copy(), list[Array]()
    weights: list[tuple[float, ...]] = []
    forms = dpmsolver_rows(schedule, timesteps)
    for form, then in zip(forms, [*timesteps[1:], None], strict=True):
        history.insert(0, images.item(x, form))
        del history[MAX_TERMS:]
        prior = np.zeros(1 + len(history))
        prior[: 1 + len(form.b)] = form.a, *form.b
        row = least_squares([x, *history], reference[then], prior)
        weights.append(tuple(map(float, row)))
        x = advanced(x, history, weights[-1][0], weights[-1][1:])
    return tuple(weights)


def least_squares(
    columns: Sequence[Array], target: Array, prior: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The weights of `columns` that give nearest to `target`, drawn a little towards `prior`."""
    matrix = np.stack([c.ravel() for c in columns], 1).astype(np.float64)
    gram = matrix.T @ matrix
    residual = matrix.T @ (target.ravel() - matrix @ prior)
    ridge = RIDGE * np.trace(gram) / len(gram)
    return np.asarray(prior + np.linalg.solve(gram + ridge * np.eye(len(gram)), residual))
