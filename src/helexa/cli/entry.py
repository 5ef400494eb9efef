"""The console script: where ^C is met even before the command is imported."""

from __future__ import annotations

import sys

INTERRUPTED = 130


def main() -> None:
    """Run the `helexa` command."""
    try:
        from helexa.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
