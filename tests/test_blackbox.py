"""Black-box searchers: pure ask and tell, whole searches inside jit, and searches with a Python evaluator."""

import errno
import inspect
import io
import json
import math
import os
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxnas
from jaxnas import ArchitectureError, ChoiceSpec, RunError, Space, rollout
from jaxnas.benchmarks import nasbench201
from jaxnas.blackbox import evolution, grid_search, local_search, random_search, reinforce
from jaxnas.blackbox.options import TRIAL_DEFAULTS

OPS = Space({name: ChoiceSpec("layer", 3, ("a", "b", "c")) for name in ("x", "y", "z")})
MIXED = Space(
    {
        "op": ChoiceSpec("layer", 3, ("a", "b", "c")),
        "any": ChoiceSpec("input", 3, None, None),
        "two": ChoiceSpec("input", 4, None, 2),
        "only": ChoiceSpec("layer", 1),
    }
)
SEARCHERS = {
    "random_search": random_search.algorithm,
    "grid_search": grid_search.algorithm,
    "local_search": local_search.algorithm,
    "local_search_first": lambda space: local_search.algorithm(space, first_improvement=True),
    "evolution": lambda space: evolution.algorithm(space, population=8, sample=3),
    "reinforce": lambda space: reinforce.algorithm(space, learning_rate=0.05),
}
searchers = pytest.mark.parametrize("name", SEARCHERS)


def value(space, arch):
    """A landscape with one optimum, all ones of `pack`-ed targets: the more decisions agree, the higher."""
    target = space.pack(space.decode(jnp.full(space.n_uniforms, 0.45)))
    return jnp.sum(space.pack(arch) == target).astype(jnp.float32) + 0.01 * space.pack(arch)[0]


def best_of(space):
    every = rollout(grid_search.algorithm(space), lambda arch: value(space, arch), jax.random.key(0), trials=space.size)
    return float(every.scores.max())


def fixed_value(arch):
    return float(sum("abc".index(v) == i for i, v in enumerate(arch.values())))


# ---------------------------------------------------------------------- inside jit


@searchers
@pytest.mark.parametrize("space", [OPS, MIXED], ids=["ops", "mixed"])
def test_every_searcher_finds_the_optimum_of_a_small_space(name, space):
    if name == "reinforce" and space is MIXED:
        space = Space({key: spec for key, spec in MIXED.items() if key != "two"})
    search = jax.jit(lambda key: rollout(SEARCHERS[name](space), lambda a: value(space, a), key, trials=1500))
    run = search(jax.random.key(1))
    assert float(run.scores.max()) == best_of(space)
    for i in (0, 17, 1499):
        space.validate({key: np.asarray(leaf[i]) for key, leaf in run.archs.items()})


def test_evolution_draws_for_many_trials_what_it_draws_for_one_and_evenly():
    searcher = SEARCHERS["evolution"](MIXED)
    state, rng = searcher.init(jax.random.key(0)), jax.random.key(1)
    one = jax.tree.map(lambda leaf: leaf[0], searcher.draw(rng, 1))
    jax.tree.map(np.testing.assert_array_equal, searcher.ask(state, rng), searcher.propose(state, one))
    many = searcher.draw(rng, 4000)
    assert all(word.shape == (4000,) for word in many)
    rows = np.asarray(jax.vmap(lambda drawn: MIXED.pack(searcher.propose(state, drawn)))(many))
    counts = np.unique(rows, axis=0, return_counts=True)[1]
    assert len(counts) == MIXED.size == 144
    assert ((counts - 4000 / 144) ** 2 / (4000 / 144)).sum() < 143 + 5 * np.sqrt(2 * 143)  # chi-squared


@pytest.mark.parametrize("space", [OPS, MIXED], ids=["ops", "mixed"])
def test_a_rollout_of_evolution_is_its_steps(space):
    searcher = SEARCHERS["evolution"](space)
    run = rollout(searcher, lambda a: value(space, a), jax.random.key(5), trials=20)
    init_rng, rng = jax.random.split(jax.random.key(5))
    state, drawn = searcher.init(init_rng), searcher.draw(rng, 20)
    for i in range(20):
        arch = searcher.propose(state, jax.tree.map(lambda leaf, i=i: leaf[i], drawn))
        jax.tree.map(np.testing.assert_array_equal, arch, jax.tree.map(lambda leaf, i=i: leaf[i], run.archs))
        state = searcher.tell(state, arch, value(space, arch))
    jax.tree.map(np.testing.assert_array_equal, state, run.state)


