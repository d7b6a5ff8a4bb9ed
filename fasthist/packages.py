"""Packages that only some calls need: imported when one is made, or named with the line that installs them."""

from __future__ import annotations

import importlib
from typing import Any

from fasthist.errors import MissingPackageError


def require(module: str, package: str = "") -> Any:
    """Import a module, or say what installs it.

    Parameters
    ----------
    module : str
        Its dotted name.
    package : str
        What pip calls it. Default: the first part of `module`.

    Raises
    ------
    MissingPackageError
        It cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = package or module.partition(".")[0]
        msg = f"this needs {module}, which cannot be imported ({error}). Run: pip install {package}"
        raise MissingPackageError(msg) from error
