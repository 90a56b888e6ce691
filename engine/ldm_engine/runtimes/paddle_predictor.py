"""Paddle's predictors on any device: import, opening, running, and side effects undone."""

from __future__ import annotations

import sys
import warnings
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.bundle import Bundle
from ..errors import BundleError, LDMEngineError, RuntimeUnavailableError, last_lines
from ..machine.locales import decimal_points
from ..machine.signals import handlers_kept
from .base import Array, Program, Runtime


def install_command(extra: str) -> str:
    """The command that installs an `extra` of this project with Paddle in it."""
    elsewhere = ""
    if sys.version_info >= (3, 14):
        elsewhere = (
            " in Python 3.10 to 3.13: Paddle has no package for the "
            f"{sys.version_info[0]}.{sys.version_info[1]} that is given"
        )
    return f"pip install 'ldm-engine[{extra}]'{elsewhere}"


class PaddleLibrary(Runtime):
    """The common part of the runtimes that use Paddle."""

    distributions = ("paddlepaddle", "paddlepaddle-gpu")
    install = install_command("paddle")
    gpu_distribution = "paddlepaddle-gpu"
    gpu_oldest = "3.2.2"
    gpu_install = (
        "PyPI's paddlepaddle-gpu stops at 2.6.2, and 3.x comes from Paddle's own package index: "
        "run `pip uninstall paddlepaddle`, then the command that Paddle's installation page gives "
        "for the machine's CUDA version (docs/gpu.md)"
    )


class PredictorProgram(Program):
    """One predictor; see ``Program`` for how long its outputs live."""

    #: Owns the files that the predictor was made of, where they are not the bundle's: ``clone()``
    #: reads them again.
    source: object = None

    def __init__(self, name: str, bundle: Bundle, predictor: Any) -> None:
        super().__init__(name, bundle)
        self._predictor = predictor

    def _run(self, unchanged: Collection[str]) -> None:
        try:
            results = self._compute(unchanged)
        except Exception as error:
            raise self._failure("Paddle", last_lines(error, 2)) from error
        for name, result in results.items():
            array = self.outputs[name]
            if result.shape != array.shape:
                raise BundleError(
                    f"`{name}` of program {self.name} came out with shape {result.shape}; the "
                    f"inputs lead to {array.shape}. The bundle does not fit its manifest: export "
                    "it again."
                )
            np.copyto(array, result)

    @abstractmethod
    def _compute(self, unchanged: Collection[str]) -> Mapping[str, Array]:
        """Run the predictor; its outputs by name."""

    def _clone(self) -> PredictorProgram:
        """Another predictor, with a copy of the weights; call this in the thread that opened it.

        Raises:
            LDMEngineError: if Paddle cannot make one.
        """
        try:
            with decimal_points():
                predictor = self._predictor.clone()
        except Exception as error:
            raise LDMEngineError(
                f"Paddle could not clone the program {self.name}: {last_lines(error, 2)} Each "
                "clone takes memory for its own weights: make fewer where that is short; else "
                "open another pipeline with from_pretrained."
            ) from error
        twin = type(self)(self.name, self._bundle, predictor)
        twin.source = self.source
        return twin

    def _release(self) -> None:
        self._predictor = self.source = None


def import_inference(install: str) -> Any:
    """The module ``paddle.inference``; `install` is the command that installs it.

    Raises:
        RuntimeUnavailableError: if it cannot be imported.
    """
    with handlers_kept(), decimal_points(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Paddle warns about ccache and the like on import
        try:
            from paddle import inference
        except ImportError as error:
            raise RuntimeUnavailableError(
                f"Paddle cannot be imported: {error}. {import_remedy(error, install)}"
            ) from error
    return inference


@contextmanager
def dynamic_mode() -> Iterator[None]:
    """Paddle's dynamic mode, without which its tensors have no names.

    The mode is a thread's own. Threads are not in it where another one imported Paddle first, nor
    where the application chose the static one.
    """
    import paddle

    is_on: bool = paddle.in_dynamic_mode()
    if not is_on:
        paddle.disable_static()
    try:
        yield
    finally:
        if not is_on:
            paddle.enable_static()


def open_predictor(inference: Any, config: Any, graph: Path) -> Any:
    """The predictor of `config`, whose program is that of `graph`.

    Raises:
        LDMEngineError: if Paddle cannot load it.
    """
    try:
        with decimal_points():
            return inference.create_predictor(config)
    except Exception as error:
        from paddle import __version__ as version

        raise LDMEngineError(
            f"Paddle {version} cannot load {graph}: {last_lines(error, 2)} "
            "Run `ldm-engine verify` on the bundle; if it is whole, export it again with this "
            "version of Paddle."
        ) from error


def import_remedy(error: ImportError, install: str) -> str:
    """The remedy for an `error` of importing Paddle, or what `install` installs with it."""
    if "libgomp" in str(error):
        return "It needs a library of the system. Install it with: apt-get install libgomp1"
    return f"Install it with: {install}"
