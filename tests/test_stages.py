"""Searches in stages: what each keeps for the next, where they lie, how they resume."""

import dataclasses
import json

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn
from helpers import AfterStep, Block, CutOffError, assert_same_run, planted_data, same_bits

import jaxnas
from jaxnas import ChoiceSpec, InputChoice, LayerChoice, Space, Stage, parts, runs, staged

pytestmark = pytest.mark.usefixtures("quickly_compiled")


class Net(nn.Module):
    """Five candidates, and as many blocks behind them as it is deep."""

    depth: int = 1

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        layers = {"block": Block(4, rate=0.2), "dense": nn.Dense(4), "skip": lambda x: x[:, :4], "sine": nn.Dense(4)}
        for i in range(self.depth):
            x = nn.Dense(6, name=f"deep_{i}")(x)
        x = LayerChoice({**layers, "zero": lambda x: 0 * x[:, :4]}, key="op")(x, arch, train=train)
        x = InputChoice(n_candidates=2, n_chosen=1, key="from")([x, nn.tanh(x)], arch)
        return nn.Dense(2)(x)


def three(**options):
    """Five, three and two candidates, by three methods; the second stage is deeper."""
    stages = [
        Stage(jaxnas.darts.method(), keep=parts.strongest(3)),
        Stage(jaxnas.drnas.method(), keep=parts.strongest(0.4), model=lambda net: net.clone(depth=2)),
        Stage(jaxnas.gdas.method(), options={"epochs": 3}),
    ]
    return staged("three", stages, epochs=2, **options)


OPTIONS = {"batch_size": 8, "progress": False, "arch_lr": 0.05, "weight_lr": 0.05}


def search(method=None, **options):
    return jaxnas.search(Net, planted_data(96), method or three(), **{**OPTIONS, **options})


@pytest.fixture(scope="module")
def whole(tmp_path_factory, quickly_compiled):
    """A search that nothing has interrupted, and its directory."""
    path = tmp_path_factory.mktemp("stages") / "whole"
    return search(workdir=path), path


def test_the_strongest_are_kept():
    space = Space({"op": ChoiceSpec("layer", 4, ("a", "b", "c", "d")), "two": ChoiceSpec("input", 3)})
    weights = {"op": [0.2, 0.3, 0.2, 0.3], "two": [0.1, 0.2, 0.7]}
    assert parts.strongest(1)(space)(weights) == {"op": ("b",)}
    assert parts.strongest(3)(space)(weights) == {"op": ("a", "b", "d")}
    assert parts.strongest(0.5)(space)(weights) == {"op": ("b", "d")}
    assert parts.strongest(0.51)(space)(weights) == {"op": ("a", "b", "d")}
    unnamed = Space({"op": ChoiceSpec("layer", 4).restricted((0, 2, 3))})
    assert parts.strongest(2)(unnamed)({"op": [0.1, 0.5, 0.4]}) == {"op": (2, 3)}
    assert parts.strongest(0.5)(unnamed)({"op": [0.3, 0.5, 0.4]}) == {"op": (2, 3)}  # of the four there were


def test_an_edge_keeps_an_operation():
    specs = {key: ChoiceSpec("layer", 3, ("none", "a", "b")) for key in ("e0", "e1", "free")}
    space = Space({**specs, "node": ChoiceSpec("input", 2, ("e0", "e1"), 1, ranked=True)})
    weights = {"e0": [0.5, 0.2, 0.3], "e1": [0.2, 0.5, 0.3], "free": [0.5, 0.2, 0.3]}
    assert parts.strongest(1)(space)(weights) == {"e0": ("b",), "e1": ("a",), "free": ("none",)}


@pytest.mark.parametrize("count", [0, -1, 1.0, 1.5, 0.0, True, "3"])
def test_what_cannot_be_kept(count):
    with pytest.raises(ValueError, match="what is kept must be"):
        parts.strongest(count)


