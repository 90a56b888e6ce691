"""DPM-Solver++ 2M, as diffusers and ppdiffusers have it in the place of DDIM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .contract import Array

#: Second order, steps evenly spaced in log-SNR, and the last one of first order.
_SETTINGS = {
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "solver_type": "midpoint",
    "use_lu_lambdas": True,
    "euler_at_final": True,
}


def scheduler_for(
    solver: str, ddim: Any, multistep: type[Any], tensor: Callable[[Array], Any]
) -> Any:
    """The scheduler of a library for `solver`: `ddim` itself, or one of the class `multistep`.

    The libraries round the timesteps of such a spacing, but not their sigmas, and ppdiffusers does
    not end with a sigma of 0; here sigmas are those of the whole timesteps, and the last is 0, as
    in this engine. `tensor` makes the library's tensors.
    """
    if solver == "ddim":
        return ddim
    if solver != "dpmsolver++":
        raise ValueError(f"Others have no solver {solver}.")

    class OverWholeTimesteps(multistep):
        def set_timesteps(self, *arguments: Any, **keywords: Any) -> None:
            super().set_timesteps(*arguments, **keywords)
            alphas = self.alphas_cumprod.cpu().numpy()[self.timesteps.cpu().numpy()]
            sigmas = np.append(np.sqrt((1 - alphas) / alphas), 0.0)
            self.sigmas = tensor(sigmas.astype(np.float32))

    return OverWholeTimesteps.from_config(ddim.config, **_SETTINGS)
