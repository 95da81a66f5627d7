"""The arithmetic of the speed comparison, and our side of it. Nothing here needs PyTorch."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.speed import table
from experiments.speed.measure import Bench, same_work
from experiments.speed.rows import Row, rows
from experiments.speed.workload import Workload

TINY = Workload("step", "candidates", options={"n": 2, "channels": 4}, batch=4, warm=1, timed=2, threads=1)


def line(**changes):
    """A measured line."""
    made = {"name": "a", "what": "A", "unit": "s", "target": "≥ 1.5", "ours": [1.0, 2.0, 4.0], "problem": ""}
    made |= {"theirs": [3.0, 3.0, 20.0], "compiled": None, "loss_difference": 2e-6}
    made["ratio"] = table.ratio(made["theirs"], made["ours"])._asdict()
    return made | changes


def test_ratio_is_the_median_of_the_rounds_with_its_spread():
    # 3, 1.5 and 5: not the ratio of the medians, which is 1.5
    assert table.ratio([3, 3, 20], [1, 2, 4]) == (3, 1.5, 5)


@pytest.mark.parametrize(("theirs", "ours"), [([], []), ([1.0], [1.0, 2.0])])
def test_ratio_refuses_rounds_that_do_not_pair(theirs, ours):
    with pytest.raises(ValueError, match="the same number of rounds"):
        table.ratio(theirs, ours)


def test_times_stand_for_their_median():
    assert table.value_of({"seconds": [3, 1, 20]}, "seconds") == 3
    assert table.value_of({"peak_rss_bytes": 7}, "peak_rss_bytes") == 7
    assert table.value_of({}, "seconds") is None


def test_forms():
    assert table.relate("plain", 5.0, None, 100) == 5
    assert table.relate("growth", 6.0, 4.0, 100) == 1.5
    # 100 steps of 20 ms are 2 s of an epoch of 2.5 s
    assert table.relate("feeding", 2.5, 0.02, 100) == pytest.approx(20)


def test_losses_are_compared_step_by_step_and_relatively():
    ours = [{"valid": 2.0, "train": 1.0}, {"valid": 2.0, "train": 1.0}]
    theirs = [{"valid": 2.0, "train": 1.0}, {"valid": 2.5, "train": 1.1}]
    assert table.loss_difference(ours, ours) == 0
    assert table.loss_difference(ours, theirs) == pytest.approx(0.2)


def test_losses_that_disagree_are_not_the_same_work():
    assert same_work(line(loss_difference=1e-5), "float32")
    assert same_work(line(loss_difference=None), "float32")
    assert not same_work(line(loss_difference=0.01), "float32")


def test_table_shows_medians_spread_and_what_failed():
    text = table.markdown([line(), line(ours=[], theirs=[], ratio=None, problem="no such net")], "here")
    assert text.startswith("here\n\n| what |")
    assert "| A | 2 s | 3 s | – | 3.00 (1.50–5.00) | ≥ 1.5 | 2e-06 |" in text
    assert "| A | no such net | – | – | – |" in text


def test_rows_have_names_of_their_own_and_workloads_that_survive_their_text():
    table_rows = rows(small=False, dtype="float32", threads=2, on_gpu=False)
    assert len({row.name for row in table_rows}) == len(table_rows)
    for row in table_rows:
        assert Workload.parse(row.ours.dump()) == row.ours


def test_our_side_is_measured_without_pytorch(tmp_path):
    bench = Bench(None, timeout=120)
    try:
        found = bench.line(Row("tiny", "tiny", TINY, TINY, rounds=1))
        [report] = bench.reports()
        weights = dict(np.load(bench._weights(TINY)))
    finally:
        bench.close()
    assert found["problem"] == ""
    assert found["theirs"] == []
    assert found["ratio"] is None
    assert len(report["seconds"]) == TINY.timed
    assert 0 < found["ours"][0] < report["first_step_seconds"]
    assert report["peak_rss_bytes"] > 50e6
    assert report["losses"][1]["train"] < report["losses"][0]["train"]  # it learns its only batch
    assert weights["params/candidate_1/kernel"].shape == (5, 5, 4, 4)
    assert weights["alphas/conv"].shape == (2,)
    json.dumps(found)


def test_what_cannot_be_measured_is_said():
    bench = Bench(None, timeout=120)
    try:
        missing = dataclasses.replace(TINY, options={"filters": 1})
        found = bench.line(Row("missing", "missing", missing, None, rounds=1))
    finally:
        bench.close()
    assert found["ours"] == []
    assert "filters" in found["problem"]