def test_each_stage_searches_what_the_one_before_has_kept(whole):
    result, path = whole
    results = [*result.stages, result]
    assert [len(each.space["op"].labels) for each in results] == [5, 3, 2]
    assert [len(each.history) for each in results] == [2, 2, 3]
    assert [each.space["from"].n_candidates for each in results] == [2, 2, 2]
    for before, after, count in zip(results, results[1:], (3, 2), strict=False):
        order = np.argsort(-np.asarray(before.history[-1]["probabilities"]["op"]), kind="stable")[:count]
        assert after.space["op"].labels == tuple(before.space["op"].labels[i] for i in sorted(order))
    assert [sum("deep" in name for name in each.variables["params"]) for each in results] == [1, 2, 1]
    assert result.arch["op"] in result.space["op"].labels
    assert jaxnas.load(path / "final_arch.json") == result.arch
    folders = [path / "stage_1", path / "stage_2", path]
    assert [runs.read_config(folder)["stage"] for folder in folders] == [1, 2, 3]
    assert {runs.read_config(folder)["algorithm"] for folder in folders} == {"three"}
    assert [len(runs.read_space(folder)["op"].labels) for folder in folders] == [5, 3, 2]
    assert json.loads((path / "config.json").read_text())["stages"][1]["keep"] == "strongest(0.4)"
    # What was found is of the complete model too.
    jaxnas.apply_fixed_architecture(Net, result.arch).init(jax.random.key(0), np.zeros((2, 12), np.float32))
    with pytest.raises(jaxnas.RunError, match="has finished"):
        search(workdir=path)


def cut():
    raise CutOffError


def test_resumes_in_its_stage_to_the_same_bits(whole, tmp_path):
    result, path = whole
    reached = []

    def noted(stage):
        def progress(record):
            reached.append((stage, record["epoch"]))

        return progress

    class Within(AfterStep):
        """Cuts in the stage whose folder has this name."""

        def on_begin(self, run):
            self.here = run.workdir.name == self.folder

        def on_step_end(self, step):
            if self.here:
                super().on_step_end(step)

    for number, (folder, epoch, step) in enumerate(
        [("stage_1", 1, 2), ("stage_2", 0, 3), ("cut", 0, -1), ("cut", 2, 1)]
    ):
        within = Within(epoch, step, cut)
        within.folder = folder
        with pytest.raises(CutOffError):
            search(
                workdir=tmp_path / "cut",
                checkpoint_minutes=0,
                callbacks=[within, jaxnas.callbacks.Callback()],
                progress=noted(number),
            )
    resumed = search(workdir=tmp_path / "cut", progress=noted(4))
    same_bits(result, resumed)
    for one, other in zip(result.stages, resumed.stages, strict=True):
        same_bits(one, other)
    for folder in ("stage_1", "stage_2", "."):
        assert_same_run(path / folder, tmp_path / "cut" / folder)
    # A stage that has ended is not run again.
    assert reached == [(0, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1), (4, 2)]


def test_seeds_run_in_sequence(whole, tmp_path):
    found = search(seeds=[1, 0], workdir=tmp_path)
    same_bits(whole[0], found[1])
    assert [len(each.stages) for each in found] == [2, 2]
    assert_same_run(whole[1] / "stage_2", tmp_path / "seed_0" / "stage_2")
    with pytest.raises(jaxnas.RunError, match="all its seeds have finished"):
        search(seeds=[1, 0], workdir=tmp_path)
    with pytest.raises(ValueError, match=r"a smaller model of its own"):
        search(seeds=[1, 3], batching="vmap")


def test_a_sequence_goes_on_with_the_seed_that_is_left(tmp_path):
    stages = [Stage(jaxnas.darts.method(), keep=parts.strongest(2)), Stage(jaxnas.darts.method())]
    options = {"seeds": [5, 6], "workdir": tmp_path, "callbacks": [AfterStep(0, 2, cut)]}
    two = staged("two", stages, epochs=1)
    with pytest.raises(CutOffError):
        search(two, **options)
    found = search(two, **{**options, "callbacks": []})
    assert [each.history[0]["epoch"] for each in found] == [0, 0]
    assert search(two, seed=5).arch == found[0].arch


def test_time_that_ends_in_a_stage(whole, tmp_path):
    first = search(workdir=tmp_path, max_minutes=0.0)
    assert first.stages == ()
    assert len(first.space["op"].labels) == 5
    assert not (tmp_path / "config.json").exists()


def test_without_files(whole):
    same_bits(whole[0], search())


def test_the_last_stage_decides_by_another_rule():
    result = search(select=parts.by_evolution(6))
    assert result.trials
    assert all(not each.trials for each in result.stages)
    assert {trial.arch["op"] for trial in result.trials} <= set(result.space["op"].labels)


