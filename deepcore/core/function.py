"""Function: a differentiable map."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from deepcore.backends.quiet import quietly
from deepcore.backends.registry import array_namespace, backend_of, is_array
from deepcore.backends.select import default_dtype, dtype_name, holds_floats, is_floating, is_tracked
from deepcore.core.record import CURRENT, LastCall, Record, Staged
from deepcore.core.shown import Shown
from deepcore.core.tree import Node
from deepcore.errors import DTypeError, MixedBackendError, ShapeError, StateError, UnsupportedError
from deepcore.ops import activation


class Function(Node, Shown):
    """A differentiable map Y = f(X), or Y = f(A, B, ...).

    Write `forward`, and either `local_grad` (if f acts on each element alone) or `backward`:

        class Square(Function):
            def forward(self, X):     return X * X
            def local_grad(self, X):  return {"X": 2 * X}

    `f(X)` runs forward and keeps what backward needs; `f.backward(dY)` returns the global gradient
    dX = dL/dX, given dY = dL/dY; `f.local_grad(X)` returns the factor that the chain rule multiplies by.

    >>> import numpy as np
    >>> class Square(Function):
    ...     def forward(self, X):
    ...         return X * X
    ...
    ...     def local_grad(self, X):
    ...         return {"X": 2 * X}
    >>> f = Square()
    >>> f(np.array([1.0, 2.0]))
    array([1., 4.])
    >>> f.backward(np.array([1.0, 10.0]))
    array([ 2., 40.])
    """

    wants_floats: bool = False  # whether inputs of integers are refused, not just passed on
    looks_up: bool = False  # whether its input are indices, as Embedding's, rather than quantities
    traceable: bool = False  # whether a step with it may be compiled: array operations alone, no state

    _last: LastCall
    _training: bool = True
    weight: Any = None  # a Layer's: dict name -> array
    buffer: dict[str, Any]  # arrays kept with the weights, but not trained

    def __new__(cls, *_: Any, **__: Any) -> Any:
        """Make the state of a Function here, so that a subclass need not call super().__init__()."""
        self = super().__new__(cls)
        self._last = LastCall()
        self.buffer = {}
        return self

    def __init__(self) -> None: ...

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "traceable" not in vars(cls) and not vars(cls).keys().isdisjoint(_MATHEMATICS):
            cls.traceable = False  # what holds of the base class need not hold of the new formulas
        # also those that come from a base class that is no Function
        if not hasattr(cls.forward, "_finds_record"):
            cls.forward = _unrecorded_when_direct(cls.forward)
        if not hasattr(cls.backward, "_finds_record"):
            cls.backward = _with_record(cls.backward)

    # ---- what a subclass writes

    def forward(self, *inputs: Any) -> Any:
        """Y, given the inputs. May leave what backward needs in `self.cache`."""
        raise UnsupportedError(f"{self._who()} has no forward; write one")

    def local_grad(self, *inputs: Any) -> dict[str, Any]:
        """The local gradients at the inputs, such as {"X": 2 * X}: one entry an input, in their order."""
        if type(self).backward is Function.backward:
            raise UnsupportedError(f"{self._who()} has no gradient; write local_grad(X), or backward(dY)")
        raise UnsupportedError(
            f"{self._who()} has no local gradient of the input's order of size; "
            "its backward computes dX directly"
        )

    def backward(self, *dY: Any) -> Any:
        """The global gradient of each input. The default is the chain rule for an elementwise function.

        dX = dY * local_grad(X)["X"]
        """
        factors = list(self.grad.values())[: len(self._record.inputs)]
        gradients = tuple(activation.chain(dY[0], factor) for factor in factors)
        return gradients[0] if len(gradients) == 1 else gradients

    # ---- calls

    def __call__(self, *inputs: Any) -> Any:
        """Y = forward(inputs), and a record of it for backward.

        An outermost call casts floating inputs to the dtype of the weights. It drops the record that
        this thread's previous outermost call left, and commits staged buffers once it has succeeded.
        Raises MixedBackendError, DTypeError, and what forward raises; then nothing has changed.
        """
        thread = CURRENT.thread
        outer = thread.running
        if outer is None:
            return self._call_outermost(thread, inputs)
        record = Record(inputs)
        if self._has_weights or self.wants_floats:
            self._check_inputs(record)
        if thread.records and not thread.inference:
            outer.calls.append((self, record))
            self._last.record = record
        who = thread.who
        thread.running, thread.who = record, self
        try:
            Y = self.forward(*record.inputs)
        except TypeError as error:
            self._explain(error, inputs)
            raise
        finally:
            thread.running, thread.who = outer, who
        record.shape = getattr(Y, "shape", None)
        return Y

    @quietly
    def _call_outermost(self, thread: Any, inputs: tuple[Any, ...]) -> Any:
        record = Record(self._admit(inputs))
        if self._has_weights or self.wants_floats:
            self._check_inputs(record)
        if thread.records and not thread.inference:
            self._last.record = record
        before = thread.who
        thread.running, thread.who = record, self
        try:
            Y = record.output = self.forward(*record.inputs)
            if is_tracked(Y):
                raise tracked(self, "an input or a weight")
        except BaseException as error:
            self._fail(thread)
            self._explain(error, record.inputs)
            raise
        finally:
            thread.running, thread.who = None, before
        if thread.staged and thread.commits:
            thread.staged.commit()
        return Y

    def _explain(self, error: BaseException, inputs: tuple[Any, ...]) -> None:
        """Raise DTypeError instead of an error of Python's, if forward takes another number of inputs."""
        if type(error) is not TypeError:
            return
        wanted = inspect.signature(self.forward)
        try:
            wanted.bind(*inputs)
        except TypeError:
            names = ", ".join(str(p.replace(annotation=p.empty)) for p in wanted.parameters.values())
            more = "; several outputs of one function are as many inputs of the next"
            raise DTypeError(
                f"{self._who()}: takes the inputs ({names}), got {len(inputs)}"
                f"{more if len(inputs) > 1 else ''}"
            ) from None

    def _fail(self, thread: Any) -> None:
        """An outermost call has failed: forget what it staged and recorded."""
        if thread.records and not thread.inference:
            self._last.record = None
        if thread.commits:
            thread.staged.clear()

    def _admit(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """The inputs of an outermost call, floating ones in the dtype of the weights."""
        W = first_weight(self)
        if W is None:
            for i, x in enumerate(inputs):
                if not is_array(x) and not (x is None and i):  # a later input may be None
                    raise wants_floats(self, x)
            if len(inputs) > 1:
                array_namespace(*(x for x in inputs if x is not None))
            return inputs
        X: Any = inputs[0] if inputs else None
        if len(inputs) == 1 and type(X) is type(W) and X.dtype is W.dtype:  # nearly always
            return inputs
        return tuple(x if x is None and i else self._cast(x, W) for i, x in enumerate(inputs))

    def _cast(self, X: Any, W: Any) -> Any:
        if not is_array(X):
            raise wants_floats(self, X)
        if not holds_floats(W):
            return X  # the layer that has such a weight refuses it, by name
        here, there = backend_of(W), backend_of(X)
        if here is not there:
            raise MixedBackendError(
                f"{self._who()}: its weights are {here.name!r} arrays, the input is a {there.name!r} array; "
                f"move the input with deepcore.to_backend(X, {here.name!r}), "
                f"or the net with net.to({there.name!r})"
            )
        if X.dtype == W.dtype or not is_floating(X):
            return X
        return array_namespace(X).astype(X, W.dtype)

    def _check_inputs(self, record: Record) -> None:
        """Raise DTypeError if this Function wants floating inputs and they are not."""
        for i, X in enumerate(record.inputs):
            if not holds_floats(X) and not (X is None and i):  # a later input may be None
                raise wants_floats(self, X)

    def _fit_gradient(
        self, record: Record, dY: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of an outermost backward, in the dtype of the output that they belong to.

        Raises, before anything has changed, if they are no arrays of the output's shape and library.
        """
        Ys = record.output if isinstance(record.output, tuple) else (record.output,)
        if len(dY) + len(named) != len(Ys):
            raise ShapeError(
                f"{self._who()}.backward: wanted {len(Ys)} gradients, one for each output, "
                f"got {len(dY) + len(named)}"
            )
        if record.output is None:  # of a call inside another one: what it was given tells the library
            array_namespace(*(x for x in (*record.inputs, *dY, *named.values()) if is_array(x)))
        if len(Ys) == len(named) == 1:
            return dY, {name: self._fit_one_gradient(Ys[0], d) for name, d in named.items()}
        if named:  # in which order they come is for backward to know
            return dY, named
        return tuple(self._fit_one_gradient(Y, d) for Y, d in zip(Ys, dY, strict=True)), named

    def _fit_one_gradient(self, Y: Any, dY: Any) -> Any:
        self._check_gradient(dY, Y.shape if is_array(Y) else None)
        if not is_array(Y):
            return dY
        if is_tracked(dY):
            raise tracked(self, "dY")
        xp = array_namespace(Y, dY)
        return xp.astype(dY, Y.dtype) if is_floating(Y) and dY.dtype != Y.dtype else dY

    def _check_gradient(self, dY: Any, shape: Any, remedy: str = "") -> None:
        """Raise unless dY is an array of that shape, or of any if it is None.

        Kernels go by the shape of one of their arrays, and would read beyond the end of another.
        """
        if not is_array(dY):
            raise DTypeError(
                f"{self._who()}.backward: the gradient must be an array, got {type(dY).__name__}; "
                "convert it with deepcore.asarray(dY)"
            )
        if shape is not None and tuple(dY.shape) != tuple(shape):
            raise ShapeError(
                f"{self._who()}.backward: dY must have the shape of the output, {tuple(shape)}, "
                f"got {tuple(dY.shape)}{remedy}"
            )

    def _check_inner_gradient(self, shape: Any, dY: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Raise if one gradient is given, and not of the shape of the output of a call inside another."""
        if len(dY) + len(named) == 1:
            (given,) = dY or named.values()
            self._check_gradient(given, shape, "; each backward must return a gradient of its input's shape")

    # ---- records

    @property
    def _record(self) -> Record:
        """The record of the call of this Function that is running, else of its last one in this thread."""
        thread = CURRENT.thread
        record = thread.running if thread.who is self else self._last.record
        if record is None:
            raise StateError(
                f"{self._who()} has no recorded call in this thread; call f(X) first "
                "(f.forward(X), predict, inference() and compiled steps record nothing)"
            )
        return record

    @property
    def cache(self) -> dict[str, Any]:
        """What the last call's forward kept for backward, by name."""
        thread = CURRENT.thread
        record = thread.running if thread.who is self else self._record
        return record.cache  # type: ignore[union-attr]  # whoever runs has a record

    @cache.setter
    def cache(self, value: dict[str, Any]) -> None:
        if CURRENT.thread.who is self:
            self._record.cache = value

    @property
    def grad(self) -> dict[str, Any]:
        """The local gradients of the last call, computed when first read.

        Raises StateError if the weights have changed since that call: the two would not match.
        """
        record = self._record
        if self._has_weights and not _same_arrays(record.weights, self._weights.values()):
            raise StateError(
                f"{self._who()}: the weights were updated after the last call, "
                "so its local gradients are gone; read grad before the update, or call f(X) again"
            )
        if record.grad is None:
            record.grad = self.local_grad(*record.inputs)
        return record.grad

    @property
    def _recording(self) -> bool:
        """Whether the call that runs will be differentiated: False inside predict and inference()."""
        thread = CURRENT.thread
        return thread.records and not thread.inference

    def _add(self, backward: Callable[..., Any], dY: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Run backward, and add the gradients of this Function's own weights to those it already has."""
        return backward(self, *dY, **named)

    # ---- modes and buffers

    @property
    def training(self) -> bool:
        """True in training, False in evaluation; inside inference() it reads False in this thread."""
        return self._training and not CURRENT.thread.inference

    @training.setter
    def training(self, value: bool) -> None:
        self._training = bool(value)

    def _stage(self, **buffers: Any) -> None:
        """New values for `self.buffer`, which become current when the outermost call has succeeded."""
        CURRENT.thread.staged.setdefault(self, {}).update(buffers)

    def _staged(self, name: str) -> Any:
        """The newest value of a buffer: staged earlier in this call, else current."""
        return CURRENT.thread.staged.get(self, self.buffer).get(name, self.buffer[name])

    # ---- structure

    @property
    def _weights(self) -> dict[str, Any]:
        """A Layer's weights by name; no other Function has any."""
        return {}

    # ---- copies: weights, buffers and settings, never records

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle carries weights as NumPy arrays, so that a net of a GPU opens where there is none."""
        if all(backend_of(x) == "numpy" for x in self._arrays()):
            return super().__reduce_ex__(max(protocol, 2))  # older ones don't call __new__
        from deepcore.core.move import move  # it knows all about Functions

        clone = copy.deepcopy(self)
        move(clone, "numpy")
        return clone.__reduce_ex__(protocol)

    def _arrays(self) -> Iterator[Any]:
        """Every weight and buffer at or below this Function; a shared one several times."""
        for f in self._tree().nodes:
            yield from f._weights.values()
            yield from f.buffer.values()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in NEVER_COPIED}

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        clone = type(self).__new__(type(self))
        memo[id(self)] = clone
        for name, value in self.__getstate__().items():
            clone.__dict__[name] = copy.deepcopy(value, memo)
        return clone


_MATHEMATICS = frozenset({"forward", "backward", "local_grad", "_update_weights"})
NEVER_COPIED = frozenset({"_last", "_structure", "_grown", "_gradients_gone", "_fitting"})


def _with_record(backward: Callable[..., Any]) -> Callable[..., Any]:
    """backward() finds the record of the call that it undoes, and a pass adds up its gradients."""

    @functools.wraps(backward)
    def wrapped(self: Any, *dY: Any, accumulate: bool = False, **named: Any) -> Any:
        thread = CURRENT.thread
        outer, who = thread.running, thread.who
        if who is self:  # super().backward(dY), inside a backward that has found its record
            return backward(self, *dY, **named)
        if outer is None:
            return _backward_outermost(self, backward, thread, dY, named, accumulate)
        record = outer.take(self)
        if record is None or record.undone:
            raise _nothing_to_undo(self, record, outer)
        shape = record.shape
        if shape is not None and (named or (dY and getattr(dY[0], "shape", None) != shape)):
            self._check_inner_gradient(shape, dY, named)
        thread.running, thread.who = record, self
        try:
            if self._has_weights and self.weight_update:  # a second call of the layer in this pass
                dX = self._add(backward, dY, named)
            else:
                dX = backward(self, *dY, **named)
        finally:
            thread.running, thread.who = outer, who
        record.undone = True
        if thread.drops:
            self._last.record = None
        return dX

    wrapped._finds_record = True  # type: ignore[attr-defined]
    return wrapped


@quietly
def _backward_outermost(
    self: Any, backward: Callable[..., Any], thread: Any, dY: Any, named: dict[str, Any], accumulate: bool
) -> Any:
    who, record = thread.who, self._last.record
    if record is None or record.undone:
        raise _nothing_to_undo(self, record, None)
    dY, named = self._fit_gradient(record, dY, named)
    if not accumulate:
        forget_gradients(self)
    thread.running, thread.who = record, self
    try:
        dX = self._add(backward, dY, named) if accumulate else backward(self, *dY, **named)
    except BaseException:  # half of the gradients are no gradients
        forget_gradients(self)
        raise
    finally:
        thread.running, thread.who = None, who
    record.undone = True
    if thread.drops:
        self._last.record = None
    return dX


@quietly
def _call_unrecorded(self: Any, forward: Callable[..., Any], thread: Any, inputs: tuple[Any, ...]) -> Any:
    if thread.running is None:
        inputs = self._admit(inputs)
    record = Record(inputs)
    if self._has_weights or self.wants_floats:
        self._check_inputs(record)
    CURRENT.thread = thread.but(running=record, who=self, records=False, staged=Staged(), commits=False)
    try:
        return forward(self, *record.inputs)
    finally:
        CURRENT.thread = thread


def _unrecorded_when_direct(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A direct f.forward(X), not made by f(X), leaves no record and changes none."""

    @functools.wraps(forward)
    def wrapped(self: Any, *inputs: Any) -> Any:
        thread = CURRENT.thread
        if thread.who is self:
            return forward(self, *inputs)
        return _call_unrecorded(self, forward, thread, inputs)

    wrapped._finds_record = True  # type: ignore[attr-defined]
    return wrapped


Function.forward = _unrecorded_when_direct(Function.forward)  # type: ignore[method-assign]
Function.backward = _with_record(Function.backward)  # type: ignore[method-assign]


def wants_floats(function: Function, X: Any) -> DTypeError:
    """The error for an input that should be an array of floating-point numbers."""
    if not is_array(X):
        return DTypeError(
            f"{function._who()}: wanted an array, got {type(X).__name__}; convert it with deepcore.asarray(X)"
        )
    return DTypeError(
        f"{function._who()}: wanted floating-point numbers, got {dtype_name(X)}; "
        'convert them first, images for example with X.astype("float32") / 255'
    )


def tracked(function: Function, what: str) -> DTypeError:
    """The error for an array that its own library keeps a record of, to differentiate it."""
    return DTypeError(
        f"{function._who()}: {what} requires grad; deepcore computes gradients itself, "
        "and a record beside its own would only grow: pass x.detach()"
    )


def _nothing_to_undo(function: Function, record: Record | None, outer: Record | None) -> StateError:
    if record is not None:
        return StateError(
            f"{function._who()}.backward: this pass is already undone; "
            "one call f(X) allows one backward, so call it again"
        )
    if outer is not None:
        return StateError(
            f"{function._who()}.backward: no call of it in this pass is left to undo; "
            "forward must call f(X), not f.forward(X), once for each backward"
        )
    return StateError(
        f"{function._who()}.backward: no forward pass in this thread to undo; call f(X) first "
        "(a call that failed, f.forward(X), predict and inference() record nothing)"
    )


def forget_gradients(root: Function) -> None:
    """Drop the weight gradients of every Layer at or below `root`."""
    for layer in root._tree().layers:
        layer.__dict__["weight_update"] = {}  # a new dict: the caller may have kept the old one


def first_weight(root: Function) -> Any:
    """The first weight at or below `root`, or None: it tells where a net lives, and its dtype."""
    for layer in root._tree().layers:
        for W in layer.weight.values():
            return W
    return None


def input_dtype(root: Function) -> str:
    """The dtype of what a net takes: its weights', but int64 if its first Function looks up indices."""
    f = root
    while children := [child for path, child in f._children() if path != "loss_fn"]:
        f = children[0]
    if f.looks_up:
        return "int64"
    W = first_weight(root)
    return default_dtype() if W is None else dtype_name(W)


def _same_arrays(a: tuple[Any, ...], b: Any) -> bool:
    b = tuple(b)
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))
