"""Every error and warning that deepcore raises on purpose.

A message says who, what was wanted, what came, and what to do about it.
"""


class DeepcoreError(Exception):
    """Base of all of deepcore's errors."""

    def inside(self, place: str) -> "DeepcoreError":
        """Say where in the net it happened: containers call this as the error passes them."""
        self.args = (f"{place}, {self.args[0]}", *self.args[1:])
        return self


class ShapeError(DeepcoreError, ValueError):
    """An array has the wrong shape."""


class DTypeError(DeepcoreError, TypeError):
    """An array holds the wrong kind of numbers, or an argument is of the wrong kind."""


class ArgumentError(DeepcoreError, ValueError):
    """An argument that is no array is out of its range."""


class LabelError(DeepcoreError, ValueError):
    """A class label, or an index into a table, is out of range or is no integer."""


class StateError(DeepcoreError, RuntimeError):
    """Calls came in an order that has no meaning, such as backward before forward."""


class BackendUnavailable(DeepcoreError, RuntimeError):
    """An array library cannot be used here; the message gives the reason and the remedy."""


class MixedBackendError(DeepcoreError, TypeError):
    """Arrays of two libraries met in one operation."""


class CheckpointError(DeepcoreError, ValueError):
    """A file of weights is damaged or does not fit the net."""


class UnsupportedError(DeepcoreError, NotImplementedError):
    """Something that cannot be done for a mathematical or a technical reason, which is named."""


class GradientError(DeepcoreError, AssertionError):
    """A gradient disagrees with finite differences; the message names the worst entry."""


class DataError(DeepcoreError, ValueError):
    """A data set cannot be used as it is."""


class MissingDataError(DataError, FileNotFoundError):
    """A file or folder of data is not there."""


class BackendFallbackWarning(RuntimeWarning):
    """The backend that DEEPCORE_BACKEND names is not usable; NumPy is used instead."""


class NumericWarning(RuntimeWarning):
    """A computation went on, but its result deserves a look."""
