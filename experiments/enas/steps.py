"""The steps of the experiment. Each leaves its result on disk, so that an interrupted run resumes."""

import dataclasses
import json
import time
from pathlib import Path

import jax
import numpy as np

import jaxnas
from experiments.enas.settings import Final, Search, Settings
from jaxnas import enas, runs
from jaxnas.data import Augment, Dataset

RANDOM_ARCHITECTURES = 50


def limited(data: Dataset, images: int | None) -> Dataset:
    """The first `images` training images, and a fifth as many test images."""
    if images is None:
        return data
    assert data.x_test is not None
    return dataclasses.replace(
        data,
        x_train=data.x_train[:images],
        y_train=data.y_train[:images],
        x_test=data.x_test[: images // 5],
        y_test=data.y_test[: images // 5],
    )


def search(settings: Search, data: Dataset, *, out: Path, seed: int, minutes: float) -> bool:
    """Starts or resumes the search. Returns whether it has ended."""
    if (out / "result.json").exists():
        return True
    steps = int(len(data.x_train) * settings.train_portion) // settings.batch_size
    result = enas.search(
        settings.model,
        data,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        seed=seed,
        controller=settings.controller,
        controller_steps=settings.controller_steps,
        controller_samples=settings.controller_samples,
        controller_optimizer=settings.controller_optimizer,
        weight_optimizer=enas.paper_weight_optimizer(
            steps_per_epoch=steps,
            weight_decay=settings.weight_decay,
            lr_max=settings.lr_max,
            lr_min=settings.lr_min,
        ),
        skip_weight=settings.skip_weight,
        baseline_decay=settings.baseline_decay,
        train_portion=settings.train_portion,
        workdir=out,
        max_minutes=minutes,
    )
    return len(result.history) == settings.epochs


def compare(settings: Search, data: Dataset, *, out: Path, seed: int) -> dict:
    """Test accuracy, with the supernet's weights, of the derived architecture and of random ones.

    Batch statistics are recomputed for each. The random ones are uniform over the space.
    """
    file = out / "comparison.json"
    if file.exists():
        return json.loads(file.read_text())
    space, variables = runs.read_space(out), runs.read_weights(out)
    derived = jaxnas.load(out / "final_arch.json")
    keys = jax.random.split(jax.random.key(seed + 1000), RANDOM_ARCHITECTURES)
    archs = [derived, *(space.fixed(space.sample(key)) for key in keys)]
    scores = jaxnas.evaluate(settings.model, variables, archs, data, recalibrate=True)["accuracy"]
    report = {
        "derived": float(scores[0]),
        "random_mean": float(scores[1:].mean()),
        "random_deviation": float(scores[1:].std(ddof=1)),
        "random_best": float(scores[1:].max()),
        "beaten": int(np.sum(scores[1:] < scores[0])),
        "random": RANDOM_ARCHITECTURES,
    }
    file.write_text(json.dumps(report, indent=2))
    return report


def train(settings: Final, data: Dataset, *, out: Path, seed: int, minutes: float) -> float | None:
    """Trains the final architecture from scratch, or resumes this. Returns the test accuracy once it has ended."""
    folder = out / "final"
    if (folder / "result.json").exists():
        return runs.read_result(folder)["test_accuracy"]
    augment = Augment(crop=4, flip=True, cutout=settings.cutout)
    model = jaxnas.apply_fixed_architecture(settings.model, out / "final_arch.json")
    result = jaxnas.training.fit(
        model,
        dataclasses.replace(data, augment=augment),
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        seed=seed,
        optimizer=enas.paper_weight_optimizer(
            steps_per_epoch=len(data.x_train) // settings.batch_size,
            weight_decay=settings.weight_decay,
            lr_max=settings.lr_max,
            lr_min=settings.lr_min,
        ),
        workdir=folder,
        test_every=10,
        max_minutes=minutes,
    )
    return result.test_accuracy if len(result.history) == settings.epochs else None


def run(settings: Settings, data: Dataset, *, out: Path, seed: int, minutes: float) -> None:
    """Runs as many steps as fit into `minutes`; the same call resumes."""
    started = time.perf_counter()

    def left() -> float:
        return minutes - (time.perf_counter() - started) / 60

    data = limited(data, settings.images)
    if not search(settings.search, data, out=out, seed=seed, minutes=minutes):
        return
    found = compare(settings.search, data, out=out, seed=seed)
    derived, mean, deviation = (100 * found[name] for name in ("derived", "random_mean", "random_deviation"))
    print(
        f"test accuracy with shared weights: derived {derived:.2f} %, {found['random']} random ones {mean:.2f} ± "
        f"{deviation:.2f} %, of which it beats {found['beaten']}",
        flush=True,
    )
    if left() <= 0:
        print("at the time limit; the same call continues with the final training")
        return
    accuracy = train(settings.final, data, out=out, seed=seed, minutes=left())
    if accuracy is not None:
        print(
            f"trained from scratch: test error {100 * (1 - accuracy):.2f} % (paper, all data: {settings.paper_error})"
        )
        print(f"results are in {out}")
