"""Options and help texts that several commands have."""

from __future__ import annotations

import click


def example(*lines: str) -> str:
    """Format commands for the end of a help page."""
    # click joins the lines of a paragraph unless it begins with a backspace.
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


tag_option = click.option(
    "--tag", "pattern", metavar="REGEX", help="Only tags in which this is found. Default: all."
)

skip_corrupt_option = click.option(
    "--skip-corrupt", is_flag=True, help="Pass over damaged records instead of stopping."
)
