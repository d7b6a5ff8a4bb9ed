"""Numbers of the fields and types in an event file's messages: defined here, and nowhere else.

Source: tensorboard/compat/proto/{event,summary,histogram,tensor,tensor_shape,types}.proto.
"""

from __future__ import annotations

EVENT_WALL_TIME = 1
EVENT_STEP = 2
EVENT_FILE_VERSION = 3
EVENT_SUMMARY = 5
EVENT_SESSION_LOG = 7
EVENT_SOURCE_METADATA = 10

SOURCE_WRITER = 1

SESSION_STATUS = 1
SESSION_START = 1

SUMMARY_VALUE = 1

VALUE_TAG = 1
VALUE_SIMPLE = 2
VALUE_HISTO = 5
VALUE_TENSOR = 8
VALUE_METADATA = 9

HISTO_MIN = 1
HISTO_MOMENTS = range(HISTO_MIN, 6)  # min, max, num, sum, sum_squares
HISTO_LIMITS = 6
HISTO_COUNTS = 7

# Fields of fasthist's own, which other readers skip: no message of TensorFlow's has a number near theirs.
HISTO_ZERO_COUNT = 1001
HISTO_SQUARED_DEVIATIONS = 1002
TENSOR_MOMENTS = 1001

METADATA_PLUGIN_DATA = 1
METADATA_DISPLAY_NAME = 2
METADATA_DESCRIPTION = 3
METADATA_DATA_CLASS = 4
DATA_CLASS_SCALAR = 1
DATA_CLASS_TENSOR = 2
PLUGIN_NAME = 1

TENSOR_DTYPE = 1
TENSOR_SHAPE = 2
TENSOR_CONTENT = 4
TENSOR_FLOATS = 5
TENSOR_DOUBLES = 6
DT_FLOAT = 1
DT_DOUBLE = 2
DT_INT32 = 3
DT_UINT8 = 4
DT_INT16 = 5
DT_INT8 = 6
DT_INT64 = 9
DT_BFLOAT16 = 14
DT_UINT16 = 17
DT_HALF = 19
DT_UINT32 = 22
DT_UINT64 = 23

SHAPE_DIM = 2
DIM_SIZE = 1
