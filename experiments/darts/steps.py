"""The steps of the experiment. Each leaves its result on disk, so that an interrupted run resumes."""

import dataclasses
import time
from pathlib import Path
from typing import Literal

import optax

import jaxnas
from experiments.darts.settings import Final, Search, Settings
from experiments.enas.steps import limited
from jaxnas import runs, spaces
from jaxnas.data import Augment, Dataset
from jaxnas.files import write_text
from jaxnas.spaces import Genotype

GENOTYPE = "genotype.txt"
PUBLISHED = {"DARTS_V1": spaces.DARTS_V1, "DARTS_V2": spaces.DARTS_V2}


def search(
    settings: Search,
    data: Dataset,
    *,
    order: int,
    out: Path,
    seed: int,
    minutes: float,
    hypergradient: Literal["exact", "finite_difference"] = "exact",
) -> Genotype | None:
    """Starts or resumes the search. Returns the genotype once the search has ended, and writes it to a file."""
    if not (out / "result.json").exists():
        result = jaxnas.darts.search(
            spaces.darts(channels=settings.channels, cells=settings.cells, num_classes=classes(data)),
            data,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            order=order,
            hypergradient=hypergradient,
            seed=seed,
            workdir=out,
            max_minutes=minutes,
        )
        if len(result.history) < settings.epochs:
            return None
    genotype = spaces.genotype_of(jaxnas.load(out / "final_arch.json"))
    write_text(out / GENOTYPE, f"{genotype}\n")
    return genotype


def read_genotype(given: str) -> Genotype:
    """A genotype by its published name, or from a file: the authors' text, or an architecture as JSON."""
    if given in PUBLISHED:
        return PUBLISHED[given]
    if given.endswith(".json"):
        return spaces.genotype_of(jaxnas.load(given))
    return Genotype.parse(Path(given).read_text(encoding="utf-8"))


def evaluate(
    settings: Final, data: Dataset, genotype: Genotype, *, out: Path, seed: int, minutes: float
) -> float | None:
    """Trains a genotype from scratch, or resumes this. Returns the test accuracy once it has ended."""
    network = spaces.darts_evaluation(
        channels=settings.channels,
        cells=settings.cells,
        num_classes=classes(data),
        drop_path=settings.drop_path,
    )
    if (out / GENOTYPE).exists() and read_genotype(str(out / GENOTYPE)) != genotype:
        raise jaxnas.RunError(f"{out}: holds the training of another genotype; give another --out.")
    arch = spaces.arch_of(genotype)
    if (out / "result.json").exists():
        return runs.read_result(out)["test_accuracy"]
    if isinstance(data.augment, Augment):  # that of the data, such as CIFAR's crop and flip, and cutout
        data = dataclasses.replace(data, augment=dataclasses.replace(data.augment, cutout=settings.cutout))
    result = jaxnas.training.fit(
        jaxnas.apply_fixed_architecture(network, arch),
        data,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        seed=seed,
        optimizer=final_optimizer(settings, steps_per_epoch=len(data.x_train) // settings.batch_size),
        aux_weight=settings.aux_weight,
        grad_clip=settings.grad_clip,
        workdir=out,
        callbacks=[_Noted(genotype)],
        test_every=settings.test_every,
        max_minutes=minutes,
    )
    return result.test_accuracy if len(result.history) == settings.epochs else None


class _Noted(jaxnas.callbacks.Callback):
    """Writes the genotype into the directory of its training, once the directory is the training's."""

    def __init__(self, genotype: Genotype):
        self._genotype = genotype

    def on_begin(self, run: jaxnas.callbacks.Run) -> None:
        write_text(run.workdir / GENOTYPE, f"{self._genotype}\n")
        jaxnas.export(spaces.arch_of(self._genotype), run.workdir / "arch.json")


def final_optimizer(settings: Final, *, steps_per_epoch: int) -> optax.GradientTransformation:
    """SGD with momentum 0.9 and weight decay; the learning rate falls to 0 along a cosine, once per epoch."""
    cosine = optax.cosine_decay_schedule(settings.lr, settings.epochs)
    return optax.chain(
        optax.add_decayed_weights(settings.weight_decay),
        optax.sgd(lambda step: cosine(step // steps_per_epoch), momentum=0.9),
    )


def classes(data: Dataset) -> int:
    """Number of classes of a data set."""
    assert data.num_classes is not None
    return data.num_classes


def run(
    settings: Settings,
    data: Dataset,
    *,
    steps: str,
    order: int,
    genotype: Genotype | None,
    out: Path,
    seed: int,
    minutes: float,
    hypergradient: Literal["exact", "finite_difference"] = "exact",
) -> float | None:
    """Runs as much of the steps (`"search"`, `"evaluate"` or `"both"`) as fits into `minutes`; the same call resumes.

    `genotype` is what to evaluate; None for the result of the search.

    Returns:
      The test accuracy once the training has ended.
    """
    started = time.perf_counter()
    data = limited(data, settings.images)
    if genotype is None:
        about = {"order": order, "hypergradient": hypergradient}
        genotype = search(settings.search, data, **about, out=out, seed=seed, minutes=minutes)
        if genotype is None:
            return None
        print(f"{genotype}\nis in {out / GENOTYPE}, as JSON in {out / 'final_arch.json'}", flush=True)
        if steps == "search":
            return None
    left = minutes - (time.perf_counter() - started) / 60
    if left <= 0:
        print("at the time limit; the same call continues with the final training")
        return None
    return evaluate(settings.final, data, genotype, out=out / "final", seed=seed, minutes=left)
