"""One update of the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deepcore.backends.registry import array_namespace
from deepcore.core.net import Composition
from deepcore.core.parameters import Changes, find_parameters
from deepcore.core.record import CURRENT
from deepcore.train.callbacks import Run
from deepcore.train.compiled import CompiledStep
from deepcore.train.predict import at_home, predict
from deepcore.train.source import Source
from deepcore.train.tally import Tally


class Step:
    """One update of the weights, from one batch or from several that count as one."""

    def __init__(
        self,
        run: Run,
        source: Source,
        schedule: Callable[[int], float] | None,
        clip_norm: float | None,
        compiled: bool,
    ):
        self.run = run
        self.source = source
        self.schedule = schedule
        self.clip_norm = None if clip_norm is None else float(clip_norm)
        self.compiled = CompiledStep(run.net, run.optimizer, self._scale, checked=True) if compiled else None
        self.sample: tuple[int, ...] = ()  # the shape of the output for one sample

    def __call__(self, group: list[tuple[Any, Any]], tally: Tally) -> None:
        run = self.run
        changes, loss = (
            self._call_by_call(group, tally) if self.compiled is None else self._at_once(group, tally)
        )
        changes.set(vars(run), {"step": run.step + 1, "loss": loss})
        changes.commit()
        CURRENT.thread.staged.clear()

    def _call_by_call(self, group: list[tuple[Any, Any]], tally: Tally) -> tuple[Changes, Any]:
        run, net = self.run, self.run.net
        loss = None
        n = sum(Xb.shape[0] for Xb, _ in group)
        for index, (Xb, yb) in enumerate(group):
            out = net(at_home(net, Xb))
            targets = self.source.targets(net.loss_fn, yb, tuple(out.shape), out)
            loss = loss_of_checked(net, out, targets)
            tally.add(out, targets, loss)
            if len(group) == 1:
                net.backward()
            else:  # in a mean each batch counts by its samples, so that the last may be smaller
                share = Xb.shape[0] / n if _averages(net.loss_fn) else 1
                net.backward(net.loss_gradient() * share, accumulate=index > 0)
        self._set_rate()
        changes = run.optimizer.changes(net, self._scale(net))
        for f, buffers in CURRENT.thread.staged.items():
            changes.set(f.buffer, buffers)
        return changes, loss

    def _at_once(self, group: list[tuple[Any, Any]], tally: Tally) -> tuple[Changes, Any]:
        net = self.run.net
        ((Xb, yb),) = group
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
        if self.clip_norm is None:
            return None
        squares = [
            array_namespace(dW).sum(dW * dW)
            for p in find_parameters(net).values()
            if p.trainable and (dW := p.gradient()) is not None
        ]
        if not squares:
            return None
        xp = array_namespace(squares[0])
        norm = xp.sqrt(sum(squares[1:], start=squares[0]))
        return xp.minimum(self.clip_norm / (norm + 1e-6), xp.ones_like(norm))


def loss_of_checked(net: Composition, out: Any, targets: Any) -> Any:
    """net.loss(out, targets), without a second look at every label, which would wait for a GPU."""
    before = CURRENT.thread
    CURRENT.thread = before.but(labels_checked=True)
    try:
        return net.loss(out, targets)
    finally:
        CURRENT.thread = before


def _averages(loss_fn: Any) -> bool:
    """Whether the loss of a batch is a mean over it."""
    return getattr(loss_fn, "reduction", "mean") == "mean"
