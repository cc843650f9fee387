"""`circuits`, or `python -m circuits`."""

from __future__ import annotations

import sys

from circuits.command import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