@pytest.mark.parametrize("name", ["random_search", "grid_search", "local_search", "evolution"])
def test_a_lane_of_a_vmap_over_seeds_is_that_seed_alone_to_the_bit(name):
    table = nasbench201.device_table("cifar10", "valid_accuracy", 12)
    searcher = SEARCHERS[name](nasbench201.SPACE)
    keys = jax.random.split(jax.random.key(3), 5)
    many = jax.jit(jax.vmap(lambda key: rollout(searcher, table, key, trials=60)))(keys)
    alone = jax.jit(lambda key: rollout(searcher, table, key, trials=60))(keys[2])
    lane = jax.tree.map(lambda leaf: leaf[2], (many.archs, many.scores))
    jax.tree.map(np.testing.assert_array_equal, lane, (alone.archs, alone.scores))


def test_the_rollout_reports_what_is_observed_and_the_scores_of_its_archs():
    searcher = evolution.algorithm(OPS, population=4, sample=2)
    run = rollout(searcher, lambda a: value(OPS, a), jax.random.key(0), trials=10, observe=lambda s: s.trials)
    assert run.observed.tolist() == list(range(1, 11))
    assert run.scores.tolist() == [float(value(OPS, {k: v[i] for k, v in run.archs.items()})) for i in range(10)]
    assert int(run.state.trials) == 10


def test_the_grid_visits_every_architecture_once_and_begins_again():
    run = rollout(grid_search.algorithm(MIXED), lambda a: 0.0, jax.random.key(0), trials=MIXED.size + 1)
    rows = np.asarray(jax.vmap(MIXED.pack)(run.archs))
    assert len(np.unique(rows[:-1], axis=0)) == MIXED.size == 3 * 8 * 6
    np.testing.assert_array_equal(rows[-1], rows[0])
    plain = rollout(grid_search.algorithm(OPS), lambda a: 0.0, jax.random.key(0), trials=4)
    assert plain.archs["z"].tolist() == [0, 1, 2, 0]  # the last moves fastest
    assert plain.archs["y"].tolist() == [0, 0, 0, 1]


def test_evolution_keeps_the_young_and_mutates_the_best_of_its_sample():
    searcher = evolution.algorithm(OPS, population=3, sample=64)  # so many that the best is all but surely among them
    state = searcher.init(jax.random.key(0))
    scores = [5.0, 1.0, 2.0, 3.0]
    asked = []
    for i, score in enumerate(scores):
        asked.append(searcher.ask(state, jax.random.key(i)))
        state = searcher.tell(state, asked[-1], jnp.float32(score))
    rows = [OPS.pack(arch).tolist() for arch in asked]
    assert sum(a != b for a, b in zip(rows[3], rows[0], strict=True)) == 1  # a child of the best of the first three
    held = [OPS.pack(OPS.from_bits(bits)).tolist() for bits in state.bits]
    assert held == [rows[3], rows[1], rows[2]]  # which, being the oldest, is gone
    assert state.scores.tolist() == [3.0, 1.0, 2.0]
    child = OPS.pack(searcher.ask(state, jax.random.key(9))).tolist()
    assert sum(a != b for a, b in zip(child, rows[3], strict=True)) == 1


def test_a_failed_architecture_is_no_parent():
    searcher = evolution.algorithm(OPS, population=2, sample=64)
    state = searcher.init(jax.random.key(0))
    first = searcher.ask(state, jax.random.key(0))
    state = searcher.tell(state, first, jnp.nan)
    second = searcher.ask(state, jax.random.key(1))
    state = searcher.tell(state, second, jnp.float32(-1e9))
    child = OPS.pack(searcher.ask(state, jax.random.key(2)))
    assert int((child != OPS.pack(second)).sum()) == 1


def test_local_search_tries_each_neighbour_climbs_and_starts_anew():
    searcher = local_search.algorithm(OPS)
    state = searcher.init(jax.random.key(0))
    start = searcher.ask(state, jax.random.key(1))
    state = searcher.tell(state, start, jnp.float32(0.0))
    seen = []
    for i in range(6):  # 3 choices with 2 other candidates each
        neighbour = searcher.ask(state, jax.random.key(0))
        seen.append(OPS.pack(neighbour).tolist())
        state = searcher.tell(state, neighbour, jnp.float32(i == 3))
    base = OPS.pack(start).tolist()
    assert len({tuple(row) for row in seen}) == 6
    assert all(sum(a != b for a, b in zip(row, base, strict=True)) == 1 for row in seen)
    assert OPS.pack(state.current).tolist() == seen[3]
    assert int(state.position) == 1
    for _ in range(6):  # no neighbour is better than 1
        state = searcher.tell(state, searcher.ask(state, jax.random.key(0)), jnp.float32(0.5))
    assert int(state.position) == 0


