"""The script ``ldm-engine``: signals are handled before anything is imported that takes time."""

from __future__ import annotations

import sys

from .interrupts import INTERRUPTS


def main() -> None:
    """Entry point of the script.

    As the first process of a container a program gets no signal that it has no handler for; and
    Ctrl-C while libraries are imported would print a traceback.
    """
    INTERRUPTS.install()
    try:
        from .main import main as run
    except BaseException:  # an import may turn the interrupt into an error of its own
        if not INTERRUPTS.received:
            raise
        print("Interrupted.", file=sys.stderr)
        sys.exit(INTERRUPTS.exit_code())
    run()
