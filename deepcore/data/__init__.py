"""Data sets for the command line, the examples and the tests.

deepcore.data.ring makes the ring, deepcore.data.sets reads sets by name or path, and
deepcore.data.prepare splits and scales what it read.
"""
