"""Run directories made by hand, with the files and fields that a search writes."""

import dataclasses
import json

import numpy as np

import jaxnas
from jaxnas.model.graph import trace_graph
from jaxnas.runs.reading import with_checksums


def write_run(
    path, space, *, epochs=5, done=None, seed=0, arch=None, graph=None, config=None, scores=None, status=None
):
    """Writes a run. Probabilities and the decisions that follow from them are drawn by `seed`, unless given.

    Args:
      epochs, done: planned, and in the history (default: all).
      arch: the decisions of all epochs; else those that the probabilities say.
      config: further entries.
      scores: `(epoch) -> dict`, further entries of each record.
      status: of result.json; default `"finished"` if all epochs are done, else there is none.
    """
    path.mkdir(parents=True)
    done = epochs if done is None else done
    about = {"algorithm": "darts", "model": "models:Net", "data": "digits", "epochs": epochs, "seed": seed}
    specs = {key: dataclasses.asdict(spec) for key, spec in space.items()}
    versions = {"jaxnas": jaxnas.__version__, "device": "cpu: cpu"}
    whole = {**about, "space": specs, "graph": graph, "versions": versions, **(config or {})}
    (path / "config.json").write_text(json.dumps(whole))
    draw = np.random.RandomState(seed)
    start, end = ({key: draw.dirichlet(np.full(spec.n_candidates, 0.7)) for key, spec in space.items()} for _ in "ab")
    records = []
    for epoch in range(done):
        share = epoch / max(epochs - 1, 1)
        probabilities = {}
        for key, spec in space.items():
            weights = (1 - share) * 0.2 * (start[key] + 4 / spec.n_candidates) + share * end[key]
            probabilities[key] = (weights * (spec.n_chosen or 1)).tolist()
        found = space.fixed({k: np.asarray(v, np.float32) for k, v in probabilities.items()}) if arch is None else arch
        record = {"epoch": epoch, "train_loss": 2.0 / (epoch + 1), "derived_loss": 1.0, "derived_accuracy": 0.5}
        record |= {"probabilities": probabilities, "arch": found, "seconds": 1.5, "compile_seconds": 0.5 * (epoch == 0)}
        records.append({**record, **(scores(epoch) if scores else {})})
    (path / "history.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    status = status or ("finished" if done == epochs else None)
    if status:
        result = {"status": status, "arch": records[-1]["arch"], "epochs": done, "seconds": 9.0, "candidates": []}
        (path / "result.json").write_text(json.dumps(result))
        seal(path)
    return path


def seal(path):
    """Puts into `result.json` what the files are like now, as a run does when it ends."""
    result = json.loads((path / "result.json").read_text())
    result.pop("checksums", None)
    (path / "result.json").write_text(json.dumps(with_checksums(path, result, {})))


def write_training(path, *, accuracy, seed=0):
    """Writes a training of what a run found."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"epochs": 1, "seed": seed, "inherited": False}))
    (path / "history.jsonl").write_text(json.dumps({"epoch": 0, "train_loss": 1.0, "seconds": 1.0}) + "\n")
    result = {"status": "finished", "epochs": 1, "test_accuracy": accuracy, "test_loss": 1.0}
    (path / "result.json").write_text(json.dumps(result))
    seal(path)


def write_model_run(path, model, example, **options):
    """A run of a model, with its graph."""
    return write_run(path, jaxnas.space(model, example), graph=trace_graph(model, example), **options)