def test_reinforce_moves_towards_what_scores_above_the_average():
    searcher = reinforce.algorithm(OPS, learning_rate=0.1)
    state = searcher.init(jax.random.key(0))
    good, bad = OPS.sampled({"x": 0, "y": 1, "z": 2}), OPS.sampled({"x": 1, "y": 1, "z": 2})
    first = searcher.tell(state, bad, jnp.float32(1.0))
    # The average is the score itself, so nothing moves. float32 "itself" is exact to an ulp.
    assert float(first.total / first.weight) == pytest.approx(1.0)
    state = searcher.tell(first, good, jnp.float32(3.0))
    assert float(state.total / state.weight) == pytest.approx((0.9 * 0.1 * 1 + 0.1 * 3) / (0.9 * 0.1 + 0.1))
    assert float(state.params["x"][0]) > float(state.params["x"][1])
    failed = searcher.tell(state, bad, jnp.nan)
    jax.tree.map(np.testing.assert_array_equal, failed, state)


def test_reinforce_becomes_sure_of_the_best():
    searcher = reinforce.algorithm(OPS, learning_rate=0.1)
    run = jax.jit(lambda key: rollout(searcher, lambda a: value(OPS, a), key, trials=500))(jax.random.key(0))
    assert float(run.scores[-50:].mean()) > 0.9 * best_of(OPS)


def test_policies_score_what_they_sample():
    from jaxnas.policies.simple import independent, uniform

    space = Space({key: spec for key, spec in MIXED.items() if key != "two"})
    policy = independent(space, init_scale=1.0)
    params = policy.init(jax.random.key(0))
    drawn = policy.sample(params, jax.random.key(1))
    scored = policy.score(params, drawn.arch)
    np.testing.assert_allclose(scored.log_prob, drawn.log_prob, rtol=1e-6)
    grid = grid_search.algorithm(space)
    every = rollout(grid, lambda arch: policy.score(params, arch).log_prob, jax.random.key(0), trials=24)
    assert float(jnp.exp(every.scores).sum()) == pytest.approx(1, abs=1e-5)
    assert float(-(jnp.exp(every.scores) * every.scores).sum()) == pytest.approx(float(drawn.entropy), rel=1e-4)
    flat = uniform(MIXED)
    assert float(flat.sample({}, jax.random.key(0)).log_prob) == pytest.approx(-math.log(MIXED.size))
    with pytest.raises(ArchitectureError, match="'two'.*one of n, or any subset"):
        independent(MIXED)


# ---------------------------------------------------------------------- with a Python evaluator

SEARCHES = {
    "random_search": jaxnas.random_search.search,
    "grid_search": jaxnas.grid_search.search,
    "local_search": jaxnas.local_search.search,
    "evolution": lambda *args, **kw: jaxnas.evolution.search(*args, population=6, sample=3, **kw),
    "reinforce": lambda *args, **kw: jaxnas.reinforce.search(*args, learning_rate=0.05, **kw),
}
searches = pytest.mark.parametrize("name", SEARCHES)


@searches
def test_a_python_evaluator_is_asked_once_per_architecture_until_the_space_is_exhausted(name):
    asked = []

    def evaluate(arch):
        asked.append(tuple(arch.values()))
        return fixed_value(arch)

    found = SEARCHES[name](OPS, evaluate, trials=27)
    assert len(set(asked)) == len(asked) == len(found.trials)
    assert found.arch == {"x": "a", "y": "b", "z": "c"}
    assert found.best.score == 3
    if name not in ("evolution", "reinforce"):  # which may settle in one region
        assert len(asked) == 27
        assert [trial.score for trial in found.top(3)] == [3, 2, 2]


