"""The commands that read runs, a module for each: ``fasthist show``, ``compare``, ``doctor``, ``plot`` and ``merge``.

They share `terminal` (output), `options` (the command line) and `runs` (opening runs); `lines` and `export` belong to
``show``, `differences` and `comparing` to ``compare``.
"""

from __future__ import annotations
