"""TensorBoard event files: encoded by hand, written record by record, read back.

Reading order: `wire` (protobuf's primitives), `record` (how a file frames its records), `messages`
(which field holds what), `writer` (files, directories, errors, processes).
"""

from __future__ import annotations
