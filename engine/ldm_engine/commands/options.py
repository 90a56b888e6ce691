"""Command line options that several commands share; those of an image come from the settings."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import click

from ..sampling.outpainting import SIDES
from ..sampling.settings import Setting, common_settings

_LONG = 9  # digits of a number of pixels that Python need not read

#: Letters of the options that stand in most command lines, in each command that has the option.
LETTERS = {
    "output": "o", "num-images": "n", "num-inference-steps": "s", "guidance-scale": "g",
    "seed": "S",
}  # fmt: skip

Command = TypeVar("Command", bound=Callable[..., Any])


def settings_options(command: Command, settings: Iterable[Setting] | None = None) -> Command:
    """An option for each of `settings`, by default all that the images of a run may share."""
    for setting in reversed(list(common_settings() if settings is None else settings)):
        default = setting.default if setting.command_default is None else setting.command_default
        command = click.option(
            *named(setting.field.replace("_", "-")),
            setting.name,
            type=_option_type(setting),
            metavar=_metavar(setting),
            default=default,
            show_default=default not in (None, ""),
            help=setting.help,
        )(command)
    return command


def named(option: str) -> list[str]:
    """The option as click takes its names: with its letter, if it has one."""
    letter = LETTERS.get(option)
    return [*([f"-{letter}"] if letter else []), f"--{option}"]


def _metavar(setting: Setting) -> str | None:
    if setting.is_picture:
        return "FILE"
    return f"NUMBER|{setting.word}" if setting.word else None


def _option_type(setting: Setting) -> Any:
    if setting.choices:
        return click.Choice(setting.choices)
    if setting.word:
        return NumberOrWord(setting.word)
    return str if setting.kind in (list, Path) else setting.kind


class NumberOrWord(click.ParamType[Any]):
    """A whole number, or one word in its place."""

    name = "number"

    def __init__(self, word: str) -> None:
        self._word = word

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or the word."""
        if value == self._word:
            return value
        try:
            return int(value)
        except ValueError:
            self.fail(
                f"{value!r} is given; a whole number, or {self._word}, is accepted.", param, ctx
            )


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


def mark_option(command: Command) -> Command:
    """``--mark/--no-mark`` of what writes pictures."""
    return click.option(
        "--mark/--no-mark",
        default=True,
        show_default=True,
        help="Whether the files of pictures state that a model made them (IPTC digital source "
        "type, in XMP).",
    )(command)


def check_option(command: Command) -> Command:
    """``--check`` of what renders."""
    return click.option(
        "--check",
        type=ImportedCheck(),
        help="Function that may refuse prompts and pictures: called with (prompt, None) before and "
        "(prompt, picture) after, it returns why, or None.",
    )(command)


class ImportedCheck(click.ParamType[Any]):
    """A function of a module, which is looked for in the working directory too."""

    name = "MODULE:FUNCTION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The function."""
        if ctx is not None and ctx.resilient_parsing:  # as completion parses: it imports nothing
            return value
        module_name, _, name = str(value).partition(":")
        if not module_name or not name:
            self.fail(f"{value!r} is given; MODULE:FUNCTION is accepted, as in rules:refuse.")
        sys.path.append(str(Path.cwd()))  # last, so that it hides no installed module
        try:
            found = import_module(module_name)
            for part in name.split("."):
                found = getattr(found, part)
        except Exception as error:  # a module may raise anything
            self.fail(
                f"{value!r} cannot be imported: {type(error).__name__}: {error}. Modules are "
                "looked for where Python looks, and in the working directory."
            )
        if not callable(found):
            self.fail(f"{value!r} is a {type(found).__name__}; a function is accepted.")
        return found


class ListOf(click.ParamType[Any]):
    """Different numbers within a range, with commas between them."""

    def __init__(self, kind: type[int] | type[float], minimum: float, maximum: float) -> None:
        self.name = "NUMBER,..."
        self._kind, self._minimum, self._maximum = kind, minimum, maximum

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A tuple of them, in ascending order."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = [self._kind(text) for text in str(value).split(",")]
        except ValueError:
            numbers = []
        if not numbers or not all(self._minimum <= n <= self._maximum for n in numbers):
            what = "whole numbers" if self._kind is int else "numbers"
            self.fail(
                f"{value!r} is given; {what} from {self._minimum:g} to {self._maximum:g} with "
                "commas between them are accepted.",
                param,
                ctx,
            )
        return tuple(sorted(set(numbers)))


class Margins(click.ParamType[Any]):
    """Pixels at the sides of a picture, such as ``left=64,bottom=32``."""

    name = "SIDE=PIXELS,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Pixels by side."""
        pairs = [text.partition("=") for text in str(value).split(",")]
        margins = {side.strip(): pixels.strip() for side, _, pixels in pairs}
        pixels = [text for text in margins.values() if text.isdecimal() and len(text) < _LONG]
        is_right = margins.keys() <= set(SIDES) and len(pixels) == len(margins)
        if not is_right or len(margins) < len(pairs):
            self.fail(
                f"{value!r} is given; pixels for each of {', '.join(SIDES)} are accepted, such as "
                "left=64,right=64.",
                param,
                ctx,
            )
        return {side: int(pixels) for side, pixels in margins.items()}
