"""Every error this project raises on purpose: what was given, what is accepted, what to do."""

from __future__ import annotations


class LDMEngineError(Exception):
    """Base class of all errors of ldm-engine."""


class InvalidArgumentError(LDMEngineError, ValueError):
    """An argument has a value outside what is accepted."""


class ArgumentTypeError(LDMEngineError, TypeError):
    """An argument has the wrong type."""


class ShapeError(InvalidArgumentError):
    """An array has the wrong shape, or a size does not suit the model."""


class BundleError(LDMEngineError, ValueError):
    """A bundle cannot be used: incomplete, damaged, or written for another version."""


class BundleNotFoundError(LDMEngineError, FileNotFoundError):
    """There is no bundle at the given path."""


class ConfigError(LDMEngineError, ValueError):
    """A model or scheduler config needs something that is not supported."""


class RuntimeUnavailableError(LDMEngineError, ImportError):
    """A runtime is not installed, or cannot do what was requested."""


class ClosedError(LDMEngineError, ValueError):
    """A pipeline or program was used after it was closed, or in a child forked from its process."""


class RefusedError(LDMEngineError, ValueError):
    """A check of the application refused a prompt or a picture."""


class NonFiniteError(LDMEngineError, ArithmeticError):
    """A program produced NaN or infinity."""


class CheckpointError(LDMEngineError, ValueError):
    """A checkpoint cannot be read: a missing file, a missing tensor, an unknown layout."""


class UnsafePickleError(CheckpointError):
    """A pickle names something other than arrays and plain containers."""


class DownloadError(LDMEngineError, OSError):
    """A checkpoint could not be fetched."""


class VerificationError(LDMEngineError):
    """An exported program does not agree with its reference."""


class InputError(LDMEngineError, OSError):
    """A file that was named could not be read."""


class OutputError(LDMEngineError, OSError):
    """A file or folder could not be written."""


class ResultsError(LDMEngineError, ValueError):
    """Results of a benchmark cannot be read, or not be compared with others."""


class BenchmarkError(LDMEngineError):
    """A benchmark could not measure everything, or found a slowdown."""


def last_lines(error: Exception, count: int = 1, most: int = 300) -> str:
    """The last lines of what a library says went wrong, which say it best."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[-count:])[:most] or type(error).__name__
