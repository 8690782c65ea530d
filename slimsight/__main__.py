"""The command line: ``slimsight`` and ``python -m slimsight`` start here."""

from __future__ import annotations

from .deploy.cli.main import main

if __name__ == "__main__":
    main()
