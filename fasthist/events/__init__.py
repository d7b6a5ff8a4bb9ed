"""TensorBoard event files: encoded by hand, written record by record, read back.

Reading order: `wire` (protobuf's primitives), `record` (how a file frames its records), `fields` (the numbers of
fields), `messages` (which field holds what), `writer` (files, directories, errors, processes). And back: `parsing`
(messages), `restoring` (histograms), `recordfile` (a file), `reader` (files and runs).
"""

from __future__ import annotations
