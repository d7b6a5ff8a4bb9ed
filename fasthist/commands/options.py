"""Options and help texts that several commands have."""

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
    "--skip-corrupt", is_flag=True, help="Pass over damaged records instead of stopping."
)


def readable(value: str) -> str:
    """Take a run as a command reads it: a path, or a URL as it stands, of which `Path` would make s3:/bucket."""
    from fasthist.events.remote import is_url

    return value if is_url(value) else str(Path(value))


def local(value: str) -> Path:
    """Take a path of this machine."""
    from fasthist.events.remote import is_url

    if is_url(value):
        msg = (
            f"{value} is a URL. Accepted: a path. Hint: copy what it names, or name another place."
        )
        raise click.BadParameter(msg)
    return Path(value)
