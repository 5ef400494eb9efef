"""`python -m helexa` is the `helexa` command."""

from __future__ import annotations

from helexa.cli.entry import main

if __name__ == "__main__":
    main()
