"""Command line options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from ..runtimes.choice import MAX_POOL_MB

Command = TypeVar("Command", bound=Callable[..., Any])


def runtime_options(command: Command) -> Command:
    """``--runtime``, ``--precision``, ``--device`` and ``--gpu-pool-mb`` of what renders."""
    for option in reversed(
        (
            click.option(
                "--runtime", default="auto", show_default=True, help="auto, or the name of one."
            ),
            click.option(
                "--precision", default="fp32", show_default=True, help="fp32, fp16, bf16 or int8."
            ),
            click.option(
                "--device", default="cpu", show_default=True, help="cpu, or gpu:0, gpu:1, ..."
            ),
            click.option(
                "--gpu-pool-mb",
                type=click.IntRange(1, MAX_POOL_MB),
                help="What Paddle is told to take of the GPU at first; its default allocator most "
                "likely ignores it.",
            ),
        )
    ):
        command = option(command)
    return command
