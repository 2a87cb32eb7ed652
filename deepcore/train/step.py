"""One update of the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deepcore.backends.registry import backend_of, is_array
from deepcore.core.function import first_weight
from deepcore.core.net import Composition
from deepcore.core.parameters import Changes
from deepcore.core.record import CURRENT
from deepcore.data.batches import beside
from deepcore.errors import DTypeError
from deepcore.train.callbacks import Run
from deepcore.train.compiled import CompiledStep
from deepcore.train.mixed import clip_factor, finite, judged, passes
from deepcore.train.predict import at_home, predict
from deepcore.train.source import Source
from deepcore.train.tally import Tally
from deepcore.train.weighted import Weights

Batch = tuple[Any, Any, Any]  # X, y, and the weights of the samples or None

_PATIENCE = 40  # steps: on NumPy to make a program costs as much as these save


class Step:
    """One update of the weights, from one batch or from several that count as one."""

    def __init__(
        self,
        run: Run,
        source: Source,
        schedule: Callable[[int], float] | None,
        clip_norm: float | None,
        compiled: bool | str,
        weights: Weights | None,
        own: Callable[[Any, Any, Any], Any] | None,
        precision: str,
    ):
        self.run = run
        self.source = source
        self.schedule = schedule
        self.clip_norm = None if clip_norm is None else float(clip_norm)
        self.precision = precision
        self.compiled = None
        if compiled:
            lazily = compiled == "auto" and backend_of(first_weight(run.net)).on_host
            self.compiled = CompiledStep(
                run.net,
                run.optimizer,
                self._scale,
                checked=True,
                output=True,
                patience=_PATIENCE if lazily else 0,
                strict=compiled != "auto",
                precision=precision,
                loss_scale=run.loss_scale,
            )
        self.sample: tuple[int, ...] = ()  # the shape of the output for one sample
        self.weights = weights
        self.own = own

    def __call__(self, group: list[Batch], tally: Tally) -> None:
        run = self.run
        if self.own is not None:
            changes, loss = self._by_the_user(self.own, group, tally)
        elif self.compiled is not None:
            changes, loss = self._at_once(group, tally)
        else:
            changes, loss = self._call_by_call(group, tally)
        changes.set(vars(run), {"step": run.step + 1, "loss": loss})
        changes.commit()
        CURRENT.thread.staged.clear()

    def _call_by_call(self, group: list[Batch], tally: Tally) -> tuple[Changes, Any]:
        run, net = self.run, self.run.net
        loss, scale = None, run.loss_scale
        passed = passes(net, self.precision, None if scale is None else scale.value)
        n = sum(Xb.shape[0] for Xb, _, _ in group)
        for index, (Xb, yb, wb) in enumerate(group):
            out = passed(at_home(net, Xb))
            targets = self.source.targets(net.loss_fn, yb, tuple(out.shape), out)
            # in a mean each batch counts by its samples, so that the last may be smaller
            share = Xb.shape[0] / n if _averages(net.loss_fn) else 1
            if self.weights is None:
                loss = loss_of_checked(passed.loss, out, targets)
                dY = None if len(group) == 1 else passed.loss_gradient() * share
            else:
                w = self.weights.factors(out, targets, wb)
                loss = loss_of_checked(self.weights.loss, out, targets, w)
                dY = self.weights.loss.backward() * share
            tally.add(out, targets, loss)
            passed.backward(dY, accumulate=index > 0)
        self._set_rate()
        changes = run.optimizer.changes(net, self._scale(net))
        for f, buffers in CURRENT.thread.staged.items():
            changes.set(f.buffer, buffers)
        return changes if scale is None else judged(changes, finite(net), scale), loss

    def _by_the_user(self, own: Callable[..., Any], group: list[Batch], tally: Tally) -> tuple[Changes, Any]:
        """The user's own step has changed the weights when it returns."""
        net = self.run.net
        ((Xb, yb, _),) = group
        Xb = at_home(net, Xb)
        self._set_rate()
        loss = own(net, Xb, beside(Xb, yb))
        if not is_array(loss) or loss.ndim:
            raise DTypeError(f"fit: step(net, X, y) must return the loss, a 0-d array, got {loss!r}")
        tally.add_loss(loss, Xb.shape[0])
        changes = Changes()
        for f, buffers in CURRENT.thread.staged.items():
            changes.set(f.buffer, buffers)
        return changes, loss

    def _at_once(self, group: list[Batch], tally: Tally) -> tuple[Changes, Any]:
        net = self.run.net
        ((Xb, yb, _),) = group
        Xb = at_home(net, Xb)
        if not self.sample:
            self.sample = tuple(predict(net, Xb[:1, ...]).shape[1:])
        targets = self.source.targets(net.loss_fn, yb, (Xb.shape[0], *self.sample), Xb)
        self._set_rate()
        changes, out, loss = self.compiled.changes(Xb, targets)  # type: ignore[union-attr]
        tally.add(out, targets, loss)
        return changes, loss

    def _set_rate(self) -> None:
        if self.schedule is not None:
            self.run.optimizer.lr = self.schedule(self.run.step)

    def _scale(self, net: Composition) -> Any:
        """The factor that makes all gradients together, as one vector, at most clip_norm long."""
        return None if self.clip_norm is None else clip_factor(net, self.clip_norm)


def loss_of_checked(loss: Callable[..., Any], *arguments: Any) -> Any:
    """loss(*arguments), without a second look at every label, which would wait for a GPU."""
    before = CURRENT.thread
    CURRENT.thread = before.but(labels_checked=True)
    try:
        return loss(*arguments)
    finally:
        CURRENT.thread = before


def _averages(loss_fn: Any) -> bool:
    """Whether the loss of a batch is a mean over it."""
    return getattr(loss_fn, "reduction", "mean") == "mean"
