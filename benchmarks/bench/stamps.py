"""The record that a stamp task writes: when it was sent and when it started, in seconds since the epoch."""

import struct

STAMP = struct.Struct("<dd")
