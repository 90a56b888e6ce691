"""Command line options that several commands share; those of an image come from the settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from ..sampling.settings import Setting, common_settings

Command = TypeVar("Command", bound=Callable[..., Any])


def settings_options(command: Command, settings: Iterable[Setting] | None = None) -> Command:
    """An option for each of `settings`, by default all that the images of a run may share."""
    for setting in reversed(list(common_settings() if settings is None else settings)):
        default = setting.default if setting.command_default is None else setting.command_default
        command = click.option(
            f"--{setting.name.replace('_', '-')}",
            type=_option_type(setting),
            default=default,
            show_default=default not in (None, ""),
            help=setting.help,
        )(command)
    return command


def _option_type(setting: Setting) -> Any:
    if setting.choices:
        return click.Choice(setting.choices)
    return str if setting.kind is list else setting.kind


def runtime_options(command: Command) -> Command:
    """``--runtime``, ``--precision`` and ``--device`` of what renders."""
    for option in reversed(
        (
            click.option(
                "--runtime",
                default="auto",
                show_default=True,
                help="Runtime: auto, or the name of one.",
            ),
            click.option(
                "--precision",
                default="fp32",
                show_default=True,
                help="Precision: fp32, fp16, bf16 or int8.",
            ),
            click.option(
                "--device",
                default="cpu",
                show_default=True,
                help="The CPU, or gpu:0, gpu:1, ...",
            ),
        )
    ):
        command = option(command)
    return command