@searches
def test_failures_are_recorded_and_the_search_goes_on(name):
    def evaluate(arch):
        if arch["x"] == "b":
            raise RuntimeError("out of memory")
        return math.nan if arch["y"] == "a" else None if arch["z"] == "a" else fixed_value(arch)

    found = SEARCHES[name](OPS, evaluate, trials=27)
    for trial in found.trials:
        if trial.arch["x"] == "b":
            assert trial.error == "RuntimeError: out of memory"
        elif trial.arch["y"] == "a":
            assert trial.error == "the evaluator gave nan; expected a finite number."
        elif trial.arch["z"] == "a":
            assert "TypeError" in trial.error
        else:
            assert trial.error is None
            assert trial.score == fixed_value(trial.arch)
            continue
        assert math.isnan(trial.score)
    assert found.arch == {"x": "a", "y": "b", "z": "c"}
    assert all(trial.error is None for trial in found.top(100))


@searches
def test_killed_half_way_it_continues_to_the_same_result(name, tmp_path):
    whole = SEARCHES[name](OPS, fixed_value, trials=15, seed=4, history=tmp_path / "whole.jsonl")
    calls = []

    def interrupted(arch):
        if len(calls) == 7:
            raise KeyboardInterrupt
        calls.append(arch)
        return fixed_value(arch)

    part = tmp_path / "part.jsonl"
    with pytest.raises(KeyboardInterrupt):
        SEARCHES[name](OPS, interrupted, trials=15, seed=4, history=part)
    with open(part, "a", encoding="utf-8") as file:
        file.write('{"arch": {"x": "a", ')  # what a kill in the middle of writing leaves

    def rest(arch):
        calls.append(arch)
        return fixed_value(arch)

    continued = SEARCHES[name](OPS, rest, trials=15, seed=4, history=part)
    assert len(calls) == 15  # nothing twice
    assert [t[:3] for t in continued.trials] == [t[:3] for t in whole.trials]
    jax.tree.map(np.testing.assert_array_equal, *(_numbers(r.state) for r in (continued, whole)))
    lines = [json.loads(line) for line in part.read_text().splitlines()]
    assert [line["arch"] for line in lines[1:]] == [trial.arch for trial in whole.trials]


def _numbers(state):
    return jax.tree.map(lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x, state)


def test_a_failed_trial_is_not_tried_again_when_a_search_continues(tmp_path):
    def never(arch):
        raise AssertionError("asked")

    def fail(arch):
        raise OSError("disk full")

    first = jaxnas.evolution.search(MIXED, fail, trials=5, history=tmp_path / "h.jsonl")
    again = jaxnas.evolution.search(MIXED, never, trials=5, history=tmp_path / "h.jsonl")
    assert [t.error for t in again.trials] == [t.error for t in first.trials] == ["OSError: disk full"] * 5
    assert [t.arch for t in again.trials] == [t.arch for t in first.trials]
    with pytest.raises(ValueError, match="all 5 trials failed; the first: OSError: disk full"):
        _ = first.best
    with pytest.raises(ValueError, match="disk full .5 of them are failures that the history records; retry_failures="):
        _ = again.best


@searches
def test_failures_of_a_history_are_said_and_evaluated_again_on_request(name, tmp_path, capsys):
    path, asked = tmp_path / "h.jsonl", []

    def broken(arch):
        if arch["y"] == "c":
            raise NameError("name 'modle' is not defined")
        return fixed_value(arch)

    def repaired(arch):
        asked.append(tuple(arch.values()))
        return fixed_value(arch)

    first = SEARCHES[name](OPS, broken, trials=15, history=path, progress=False)
    failed = [trial for trial in first.trials if trial.error]
    assert failed
    capsys.readouterr()
    SEARCHES[name](OPS, repaired, trials=15, history=path)
    said = capsys.readouterr().out
    assert not asked
    assert f"15 trials are taken from {path}" in said
    assert f"NameError: name 'modle' is not defined  ({len(failed)} of them are failures that the history rec" in said

    again = SEARCHES[name](OPS, repaired, trials=15, history=path, retry_failures=True, progress=False)
    whole = SEARCHES[name](OPS, fixed_value, trials=15, progress=False)
    assert [t[:3] for t in again.trials] == [t[:3] for t in whole.trials]  # as if nothing had failed
    good = {tuple(trial.arch.values()) for trial in first.trials if trial.error is None}
    assert not good & set(asked)  # what had been evaluated was not evaluated again
    assert len(asked) == 15 - len(good & {tuple(trial.arch.values()) for trial in again.trials})
    lines = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    course = [line["arch"] for line in lines if "spare" not in line]
    assert course == [trial.arch for trial in whole.trials]
    asked.clear()
    third = SEARCHES[name](OPS, repaired, trials=15, history=path, progress=False)
    assert [t[:3] for t in third.trials] == [t[:3] for t in again.trials]
    assert not asked


