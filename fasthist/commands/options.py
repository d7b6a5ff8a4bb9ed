"""Options and help texts that commands share."""

from __future__ import annotations

from pathlib import Path

import click


def example(*lines: str) -> str:
    """Format commands for the end of a help page."""
    # click joins the lines of a paragraph unless it begins with a backspace.
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


tag_option = click.option(
    "--tag", "pattern", metavar="REGEX", help="Only tags in which this is found. Default: all."
)

skip_corrupt_option = click.option(
    "--skip-corrupt", is_flag=True, help="Skip damaged records instead of stopping."
)


def readable(value: str) -> str:
    """Parse the path of a run; keep a URL as it is, since `Path` would turn s3://bucket into s3:/bucket."""
    from fasthist.events.remote import is_url

    return value if is_url(value) else str(Path(value))


def local(value: str) -> Path:
    """Parse a local path."""
    from fasthist.events.remote import is_url

    if is_url(value):
        msg = f"{value} is a URL. Accepted: a local path. Hint: copy the file first, or choose another place."
        raise click.BadParameter(msg)
    return Path(value)
