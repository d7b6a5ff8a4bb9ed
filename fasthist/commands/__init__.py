"""The commands that read runs: ``fasthist show``, ``compare``, ``doctor``, ``plot`` and ``merge``, a module for each.

To read it: `terminal` and `options` are what they share of a terminal and of the command line, `runs` how they open
what they are told; `lines` and `export` belong to ``show``, `differences` and `comparing` to ``compare``.
"""

from __future__ import annotations