def test_a_retry_that_is_killed_loses_no_score(tmp_path):
    path = tmp_path / "h.jsonl"

    def broken(arch):
        return math.nan if arch["x"] == "a" else fixed_value(arch)

    def killed(arch):
        raise KeyboardInterrupt

    jaxnas.grid_search.search(OPS, broken, history=path, progress=False)
    with pytest.raises(KeyboardInterrupt):
        jaxnas.grid_search.search(OPS, killed, history=path, retry_failures=True, progress=False)
    asked = []
    jaxnas.grid_search.search(OPS, lambda arch: asked.append(arch) or 1.0, history=path, progress=False)
    assert [arch["x"] for arch in asked] == ["a"] * 9


@searches
def test_several_evaluations_give_mean_and_spread(name, tmp_path):
    def evaluate(arch, repeat):
        return fixed_value(arch) + (0, 3, 6)[repeat]

    options = {"trials": 5, "evaluations": 3, "history": tmp_path / "h.jsonl"}
    found = SEARCHES[name](OPS, evaluate, **options)
    assert [trial.score for trial in found.trials] == [fixed_value(trial.arch) + 3 for trial in found.trials]
    assert all(trial.metrics == {"std": 3.0} for trial in found.trials)
    assert SEARCHES[name](OPS, evaluate, **options).trials == found.trials
    with pytest.raises(RunError, match="settings was"):
        SEARCHES[name](OPS, fixed_value, trials=5, history=tmp_path / "h.jsonl")

    def sometimes(arch, repeat):
        return 1.0 if repeat < 2 else math.inf

    failed = SEARCHES[name](OPS, sometimes, trials=1, evaluations=3)
    assert failed.trials[0].error.startswith("evaluation 3 of 3: the evaluator gave inf")


def test_an_evaluation_that_fails_is_tried_again():
    calls = []

    def flaky(arch):
        calls.append(arch)
        if len(calls) % 3:
            raise OSError("busy")
        return 1.0

    found = jaxnas.random_search.search(OPS, flaky, trials=4, retries=2)
    assert [trial.score for trial in found.trials] == [1.0] * 4
    assert len(calls) == 12
    calls.clear()
    assert jaxnas.random_search.search(OPS, flaky, trials=1, retries=1).trials[0].error == "OSError: busy"


def test_a_shuffled_grid_visits_every_architecture_once_in_an_order_of_the_seed():
    def course(seed, **options):
        found = jaxnas.grid_search.search(MIXED, lambda arch: 0.0, seed=seed, progress=False, **options)
        return [tuple(trial.arch.values()) for trial in found.trials]

    plain, shuffled = course(0), course(0, shuffle=True)
    assert sorted(map(str, shuffled)) == sorted(map(str, plain))
    assert shuffled != plain
    assert course(1, shuffle=True) != shuffled
    assert course(0, shuffle=True) == shuffled
    # The first third of it has each candidate of a choice about equally often.
    assert all(12 <= [arch[0] for arch in shuffled[:48]].count(op) <= 20 for op in "abc")
    # Ranges of either order are its parts.
    assert course(0, start=40, stop=90) == plain[40:90]
    assert course(0, start=100, shuffle=True) == shuffled[100:]


def test_a_filter_does_not_lead_out_of_a_range():
    found = jaxnas.grid_search.search(OPS, lambda arch: 0.0, start=3, stop=9, filter=lambda arch: arch["z"] != "a")
    archs = ["".join(trial.arch.values()) for trial in found.trials]
    assert archs == ["abb", "abc", "acb", "acc"]
    assert found.exhausted


def test_a_shuffled_grid_of_a_space_too_large_to_count():
    space = Space({f"{i}": ChoiceSpec("layer", 7) for i in range(40)})
    found = jaxnas.grid_search.search(space, lambda arch: 0.0, shuffle=True, trials=50, progress=False)
    assert len({tuple(trial.arch.values()) for trial in found.trials}) == 50
    assert len({trial.arch["0"] for trial in found.trials}) == 7


@searches
def test_the_filter_keeps_architectures_from_being_evaluated(name):
    def few_a(arch):
        return list(arch.values()).count("a") <= 1

    found = SEARCHES[name](OPS, fixed_value, trials=20, filter=few_a)
    assert all(few_a(trial.arch) for trial in found.trials)
    assert found.best.score == 3


