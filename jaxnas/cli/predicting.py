"""`jaxnas predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_SHOWN = 10


def predict(
    model: Annotated[Path, typer.Argument(help="A run directory, or a folder that `save` wrote.")],
    examples: Annotated[
        list[Path],
        typer.Argument(
            help="An .npy file, an .npz file with x or x_test (several inputs: x/NAME), or pictures; raw, as trained."
        ),
    ],
    model_fn: Annotated[str | None, typer.Option("--model", help="The model, as module:name.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="An .npz file for the outputs, and classes if there are any.")
    ] = None,
) -> None:
    """Predict raw examples with a trained model; the data it was trained on is not needed."""
    import jaxnas
    from jaxnas.cli.inputs import import_model
    from jaxnas.errors import RunError

    if out is not None and out.exists():
        raise RunError(f"{out} is there already; choose another file, or remove it.")
    predictor = jaxnas.load_model(model, model_fn=None if model_fn is None else import_model(model_fn))
    outputs = predictor.predict(_read(examples, predictor.preprocessing))
    classes = outputs.argmax(-1) if outputs.ndim == 2 and outputs.shape[1] > 1 else None
    for i in range(min(len(outputs), _SHOWN)):
        label = f"example {i}" if len(examples) < 2 else str(examples[i])
        print(f"{label}: {_told(outputs[i], None if classes is None else int(classes[i]))}")
    if len(outputs) > _SHOWN:
        print(f"… {len(outputs)} in all")
    if out is not None:
        np.savez(out, outputs=outputs, **({} if classes is None else {"classes": classes}))
        print(f"written to {out}")


def _told(output: np.ndarray, chosen: int | None) -> str:
    if chosen is None:
        return np.array2string(output, precision=4, threshold=20)
    shifted = np.exp(output - output.max())
    return f"class {chosen} ({100 * shifted[chosen] / shifted.sum():.1f} %)"


def _read(files: list[Path], preprocessing: Any) -> np.ndarray:
    from jaxnas.errors import DataError

    missing = [file for file in files if not file.is_file()]
    if missing:
        raise DataError(f"{missing[0]}: there is no such file.")
    if all(file.suffix.lower() in _PICTURES for file in files):
        if not hasattr(preprocessing, "shape"):
            raise DataError(f"this model takes {preprocessing.form}: give an .npz file with x/NAME for each input.")
        return np.stack([_picture(file, getattr(preprocessing, "shape", ())) for file in files])
    if len(files) > 1:
        raise DataError("give one .npy or .npz file, or pictures only.")
    [file] = files
    try:
        found: Any = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise DataError(f"{file}: no .npy or .npz file ({type(e).__name__}: {e}).") from None
    if isinstance(found, np.ndarray):
        return found
    if not hasattr(preprocessing, "shape"):
        return _named(file, found)
    names = [name for name in ("x", "x_test") if name in found]
    if not names:
        raise DataError(f"{file}: has no array x or x_test; it has {list(found)}.")
    return found[names[0]]


def _named(file: Path, found: Any) -> Any:
    """The inputs of a model of several, from `x/NAME` or `x_test/NAME` for each."""
    from jaxnas.errors import DataError
    from jaxnas.model.trees import named_tree

    for field in ("x/", "x_test/"):
        leaves = {name.removeprefix(field): found[name] for name in found if name.startswith(field)}
        if leaves:
            return named_tree(leaves)
    raise DataError(f"{file}: this model has several inputs; expected arrays x/NAME, but there are {list(found)}.")


def _picture(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    from jaxnas.errors import DataError

    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise DataError("reading pictures needs pillow: pip install pillow") from None
    if len(shape) != 3 or shape[-1] not in (1, 3):
        raise DataError(f"this model takes examples of shape {shape}, which are no pictures.")
    with Image.open(file) as image:
        array = np.asarray(image.convert("L" if shape[-1] == 1 else "RGB"))
    array = array[..., None] if array.ndim == 2 else array
    if array.shape != shape:
        raise DataError(
            f"{file}: the picture is {array.shape[1]}×{array.shape[0]}; this model takes {shape[1]}×{shape[0]}."
        )
    return array
