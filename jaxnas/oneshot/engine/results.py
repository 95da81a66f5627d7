"""What a search found, as it is returned and as it is read from a run directory."""

from __future__ import annotations

import dataclasses
import functools
import html
import os
from typing import Any

import numpy as np

from jaxnas.blackbox.trials import Trial
from jaxnas.checks import check_at_least
from jaxnas.data.preprocessing import AnyPreprocessing
from jaxnas.model.architecture import decision_text
from jaxnas.model.entropy import sureness
from jaxnas.model.fixed import FixedModel, apply_fixed_architecture, inherit
from jaxnas.model.space import Space
from jaxnas.programs.predictor import Predictor
from jaxnas.runs import directory as runs
from jaxnas.runs.progress import numbers, short_arch


@dataclasses.dataclass(frozen=True, repr=False)
class SearchResult:
    """What a search found.

    Attributes:
      arch: the derived architecture, fixed: `{key: int | str | tuple}`; for `jaxnas.export`.
      alphas: `{key: float [n_candidates]}`, the logits at the end; `{}` where an algorithm has none (ENAS).
      variables: the supernet's variables at the end, `{"params": …, …}`.
      history: one dict per epoch; see the algorithm's `search`.
      space: the space searched.
      model_fn: the model searched.
      example: shape and dtype of the model's input, batch of one; a pytree of them for several inputs.
      preprocessing: the form of raw examples, and how they are normalised.
      state: the algorithm's state at the end, `variables` and all else.
      trials: the architectures scored to derive `arch`, best first; `()` where there were none (DARTS).
      stages: of a search in stages the results of those before the last; else `()`.
    """

    arch: dict[str, int | str | tuple]
    alphas: dict[str, np.ndarray]
    variables: dict[str, Any]
    history: list[dict[str, Any]]
    space: Space
    model_fn: Any
    example: Any
    preprocessing: AnyPreprocessing
    state: Any = None
    trials: tuple[Trial, ...] = ()
    stages: tuple[SearchResult, ...] = ()

    def top(self, k: int) -> list[Trial]:
        """The k best architectures that were scored (fewer if fewer were), best first.

        Raises:
          ValueError: if the search scored none.
        """
        check_at_least(1, k=k)
        if not self.trials:
            raise ValueError(
                "this search scored no architectures beside the one it derived; jaxnas.evaluate scores any."
            )
        return list(self.trials[:k])

    @property
    def candidates(self) -> tuple[Trial, ...]:
        """`trials`, by their earlier name."""
        return self.trials

    def fixed_model(self) -> FixedModel:
        """The found architecture as a plain Flax module."""
        return apply_fixed_architecture(self.model_fn, self.arch)

    def predict(self, examples: Any, *, batch_size: int = 256) -> np.ndarray:
        """The output of the found architecture on raw examples, with the weights of the supernet.

        They were trained for the search; `jaxnas.training.fit` gives better ones. See `Predictor.predict`.
        """
        return self.predictor.predict(examples, batch_size=batch_size)

    @functools.cached_property
    def predictor(self) -> Predictor:
        """The found architecture with the supernet's weights and the preprocessing; it can be saved."""
        return Predictor(self.fixed_model(), self.inherit(), self.preprocessing)

    def __repr__(self) -> str:
        last = self.history[-1] if self.history else {}
        scores = ", ".join(f"{name}={value:.4f}" for name, value in numbers(last).items())
        return f"SearchResult({short_arch(self.arch)}; {len(self.history)} epochs{', ' if scores else ''}{scores})"

    def _repr_html_(self) -> str:
        """The decisions as a table, for notebooks; how sure each is, where the history has probabilities."""
        last = (self.history[-1] if self.history else {}).get("probabilities", {})
        rows = "".join(
            f"<tr><td>{html.escape(key)}</td><td>{html.escape(decision_text(value))}</td>"
            f"<td>{sureness(self.space[key], last.get(key))}</td></tr>"
            for key, value in self.arch.items()
        )
        head = "<tr><th>choice</th><th>decision</th><th>how sure</th></tr>"
        return f"<p>{html.escape(repr(self))}</p><table>{head}{rows}</table>"

    def inherit(self) -> dict[str, Any]:
        """The supernet's variables for `fixed_model()`, to start its training from; see `jaxnas.inherit`."""
        return inherit(self.fixed_model(), self.variables, self.example)


def read_result(
    path: str | os.PathLike, *, space: Space, model_fn: Any, example: Any, preprocessing: AnyPreprocessing
) -> SearchResult:
    """What a search that has ended, well or not, had returned, but for its `state`, which is None.

    Args:
      path: its run directory.
      space, model_fn, example, preprocessing: see `SearchResult`.

    Raises:
      RunError: if a file is damaged.
    """
    ended = runs.with_decisions(runs.read_result(path))
    history = [runs.with_decisions(record) for record in runs.read_history(path)]
    alphas = ended.get("alphas") or (history[-1].get("alphas", {}) if history else {})
    found = [runs.with_decisions(candidate) for candidate in ended.get("candidates", ())]
    return SearchResult(
        arch=ended["arch"],
        alphas={key: np.asarray(logits, np.float32) for key, logits in alphas.items()},
        variables=runs.read_weights(path),
        history=history,
        space=space,
        model_fn=model_fn,
        example=example,
        preprocessing=preprocessing,
        trials=tuple(Trial(each["arch"], each["score"], metrics=each["metrics"]) for each in found),
    )