@searches
def test_a_filter_that_leaves_nothing_is_an_error(name):
    with pytest.raises(ArchitectureError, match=r"the filter leaves nothing: it refused all \d+ different"):
        SEARCHES[name](OPS, fixed_value, trials=5, filter=lambda arch: False)


def test_a_bound_on_the_flops_as_a_filter():
    from jaxnas.spaces import nasbench201 as model

    flops = jax.jit(lambda weights: jaxnas.cost(model(), (1, 32, 32, 3), weights).flops)
    space = nasbench201.SPACE
    found = jaxnas.random_search.search(
        space, nasbench201.query, trials=20, filter=lambda arch: flops(space.one_hot(arch)) < 50e6
    )
    assert len(found.trials) == 20
    assert all(nasbench201.query(trial.arch, metric="flops") < 50 for trial in found.trials)
    assert found.best.score == max(nasbench201.query(trial.arch) for trial in found.trials)


def test_evolution_over_the_table_beats_random_search():
    def score(arch):
        return nasbench201.query(arch, "cifar10", "valid_accuracy")

    options = {"trials": 150, "seed": 0}
    evolved = jaxnas.evolution.search(nasbench201.SPACE, score, population=20, sample=5, **options)
    drawn = jaxnas.random_search.search(nasbench201.SPACE, score, **options)
    assert evolved.best.score >= drawn.best.score
    assert np.mean([t.score for t in evolved.trials[-50:]]) > np.mean([t.score for t in drawn.trials]) + 3


def test_a_history_of_another_search_is_refused(tmp_path):
    path = tmp_path / "h.jsonl"
    jaxnas.evolution.search(OPS, fixed_value, trials=5, seed=1, history=path)
    with pytest.raises(RunError, match="is of another search: seed was 1, not 2"):
        jaxnas.evolution.search(OPS, fixed_value, trials=5, seed=2, history=path)
    with pytest.raises(RunError, match="searcher was 'evolution', not 'random_search'"):
        jaxnas.random_search.search(OPS, fixed_value, trials=5, seed=1, history=path)
    with pytest.raises(RunError, match="the space differs"):
        jaxnas.evolution.search(MIXED, fixed_value, trials=5, seed=1, history=path)
    with pytest.raises(RunError, match="settings"):
        jaxnas.evolution.search(OPS, fixed_value, trials=5, seed=1, history=path, population=7)
    first = json.loads(path.read_text().splitlines()[1])["arch"]
    with pytest.raises(RunError, match=r"its trial 0 is .*another filter"):
        jaxnas.evolution.search(OPS, fixed_value, seed=1, history=path, filter=lambda arch: arch != first)
    path.write_text(path.read_text().replace('"score": ', '"sc": ', 1))
    with pytest.raises(RunError, match="line 2: score is missing"):
        jaxnas.evolution.search(OPS, fixed_value, trials=5, seed=1, history=path)
    path.write_text("hello\n")
    with pytest.raises(RunError, match="line 1: not valid JSON.*no history of trials"):
        jaxnas.evolution.search(OPS, fixed_value, trials=5, seed=1, history=path)


TRIAL = '{"arch": {"x": "a", "y": "a", "z": "a"}, "score": 3.0, "error": null, "seconds": 0.5}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (TRIAL.replace("3.0", "NaN"), "NaN is not allowed"),
        (TRIAL.replace("3.0", "Infinity"), "Infinity is not allowed"),
        (TRIAL.replace("3.0", "1e999"), "score is inf; expected a number"),
        (TRIAL.replace("3.0", "1e39"), r"score is 1e\+39; expected a number of at most 3.4e38"),
        (TRIAL.replace("3.0", "true"), "score is True; expected a number"),
        (TRIAL.replace("3.0", '"88"'), "score is '88'; expected a number"),
        (TRIAL.replace("3.0", "null"), "a trial has a score or an error, not none"),
        (TRIAL.replace('"error": null', '"error": "no"'), "a trial has a score or an error, not both"),
        (TRIAL.replace('3.0, "error": null', 'null, "error": ""'), "error is ''; expected a message"),
        (TRIAL.replace('"error": null', '"error": null, "score": 4.0'), "key 'score' stands twice"),
        (TRIAL.replace("0.5", "-1"), "seconds is -1; expected a number of seconds"),
        (TRIAL.replace('"x": "a"', '"x": 0.5'), "arch/x is 0.5; expected an index or a name"),
        (TRIAL[:-1] + ', "checksum": "0123"}', "is damaged: it is not as it was written"),
        (TRIAL[:-9], "not valid JSON"),
        ("[" * 10_000, "nested too deeply"),
        ("\udcff", "not a text file"),
        ("", "not valid JSON"),
    ],
)
def test_a_damaged_line_of_a_history_names_file_line_and_field(tmp_path, line, message):
    path = tmp_path / "h.jsonl"
    jaxnas.grid_search.search(OPS, fixed_value, trials=2, history=path)
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:2], line.encode("utf-8", "surrogateescape"), b""]))
    with pytest.raises(RunError, match=rf"h\.jsonl, line 3: .*{message}"):
        jaxnas.grid_search.search(OPS, fixed_value, trials=3, history=path)


