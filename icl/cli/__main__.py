"""The program ``icl``. Its imports stand inside ``main``, so that Ctrl-C at any time ends in one line."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line with the program's arguments, and exit with its code."""
    try:
        from icl.cli.app import app

        app()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
