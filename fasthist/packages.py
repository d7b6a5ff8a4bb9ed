"""Import packages that only some calls need, or raise an error with the line that installs them."""

from __future__ import annotations

import importlib
from typing import Any

from fasthist.errors import MissingPackageError


def require(module: str, package: str = "") -> Any:
    """Import a module, or raise MissingPackageError that names its pip package (default: the module's first part)."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = package or module.partition(".")[0]
        msg = f"this needs {module}, which cannot be imported ({error}). Run: pip install {package}"
        raise MissingPackageError(msg) from error
