"""Scalars and histograms for TensorBoard."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxnas.extras import how_to_install
from jaxnas.runs.callback import Callback, Run, Stop


class TensorBoard(Callback):
    """Writes every number of an epoch's record as a scalar, and alphas and probabilities as histograms and scalars.

    Needs tensorboardX, from the extra `tensorboard`. On a resumed run TensorBoard drops what was written about epochs
    that are repeated.

    Args:
      logdir: where to write. Default: `tensorboard` in the run directory. (Several seeds would all write to one
        `logdir`.)
    """

    def __init__(self, logdir: str | os.PathLike | None = None):
        self.logdir = None if logdir is None else Path(logdir)
        self._writer: Any = None

    def on_begin(self, run: Run) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ModuleNotFoundError:
            raise ModuleNotFoundError(f"TensorBoard needs tensorboardX: {how_to_install('tensorboard')}.") from None
        if self.logdir is None and run.workdir is None:
            raise ValueError("TensorBoard needs a logdir, or a search with a workdir.")
        folder = self.logdir if self.logdir is not None else run.workdir / "tensorboard"  # type: ignore[operator]
        self._space = run.space
        done = len(run.history)
        # The library names files by the second; without the suffix a quick restart would overwrite the previous one.
        self._writer = SummaryWriter(str(folder), purge_step=done or None, filename_suffix=f".{done}")

    def on_epoch_end(self, state: Any, metrics: dict[str, Any]) -> Stop | None:
        epoch = metrics["epoch"]
        for name, value in metrics.items():
            if isinstance(value, float):
                self._writer.add_scalar(_group(name), value, epoch)
        for key, logits in metrics.get("alphas", {}).items():
            self._writer.add_histogram(f"alphas/{key}", np.asarray(logits), epoch)
        for key, shares in metrics.get("probabilities", {}).items():
            labels = self._space[key].labels if self._space is not None else range(len(shares))
            for label, share in zip(labels, shares, strict=True):
                self._writer.add_scalar(f"probabilities/{key}/{label}", share, epoch)
        self._writer.flush()
        return None

    def on_end(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _group(name: str) -> str:
    """`train_loss` -> `loss/train`, so that TensorBoard shows curves of one kind together."""
    first, _, rest = name.partition("_")
    return f"{rest}/{first}" if rest and first in ("train", "valid", "supernet", "derived", "sampled", "test") else name
