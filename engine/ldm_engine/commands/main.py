"""The command ``ldm-engine``: its subcommands, each loaded from its own file when it is used."""

from __future__ import annotations

from importlib import import_module

import click

from ..bundle.exporter import EXPORTER
from ..version import __version__
from . import console

#: Where each subcommand is defined, in the order in which ``--help`` lists them.
COMMANDS = {
    "export": f"{EXPORTER}.command",
    "fit": "ldm_engine.commands.fit",
    "info": "ldm_engine.commands.info",
    "verify": "ldm_engine.commands.verify",
    "generate": "ldm_engine.commands.generate",
    "render": "ldm_engine.commands.render",
    "bench": "ldm_engine.commands.bench",
    "cache": "ldm_engine.commands.cache",
}


class _Subcommands(click.Group):
    """Imports a subcommand's module when the subcommand is used or listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(COMMANDS[cmd_name]), cmd_name)
        return command


@click.group(
    cls=_Subcommands,
    context_settings={
        "help_option_names": ["-h", "--help"],
        # --num_inference_steps works as well as --num-inference-steps
        "token_normalize_func": lambda token: token.replace("_", "-"),
        "max_content_width": 100,
    },
)
@click.version_option(__version__, prog_name="ldm-engine")
@console.debug_option
def cli() -> None:
    """Verified static-graph inference for ldm-text2im-large-256 and its family."""


def main() -> None:
    """Run the command with the process's arguments, and exit."""
    console.run(cli)