def test_a_history_without_checksums_is_read_with_a_warning(tmp_path):
    path = tmp_path / "h.jsonl"
    jaxnas.grid_search.search(OPS, fixed_value, trials=1, history=path)
    path.write_text(path.read_text().splitlines()[0] + "\n" + TRIAL + "\n")
    with pytest.warns(RuntimeWarning, match="without checksums"):
        found = jaxnas.grid_search.search(OPS, fixed_value, trials=2, history=path)
    assert found.trials[0].score == 3.0


class SpeechlessError(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class Speechless:
    def __repr__(self):
        raise RuntimeError("no words")

    def __float__(self):
        return math.nan


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (SpeechlessError(), r"SpeechlessError \(whose own text raises RuntimeError\)"),
        (ValueError("x" * 10_000_000), r"ValueError: x{1000,2000} … \(10,000,012 characters\)"),
        (Speechless(), r"the evaluator gave a value \(whose own text raises RuntimeError\); expected a finite"),
        (1e39, r"gave 1e\+39; expected a number of at most 3.4e38"),
        ("88", "gave '88'; expected a finite number"),
    ],
    ids=["speechless error", "10 MB", "speechless value", "too large", "a string"],
)
def test_whatever_an_evaluator_does_is_a_failed_trial(tmp_path, outcome, message):
    def evaluate(arch):
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    found = jaxnas.grid_search.search(OPS, evaluate, trials=2, history=tmp_path / "h.jsonl")
    assert len(found.trials) == 2
    assert re.match(message, found.trials[0].error) or re.search(message, found.trials[0].error)
    assert (tmp_path / "h.jsonl").stat().st_size < 10_000
    again = jaxnas.grid_search.search(OPS, evaluate, trials=2, history=tmp_path / "h.jsonl")
    assert [t.error for t in again.trials] == [t.error for t in found.trials]


def test_a_second_search_with_the_same_history_is_refused(tmp_path):
    path = tmp_path / "h.jsonl"

    def evaluate(arch):
        with pytest.raises(RunError, match=rf"h\.jsonl: process {os.getpid()} on .* is working in this file"):
            jaxnas.grid_search.search(OPS, fixed_value, trials=2, history=path)
        return 1.0

    assert len(jaxnas.grid_search.search(OPS, evaluate, trials=2, history=path).trials) == 2
    assert len(jaxnas.grid_search.search(OPS, fixed_value, trials=3, history=path).trials) == 3


def test_a_history_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "h.jsonl", tmp_path, "", "a\0b"):
        with pytest.raises(RunError, match="cannot be (read and )?written|must be the name of a file"):
            jaxnas.grid_search.search(OPS, fixed_value, trials=2, history=place)

    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "h.jsonl"
    jaxnas.grid_search.search(OPS, fixed_value, trials=2, history=path)
    whole = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(RunError, match=r"h\.jsonl: the trial cannot be written: No space left"):
            jaxnas.grid_search.search(OPS, fixed_value, trials=3, history=path)
    assert path.read_bytes() == whole
    assert len(jaxnas.grid_search.search(OPS, fixed_value, trials=3, history=path).trials) == 3


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: jaxnas.random_search.search(OPS, fixed_value, trials=0), ValueError, "trials must be an integer"),
        (lambda: jaxnas.random_search.search(OPS, fixed_value, seed=-1), ValueError, "seed must be an integer"),
        (lambda: jaxnas.random_search.search(Space({}), fixed_value), ArchitectureError, "the space is empty"),
        (lambda: evolution.algorithm(OPS, population=0), ValueError, "population must be an integer of at least 1"),
        (lambda: evolution.algorithm(Space({"a": ChoiceSpec("layer", 1)})), ArchitectureError, "nothing to mutate"),
        (lambda: local_search.algorithm(Space({"a": ChoiceSpec("layer", 1)})), ArchitectureError, "no neighbours"),
        (lambda: reinforce.algorithm(OPS, baseline_decay=1), ValueError, "baseline_decay must lie in 0..1"),
        (lambda: reinforce.algorithm(OPS, learning_rate=0), ValueError, "learning_rate must be positive"),
        (lambda: grid_search.algorithm(Space({"a": ChoiceSpec("input", 40, None, None)})), ValueError, "too many"),
    ],
)
def test_bad_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


