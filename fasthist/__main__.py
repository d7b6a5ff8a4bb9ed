"""``python -m fasthist``."""

from __future__ import annotations

from fasthist.cli import main

if __name__ == "__main__":
    main(prog_name="fasthist")
