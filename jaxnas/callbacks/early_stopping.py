"""When to stop a search: criteria that the field uses against the collapse of DARTS, and others.

=====================  ==================================================  ====================
criterion              stops when                                          source
=====================  ==================================================  ====================
`HessianEigenvalue`    the dominant eigenvalue of the alpha-Hessian grows  arXiv 1909.09656
`SkipConnections`      too many skip connections would be chosen           arXiv 1909.06035
`StableRanking`        the ranking of the candidates no longer changes     arXiv 1909.06035
`AlphaEntropy`         the choices are nearly decided
`NoImprovement`        a metric no longer improves
=====================  ==================================================  ====================

Each keeps what it needs in the history, so that a resumed search decides as an uninterrupted one does.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from jaxnas.callbacks.hessian import alpha_hessian
from jaxnas.checks import check_at_least
from jaxnas.errors import ArchitectureError
from jaxnas.model.entropy import arch_entropy
from jaxnas.model.space import Space
from jaxnas.runs.callback import Callback, Run, Stop

SKIPS = ("skip_connect", "skip", "identity")


class _Criterion(Callback):
    """A callback that looks at the history."""

    def on_begin(self, run: Run) -> None:
        self.run = run

    def _past(self, name: str, metrics: Mapping[str, Any]) -> list[Any]:
        """A metric of every epoch that has it, this one included, in order."""
        return [record[name] for record in [*self.run.history, metrics] if record.get(name) is not None]


class HessianEigenvalue(_Criterion):
    """R-DARTS' criterion: stops when the dominant eigenvalue of the alpha-Hessian has grown too fast.

    After each epoch the largest eigenvalue of the second derivative of the validation loss by the alphas is computed,
    exactly, on one batch of the architecture's examples (as the architecture step sees it, in training mode), and
    recorded as `hessian_eigenvalue`. With λ(i) as its mean over the last `window` epochs, the search stops at epoch i
    if λ(i - window) / λ(i) < `ratio`, and the architecture of epoch i - window is the result. Zela et al.,
    "Understanding and Robustifying Differentiable Architecture Search", section 4.1 (arXiv 1909.09656).

    Args:
      window: epochs over which the eigenvalue is averaged, and how far back the search goes.
      ratio: the smallest ratio that is still right.
      batch_size: examples in the batch. Default: the search's.
    """

    def __init__(self, *, window: int = 5, ratio: float = 0.75, batch_size: int | None = None):
        check_at_least(1, window=window)
        self.window, self.ratio, self.batch_size = window, ratio, batch_size

    def on_begin(self, run: Run) -> None:
        super().on_begin(run)
        self._eigenvalue: Callable[[Any, int], float] = alpha_hessian(run, batch_size=self.batch_size)

    def on_epoch_end(self, state: Any, metrics: dict[str, Any]) -> Stop | None:
        metrics["hessian_eigenvalue"] = self._eigenvalue(state, metrics["epoch"])
        values = self._past("hessian_eigenvalue", metrics)
        if len(values) < 2 * self.window:
            return None
        before, now = np.mean(values[-2 * self.window : -self.window]), np.mean(values[-self.window :])
        if not now > 0 or before / now >= self.ratio:
            return None
        back = metrics["epoch"] - self.window
        return Stop(
            f"the dominant eigenvalue of the alpha-Hessian grew from {before:.3g} to {now:.3g}; the architecture is "
            f"that of epoch {back + 1}",
            back,
        )


class SkipConnections(_Criterion):
    """Stops when at least `most` skip connections would be chosen: DARTS+, criterion 1 (arXiv 1909.06035).

    In the paper it is two in a normal cell.

    Args:
      most: how many are too many.
      names: the candidates that count as one.
      prefix: only choices whose key begins with this count, such as `"normal"`.
    """

    def __init__(self, most: int = 2, *, names: Collection[str] = SKIPS, prefix: str = ""):
        check_at_least(1, most=most)
        self.most, self.names, self.prefix = most, frozenset(names), prefix

    def on_begin(self, run: Run) -> None:
        super().on_begin(run)
        space = _searched(run, "SkipConnections")
        there = {k for k, spec in space.items() if k.startswith(self.prefix) and self.names & set(spec.labels)}
        if not there:
            raise ArchitectureError(
                f"SkipConnections: no choice {f'that begins with {self.prefix!r} ' if self.prefix else ''}has a "
                f"candidate named {' or '.join(sorted(self.names))}; name yours with names=."
            )
        self._choices = there

    def on_epoch_end(self, state: Any, metrics: dict[str, Any]) -> Stop | None:
        count = sum(self._skips(metrics["arch"][key]) for key in self._choices)
        if count < self.most:
            return None
        return Stop(f"{count} skip connections would be chosen, {self.most} are too many")

    def _skips(self, decision: Any) -> int:
        chosen = decision if isinstance(decision, (list, tuple)) else (decision,)
        return sum(name in self.names for name in chosen)


class StableRanking(_Criterion):
    """Stops when no choice has changed the ranking of its candidates for some epochs.

    DARTS+, criterion 2 (arXiv 1909.06035), where it is ten epochs.

    Args:
      epochs: how many.
    """

    def __init__(self, epochs: int = 10):
        check_at_least(1, epochs=epochs)
        self.epochs = epochs

    def on_epoch_end(self, state: Any, metrics: dict[str, Any]) -> Stop | None:
        past = self._past("probabilities", metrics)[-self.epochs - 1 :]
        rankings = [{key: np.argsort(shares).tolist() for key, shares in one.items()} for one in past]
        if len(past) <= self.epochs or any(ranking != rankings[-1] for ranking in rankings):
            return None
        return Stop(f"the ranking of the candidates has not changed for {self.epochs} epochs")


class AlphaEntropy(_Criterion):
    """Stops when the mean entropy of the choices is below a bound; records it as `arch_entropy`.

    Args:
      below: the bound. An entropy is 1 if all candidates are equally probable, and 0 if one candidate has all the
        probability.
    """

    def __init__(self, below: float):
        if not 0 < below < 1:
            raise ValueError(f"below must lie between 0 (decided) and 1 (open); got {below!r}.")
        self.below = below

    def on_begin(self, run: Run) -> None:
        super().on_begin(run)
        self._space = _searched(run, "AlphaEntropy")

    def on_epoch_end(self, state: Any, metrics: dict[str, Any]) -> Stop | None:
        metrics["arch_entropy"] = arch_entropy(self._space, metrics["probabilities"])
        if metrics["arch_entropy"] >= self.below:
            return None
        return Stop(f"the mean entropy of the choices is {metrics['arch_entropy']:.3f}, below {self.below}")


class NoImprovement(_Criterion):
    """Stops when a metric has not improved for some epochs; the architecture is that of the best epoch.

    Args:
      metric: its name in the history, such as `"derived_accuracy"` or, in a training, `"test_loss"`. Default: of a
        search, the accuracy of what would be derived, or its loss where there is no accuracy.
      patience: epochs (of those that have the metric) without improvement.
      mode: `"max"` if larger is better, `"min"` if smaller is. Default: `"min"` for losses and errors.
    """

    def __init__(self, metric: str | None = None, *, patience: int = 10, mode: str | None = None):
        check_at_least(1, patience=patience)
        if mode not in ("max", "min", None):
            raise ValueError(f'mode must be "max", "min" or None; got {mode!r}.')
        if metric is None and mode is not None:
            raise ValueError("mode says what is better of a metric; give the metric as well.")
        self._asked, self.patience = (metric, mode), patience

    def on_begin(self, run: Run) -> None:
        super().on_begin(run)
        metric, mode = self._asked
        self._chosen = (metric, mode or ("min" if "loss" in metric or "error" in metric else "max")) if metric else None
        for record in run.history:
            self._choose(record)

    def _choose(self, record: Mapping[str, Any]) -> None:
        """Takes, if none was named, the accuracy of what would be derived, or its loss where there is no accuracy."""
        if self._chosen is None and record.get("derived_accuracy") is not None:
            self._chosen = ("derived_accuracy", "max")
        elif self._chosen is None and record.get("derived_loss") is not None:
            self._chosen = ("derived_loss", "min")

    @property
    def metric(self) -> str:
        """The metric that is followed."""
        return self._chosen[0] if self._chosen is not None else "derived_accuracy"

    def on_epoch_end(self, state: Any, metrics: dict[str, Any]) -> Stop | None:
        self._choose(metrics)
        if metrics.get(self.metric) is None:
            if metrics["epoch"] + 1 >= self.run.epochs and not self._past(self.metric, metrics):
                names = ", ".join(sorted(k for k, v in metrics.items() if isinstance(v, float)))
                message = f"NoImprovement: no epoch had a metric {self.metric!r}; there are {names}."
                warnings.warn(message, stacklevel=2)  # an error now would keep a complete search from ending
            return None
        known = [record for record in [*self.run.history, metrics] if record.get(self.metric) is not None]
        sign = -1 if self._chosen is not None and self._chosen[1] == "min" else 1
        best = int(np.argmax([sign * record[self.metric] for record in known]))
        if len(known) - 1 - best < self.patience:
            return None
        epoch, value = known[best]["epoch"], known[best][self.metric]
        return Stop(f"{self.metric} has not improved since epoch {epoch + 1}, where it was {value:.4f}", epoch)


def _searched(run: Run, name: str) -> Space:
    if run.space is None:
        raise ValueError(f"{name} is for searches; this is a training.")
    return run.space