def test_another_run_is_left_alone(tmp_path):
    jaxnas.search(Net, planted_data(96), jaxnas.darts.method(), **OPTIONS, epochs=1, workdir=tmp_path / "other")
    with pytest.raises(jaxnas.RunError, match="holds a run already, and stage_2"):
        search(workdir=tmp_path / "other")
    search(workdir=tmp_path / "mine", max_minutes=0.0)
    with pytest.raises(jaxnas.RunError, match="holds stage_1"):
        jaxnas.search(Net, planted_data(96), jaxnas.darts.method(), **OPTIONS, workdir=tmp_path / "mine")
    with pytest.raises(jaxnas.RunError, match="stages"):
        search(staged("three", [*three().stages[:1], three().stages[-1]]), workdir=tmp_path / "mine")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "thesis.tex").write_text("mine")
    with pytest.raises(jaxnas.RunError, match=r"thesis\.tex"):
        search(workdir=tmp_path / "files")


class OnlyInputs(nn.Module):
    @nn.compact
    def __call__(self, x, arch):
        return nn.Dense(2)(InputChoice(n_candidates=2, n_chosen=1, key="from")([x, nn.tanh(x)], arch))


@pytest.mark.parametrize(
    ("net", "keep", "message"),
    [
        (Net, (6,), r"keep 6 candidates of choice 'op', which then has 5 \(LayerChoice"),
        (Net, (2, 3), "keep 3 candidates of choice 'op', which then has 2"),
        (Net, (5,), "keeps every candidate of all LayerChoices"),
        (OnlyInputs, (2,), "finds no LayerChoice to shrink"),
        (OnlyInputs, (0.5,), "finds no LayerChoice to shrink"),
    ],
)
def test_stages_that_do_not_fit_the_space(net, keep, message, tmp_path):
    stages = [Stage(jaxnas.darts.method(), keep=parts.strongest(count)) for count in keep]
    method = staged("wrong", [*stages, Stage(jaxnas.darts.method())])
    with pytest.raises(jaxnas.ArchitectureError, match=message):
        jaxnas.search(net, planted_data(96), method, **OPTIONS, workdir=tmp_path)
    assert not any(tmp_path.iterdir())  # before the first stage begins


def test_stages_that_are_none():
    one = Stage(jaxnas.darts.method(), keep=parts.strongest(2))
    last = Stage(jaxnas.darts.method())
    for stages, message in [
        ([last], "at least two"),
        ([last, last], "stage 1 must say what it keeps"),
        ([one, one], "stage 2 is the last"),
        ([one, Stage(three())], "three has stages itself"),
        ([dataclasses.replace(one, begin=lambda state, before, rng: state), last], "nothing before it"),
        ([dataclasses.replace(one, options={"seed": 3}), last], "seed is an option of all stages"),
    ]:
        with pytest.raises(ValueError, match=message):
            staged("wrong", stages)
    with pytest.raises(TypeError, match=r"must be a jaxnas\.Stage"):
        staged("wrong", [one, jaxnas.darts.method()])
    with pytest.raises(TypeError, match="did you mean|Did you mean"):
        staged("wrong", [one, Stage(jaxnas.darts.method(), options={"epoch": 3})])
    policy = Stage(jaxnas.spos.method(), keep=parts.strongest(2))
    with pytest.raises(jaxnas.ArchitectureError, match="spos, has no logits"):
        search(staged("wrong", [policy, last]), epochs=1)


def test_a_stage_may_begin_from_the_one_before():
    seen = {}

    def carried(state, before, rng):
        seen.update(before._asdict())
        return state.replace(params=before.variables["params"], alphas=before.logits)

    stages = [Stage(jaxnas.darts.method(), keep=parts.strongest(2)), Stage(jaxnas.darts.method(), begin=carried)]
    frozen = staged("carried", stages, epochs=2)
    result = search(frozen, arch_lr=1e-9, weight_lr=None, weight_optimizer=optax.sgd(1e-9))
    first = result.stages[0]
    assert result.space["op"].labels == tuple(
        first.space["op"].labels[i] for i in sorted(np.argsort(-first.alphas["op"])[:2])
    )
    for key, values in result.alphas.items():
        kept = [first.space[key].labels.index(label) for label in result.space[key].labels]
        np.testing.assert_allclose(values, first.alphas[key][kept], atol=1e-6)
    dense = first.variables["params"]["Dense_0"]["kernel"]
    np.testing.assert_allclose(result.variables["params"]["Dense_0"]["kernel"], dense, atol=1e-5)
    assert seen["logits"]["from"].shape == (2,)


def test_the_first_stage_is_planned():
    forecast = jaxnas.plan(Net, planted_data(96), three(), batch_size=8, compiled=False)
    assert "three" in forecast.run
    assert forecast.run.endswith("stage 1 of 3")
    assert forecast.epochs == 2
    alone = jaxnas.plan(Net, planted_data(96), jaxnas.darts.method(), batch_size=8, compiled=False)
    assert forecast.params == alone.params