class Net(nn.Module):
    """Takes an architecture as evaluators do."""

    @nn.compact
    def __call__(self, arch):
        return arch


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        (Net(), "evaluate is the model Net; expected a function"),
        (Net, "evaluate is the class Net; expected a function"),
        (0.5, "evaluate is 0.5; expected a function"),
        (None, "evaluate is None; expected a function"),
        (lambda: 1.0, "cannot be called as evaluate.arch.: too many positional arguments"),
        (lambda arch, data: 1.0, "cannot be called as evaluate.arch.: missing a required argument: 'data'"),
    ],
)
def test_an_evaluator_that_is_no_function_of_an_architecture_is_refused(evaluate, message, tmp_path):
    for search in SEARCHES.values():
        with pytest.raises(TypeError, match=message):
            search(OPS, evaluate, history=tmp_path / "h.jsonl")
    assert not (tmp_path / "h.jsonl").exists()


@searches
def test_a_model_in_place_of_the_space_and_misspelt_options_are_refused(name):
    with pytest.raises(TypeError, match=r"space is Net; expected a jaxnas.Space: .*jaxnas.space"):
        SEARCHES[name](Net, fixed_value)
    with pytest.raises(TypeError, match="has no argument 'trails'. Did you mean 'trials'"):
        SEARCHES[name](OPS, fixed_value, trails=3)
    with pytest.raises(TypeError, match="filter is 3; expected a function"):
        SEARCHES[name](OPS, fixed_value, filter=3)


def test_what_gives_a_model_has_failed():
    found = jaxnas.random_search.search(OPS, lambda arch: Net(), trials=1)
    assert found.trials[0].error == "the evaluator gave a model, Net; expected its score."


@searches
def test_help_lists_every_option(name):
    search = getattr(jaxnas, name).search
    signature = inspect.signature(search)
    assert set(TRIAL_DEFAULTS) < set(signature.parameters)
    assert not any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    assert signature.parameters["trials"].default == (None if name == "grid_search" else 100)
    text = inspect.getdoc(search)
    assert all(f"  {option}: " in text for option in TRIAL_DEFAULTS)


def test_what_was_found_is_shown_in_a_line():
    found = jaxnas.grid_search.search(OPS, lambda arch: 1 / "abc".index(arch["x"]), trials=20)
    assert repr(found) == "Trials(20 trials (9 failed), best 1 of b a a)"
    assert repr(found.trials[0]).startswith("Trial({'x': 'a', 'y': 'a', 'z': 'a'}, failed: ZeroDivisionError")
    assert repr(found.trials[-1]) == "Trial({'x': 'c', 'y': 'a', 'z': 'b'}, score 0.5)"


def test_progress_is_told_by_default(capsys):
    def evaluate(arch):
        if arch["x"] == "a":
            raise ValueError("no")
        return 1.5

    jaxnas.grid_search.search(OPS, evaluate)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("trial 1/27  failed: ValueError: no")
    assert lines[-1].startswith("trial 27/27  score 1.5000  best 1.5000 (trial 10)  9 failed so far")
    assert len(lines) == 15  # the first, every second and the last
    jaxnas.random_search.search(OPS, evaluate, trials=3, progress=False)
    assert capsys.readouterr().out == ""
    told = []
    jaxnas.grid_search.search(OPS, evaluate, trials=4, progress=told.append)
    assert [trial.arch["z"] for trial in told] == ["a", "b", "c", "a"]


def test_on_a_terminal_there_is_a_bar(monkeypatch):
    console = pytest.importorskip("rich.console")
    screen = io.StringIO()
    terminal = partial(console.Console, file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(console, "Console", terminal)
    jaxnas.grid_search.search(OPS, fixed_value, trials=5)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "trial 1/5  score 1.0000" in shown
    assert re.search(r"trial 5/5 .*best 2.0000", shown)
