"""A trained model with its preprocessing: predictions on raw examples, here and in another process."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax import serialization

from jaxnas.data.preprocessing import AnyPreprocessing
from jaxnas.errors import DataError, RunError
from jaxnas.files import write_bytes, write_text
from jaxnas.model import functional
from jaxnas.model.fixed import FixedModel
from jaxnas.model.naming import importable_name
from jaxnas.model.trees import count_of, rows_of
from jaxnas.programs.losses import main_output
from jaxnas.version import __version__

FORMAT = "jaxnas model 1"


@dataclasses.dataclass(frozen=True, repr=False)
class Predictor:
    """A plain or fixed model, its variables, and how raw examples are prepared for it.

    Attributes:
      model: a Flax module, called `model(x)`.
      variables: the trained variables.
      preprocessing: the form of raw examples, and how they are normalised.
    """

    model: nn.Module
    variables: Mapping[str, Any]
    preprocessing: AnyPreprocessing

    def predict(self, examples: Any, *, batch_size: int = 256) -> np.ndarray:
        """The model's output on raw examples.

        Args:
          examples: of the form that the training data had, raw: `[N, …]`, or one example without the batch axis; a
            dict or tuple of these where the model was trained on one.
          batch_size: examples at once. All batches have this size (or N, if that is less), so one is compiled.

        Returns:
          `[N, …]`, such as logits `[N, classes]`; the main output of a model with auxiliary heads.

        Raises:
          DataError: if the examples have another shape, or another kind of numbers.
        """
        raw = self.preprocessing.batch(examples)
        count = count_of(raw)
        size = min(batch_size, count)
        outputs = []
        for start in range(0, count, size):
            chosen = np.minimum(np.arange(start, start + size), count - 1)  # the last batch repeats the last example
            padded = rows_of(raw, chosen)
            outputs.append(jax.device_get(self._forward(self.variables, padded)))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *outputs)

    def predict_classes(self, examples: Any, *, batch_size: int = 256) -> np.ndarray:
        """The most probable class of each example, int `[N]`. For arguments see `predict`.

        Raises:
          DataError: as `predict`; if the output is not `[N, classes]`.
        """
        output = self.predict(examples, batch_size=batch_size)
        if not isinstance(output, np.ndarray) or output.ndim != 2 or output.shape[1] < 2:
            shape = jax.tree.map(np.shape, output)
            raise DataError(f"the model's output has shape {shape}; classes need [N, classes]. Use predict.")
        return output.argmax(-1)

    def save(self, folder: str | os.PathLike) -> Path:
        """Writes the model to a new folder, for `jaxnas.load_model`: architecture, weights and preprocessing.

        Raises:
          RunError: if the folder is there already and not empty, or cannot be written.
        """
        path = Path(folder)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunError(f"{path} is there already; choose another folder for the model, or remove this one.")
        weights = serialization.msgpack_serialize(jax.tree.map(np.asarray, jax.device_get(dict(self.variables))))
        about = {
            "format": FORMAT,
            **model_form(self.model, self.preprocessing),
            "sha256": {"weights.msgpack": hashlib.sha256(weights).hexdigest()},
            "versions": {"jaxnas": __version__, "jax": jax.__version__},
        }
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_bytes(path / "weights.msgpack", weights)
            write_text(path / "model.json", json.dumps(about, indent=2))
        except OSError as e:
            raise RunError(f"{path}: the model cannot be written: {e.strerror}.") from None
        return path

    @functools.cached_property
    def _forward(self) -> Callable[[Any, Any], Any]:
        functions = functional.model_fns(self.model)
        return jax.jit(lambda variables, raw: main_output(functions.apply(variables, self.preprocessing(raw))))

    def __repr__(self) -> str:
        form = model_form(self.model, self.preprocessing)
        return f"Predictor({form['model']}, {self.preprocessing.form})"


def model_form(model: nn.Module, preprocessing: AnyPreprocessing) -> dict[str, Any]:
    """What has to be known to build a model again and to prepare examples for it, JSON-able.

    `model` is the model with open choices where the model is fixed, and `arch` are its decisions, else None.
    """
    form: dict[str, Any] = {"model": importable_name(model), "arch": None, "preprocessing": preprocessing.described()}
    if isinstance(model, FixedModel):
        arch = {key: list(value) if isinstance(value, tuple) else value for key, value in model.arch.items()}
        form |= {"model": model.open.name, "arch": arch}
    return form
