"""Any scheduler's config as that of diffusers' DDIMScheduler, by which pictures are made.

It is read as ``DDIMScheduler.from_config`` reads it: fields that DDIM has are taken, those that are
absent have DDIM's defaults, and those of other solvers do not count. But what a class does not do
at all, clipping, its config need not switch off.
"""

from __future__ import annotations

import reprlib

from ldm_engine.errors import ConfigError

from ..config_reading import warn_of_unknown
from .checkpoint import Config

#: Classes whose noise schedule is that of DDIM: betas, at whole timesteps.
CLASSES = (
    "DDIMScheduler",
    "DDIMParallelScheduler",
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "UniPCMultistepScheduler",
)
#: Those that clip where their config does not say otherwise.
_CLIPPING = {
    "DDIMScheduler", "DDIMParallelScheduler", "DDPMScheduler", "DDPMParallelScheduler",
}  # fmt: skip
#: What DDIM reads; the engine refuses the values that it cannot follow.
_READ = {
    "beta_end", "beta_schedule", "beta_start", "clip_sample", "num_train_timesteps",
    "prediction_type", "rescale_betas_zero_snr", "set_alpha_to_one", "steps_offset", "thresholding",
    "timestep_spacing", "trained_betas",
}  # fmt: skip
#: Of DDIM, but without effect where clipping and thresholding are off.
_OF_CLIPPING = {"clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value"}
#: Where null, 0 and 1 are as good as false and true.
_SWITCHES = ("clip_sample", "rescale_betas_zero_snr", "set_alpha_to_one", "thresholding")
#: Of other classes: how their solvers step.
_OF_SOLVERS = {
    "algorithm_type", "corrector_order", "disable_corrector", "euler_at_final", "final_sigmas_type",
    "flow_shift", "interpolation_type", "lambda_min_clipped", "lower_order_final",
    "noise_sampler_seed", "original_inference_steps", "predict_x0", "predictor_order",
    "shift_terminal", "sigma_max", "sigma_min", "skip_prk_steps", "solver_order", "solver_p",
    "solver_type", "tau_func", "time_shift_type", "timestep_scaling", "use_beta_sigmas",
    "use_dynamic_shifting", "use_exponential_sigmas", "use_karras_sigmas", "use_lu_lambdas",
    "variance_type",
}  # fmt: skip
#: Of other classes, with the value that leaves the model one of noise at whole timesteps.
_OF_OTHER_MODELS = {
    "timestep_type": "discrete",
    "use_flow_sigmas": False,
    "predict_epsilon": True,  # of 2022, before `prediction_type`
}
#: Of 2022 too, without effect.
_WITHOUT_EFFECT = {"tensor_format"}


def ddim_config(raw: Config, indexed: str | None = None) -> tuple[Config, list[str]]:
    """A config of DDIMScheduler with the noise schedule of `raw`, and a note if it is of another.

    `indexed` is the class that model_index.json names; it must be of the same kind.

    Raises:
        ConfigError: if its class has another kind of noise schedule.

    Warns:
        UserWarning: naming the keys that no class reads.
    """
    unsaid = raw.get("_use_default_values")
    config = {k: v for k, v in raw.items() if not isinstance(unsaid, list) or k not in unsaid}
    name = config.get("_class_name", "DDIMScheduler")
    classes = (name, indexed or name)
    strange = [n for n in classes if n not in CLASSES]
    if strange:
        shown = strange[0][:100] if isinstance(strange[0], str) else reprlib.repr(strange[0])
        raise ConfigError(
            f"The scheduler is of the class {shown}; accepted are those whose noise "
            f"schedule DDIM can follow: {', '.join(CLASSES)}.\n"
            "  Use the scheduler_config.json that the model was trained with."
        )
    for key, accepted in _OF_OTHER_MODELS.items():
        if config.get(key) not in (accepted, None):
            raise ConfigError(
                f"The scheduler config's `{key}` is {config[key]!r}; {accepted!r} is accepted: "
                "only models that predict noise at whole timesteps are exported."
            )
    known = _READ | _OF_CLIPPING | _OF_SOLVERS | _OF_OTHER_MODELS.keys() | _WITHOUT_EFFECT
    warn_of_unknown("scheduler", {k for k in config.keys() - known if not k.startswith("_")})
    for key in _SWITCHES:
        if config.get(key, False) in (None, False, True) and key in config:
            config[key] = bool(config[key])
    if config.get("timestep_spacing") == "linspace":
        config.pop("steps_offset", None)  # it does not count there
    other = next((n for n in classes if n != "DDIMScheduler"), "")
    note = f"The scheduler is {other}: its noise schedule is read, and pictures are made with DDIM."
    notes = [note] if other else []
    if name == "DDIMScheduler":
        return config, notes
    taken = {key: value for key, value in config.items() if key in _READ}
    if name not in _CLIPPING:
        taken.setdefault("clip_sample", False)
    return {"_class_name": "DDIMScheduler", **taken}, notes
