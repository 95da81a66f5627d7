"""Reading a trained model back, in another process: from what `save` wrote, or from a run directory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from flax import serialization

from jaxnas.data.preprocessing import AnyPreprocessing, read_preprocessing
from jaxnas.errors import ArchitectureError, RunError
from jaxnas.model.fixed import apply_fixed_architecture, inherit
from jaxnas.model.functional import build
from jaxnas.model.naming import import_named
from jaxnas.model.serialization import read_json
from jaxnas.programs.predictor import FORMAT, Predictor
from jaxnas.runs import reading as runs


def load_model(path: str | os.PathLike, *, model_fn: Any = None) -> Predictor:
    """A trained model with its preprocessing, for predictions on raw examples.

    Args:
      path: a folder that `save` wrote; the run directory of a training; or that of a search, whose found architecture
        then has the supernet's weights.
      model_fn: the model: with open choices where an architecture was fixed. Default: it is imported by the name that
        the folder holds; a model that was made with arguments, or in a script or notebook, has none.

    Returns:
      A `Predictor`: `predict(x)`, `predict_classes(x)`, `model`, `variables`, `save(folder)`.

    Raises:
      RunError: if there is no model in the folder, a file of it is damaged, or its model cannot be imported.
      ArchitectureError: if the architecture does not fit the model.
    """
    folder = Path(path)
    if (folder / "model.json").exists():
        return _read_saved(folder, model_fn)
    if not (folder / "config.json").exists():
        raise RunError(f"{folder}: there is no model here; expected a folder that `save` wrote, or a run directory.")
    config = runs.read_config(folder)
    if "preprocessing" not in config:
        raise RunError(f"{folder}: its config.json does not say how examples are prepared (an earlier version).")
    form, variables = config.get("predicts"), runs.read_weights(folder)
    preprocessing = read_preprocessing(config["preprocessing"])
    if form is not None:
        return _predictor(folder, form, preprocessing, variables, model_fn)
    found = _predictor(folder, {"model": config.get("model"), "arch": _arch(folder)}, preprocessing, {}, model_fn)
    example = jax.eval_shape(preprocessing, preprocessing.raw())
    return Predictor(found.model, inherit(found.model, variables, example), preprocessing)


def _read_saved(folder: Path, model_fn: Any) -> Predictor:
    try:
        form = read_json(folder / "model.json")
    except ArchitectureError as e:
        raise RunError(str(e)) from None
    if not isinstance(form, Mapping) or form.get("format") != FORMAT:
        raise RunError(f"{folder / 'model.json'}: not a model of this version ({FORMAT!r}).")
    file = folder / "weights.msgpack"
    if not file.exists():
        raise RunError(f"{file}: there is no such file.")
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != form.get("sha256", {}).get("weights.msgpack"):
        raise RunError(f"{file}: damaged: its checksum is not the one in model.json.")
    variables = serialization.msgpack_restore(data)
    return _predictor(folder, form, read_preprocessing(form["preprocessing"]), variables, model_fn)


def _predictor(
    folder: Path, form: Mapping[str, Any], preprocessing: AnyPreprocessing, variables: Mapping[str, Any], model_fn: Any
) -> Predictor:
    given = model_fn if model_fn is not None else import_named(str(form["model"]), f"the model of {folder}")
    arch = form.get("arch")
    if arch is None:
        return Predictor(build(given), variables, preprocessing)
    decisions = {key: tuple(value) if isinstance(value, list) else value for key, value in arch.items()}
    return Predictor(apply_fixed_architecture(given, decisions), variables, preprocessing)


def _arch(folder: Path) -> dict[str, Any]:
    file = folder / "final_arch.json"
    if not file.exists():
        raise RunError(f"{file}: there is no such file; the search has not ended.")
    try:
        arch = read_json(file)
    except ArchitectureError as e:
        raise RunError(str(e)) from None
    return arch
