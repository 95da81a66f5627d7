"""What a report says: the payload of a run directory, its drawing, what is escaped, what is refused."""

import contextlib
import json
import math
import re
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread

import pytest
from made_runs import seal

import jaxnas
from jaxnas import report
from jaxnas.model.architecture import ChoiceSpec
from jaxnas.model.entropy import choice_entropy
from jaxnas.model.space import Space
from jaxnas.report import watch
from jaxnas.report.drawing import draw_cell, draw_graph
from jaxnas.report.page import embedded, page
from jaxnas.report.payload import groups_of, waiting
from jaxnas.report.watch import make_server
from jaxnas.runs.locking import Lock
from jaxnas.runs.progress import duration_text

ROOT = Path(__file__).resolve().parents[1]
EVIL = "</script><img src=x onerror=alert(1)>&\u2028"

SPACE = {
    "op": {"kind": "layer", "n_candidates": 3, "names": ["a", "b", EVIL], "n_chosen": 1},
    "two": {"kind": "input", "n_candidates": 3, "names": None, "n_chosen": 2},
    "skip": {"kind": "input", "n_candidates": 2, "names": None, "n_chosen": None},
}
GRAPH = {
    "nodes": [
        {"key": key, "kind": kind, "uses": 1, "inside": None}
        for key, kind in (
            ("input", "input"),
            ("op", "layer"),
            ("two", "inputs"),
            ("skip", "inputs"),
            ("output", "output"),
        )
    ],
    "edges": [
        {"source": source, "target": target, "candidates": candidates}
        for source, target, candidates in (
            ("input", "op", None),
            ("op", "two", [0, 1]),
            ("input", "two", [2]),
            ("two", "skip", [0]),
            ("two", "output", None),
            ("skip", "output", None),
        )
    ],
    "cells": [],
}


def record(epoch):
    return {
        "epoch": epoch,
        "train_loss": 2.0 / (epoch + 1),
        "derived_accuracy": None if epoch == 0 else 0.5,
        "reward": 0.25,
        "weight_grad_norm": 1.0,
        "note": "a word",
        "probabilities": {"op": [0.5, 0.25, 0.25], "two": [1.0, 0.5, 0.5], "skip": [0.9, 0.1]},
        "alphas": {"op": [1.0, 0.0, 0.0], "two": [1.0, 0.0, 0.0], "skip": [2.0, -2.0]},
        "arch": {"op": "a", "two": [0, 2], "skip": []},
        "seconds": 61.0,
        "compile_seconds": 1.5,
    }


def write_run(folder, *, epochs=2, result=None, config=None, **more):
    folder.mkdir(exist_ok=True)
    about = {"algorithm": "darts", "model": "m:Net", "data": "digits", "epochs": 3, "seed": 0, "space": SPACE}
    versions = {"jaxnas": "0", "device": "cpu: cpu"}
    (folder / "config.json").write_text(json.dumps({**about, "graph": GRAPH, "versions": versions, **(config or {})}))
    lines = [json.dumps({**record(epoch), **more}) for epoch in range(epochs)]
    (folder / "history.jsonl").write_text("".join(line + "\n" for line in lines))
    if result is not None:
        (folder / "result.json").write_text(json.dumps(result))
        seal(folder)
    return folder


def test_payload_of_a_run(tmp_path):
    data = report.payload(write_run(tmp_path / "run"))
    json.dumps(data, allow_nan=False)
    assert data["name"] == "run"
    assert data["about"] == "DARTS · m:Net · data digits · seed 0"
    assert data["epochs"] == [1, 2]
    assert data["status"]["state"] == "interrupted"
    op, two, skip = data["choices"]
    assert op["labels"] == ["a", "b", EVIL]
    assert [c["chosen"][1] for c in data["choices"]] == [[0], [0, 2], []]
    assert op["probabilities"] == [[0.5, 0.25, 0.25]] * 2
    assert two["alphas"] == [[1.0, 0.0, 0.0]] * 2
    assert op["entropy"][0] == pytest.approx(1.5 * math.log(2) / math.log(3), abs=1e-4)
    assert skip["entropy"][0] == pytest.approx(0.4690, abs=1e-4)  # H(0.1) in bits
    panels = {panel["title"]: panel for panel in data["panels"]}
    assert list(panels)[:3] == ["Loss", "Accuracy", "Reward"]
    assert panels["Accuracy"]["series"] == [{"name": "derived", "role": "derived", "values": [None, 0.5]}]
    entropies = [choice["entropy"][0] for choice in data["choices"]]
    assert panels["Entropy of the choices"]["series"][0]["values"][0] == pytest.approx(sum(entropies) / 3, abs=1e-4)
    assert not panels["Gradient norms"]["main"]
    assert ["duration", "2 min 02 s, 3.0 s of which compiling"] in data["facts"]
    assert ["derived accuracy, weights of the search", "50.00 %"] in data["facts"]
    assert ["architectures", "36"] in data["facts"]  # 3 · 3 · 4
    assert not data["final"]["final"]
    assert json.loads(data["final"]["text"]) == {"op": "a", "two": [0, 2], "skip": []}
    assert ["versions.device", "cpu: cpu"] in data["configuration"]
    assert not any(name in ("space", "graph") for name, _ in data["configuration"])


def test_payload_of_an_ended_run_with_candidates_and_trainings(tmp_path):
    found = {"arch": {"op": "a", "two": [0, 2], "skip": []}, "score": 0.75, "metrics": {"accuracy": 0.5, "reward": 1.0}}
    run = write_run(tmp_path / "run", result={"status": "finished", "stopped": "in time", "candidates": [found]})
    (run / "final_arch.json").write_text('{"op": "b"}')
    seal(run)
    for name, inherited in (("retrain", False), ("retrain-10", True), ("retrain-2", True)):
        (run / name).mkdir()
        (run / name / "config.json").write_text(json.dumps({"epochs": 4, "inherited": inherited}))
    (run / "retrain" / "result.json").write_text('{"status": "finished", "test_accuracy": 0.9}')
    seal(run / "retrain")
    (run / "retrain-2" / "history.jsonl").write_text('{"epoch": 0, "seconds": 2.0, "test_accuracy": 0.5}\n')
    (run / "retrain-10" / "result.json").write_text("[")
    with Lock(run / "retrain-2" / "run.lock"):
        assert report.payload(run)["trainings"][1]["status"] == "running"
    data = report.payload(run)
    assert (data["status"]["state"], data["status"]["detail"]) == ("finished", "in time")
    assert data["candidates"]["columns"] == ["score", "accuracy"]
    assert data["candidates"]["rows"] == [{"numbers": [0.75, 0.5], "arch": "op: a; two: 0, 2; skip: none"}]
    assert data["final"] == {"text": '{\n  "op": "b"\n}', "final": True}
    first, second, tenth = data["trainings"]
    assert (first["name"], first["status"], first["start"]) == ("retrain", "finished", "from scratch")
    assert first["scores"]["test_accuracy"] == 0.9
    assert (second["name"], second["epochs"], second["duration"]) == ("retrain-2", "1 of 4", "2.0 s")
    assert second["status"] == "interrupted"
    assert "not valid JSON" in tenth["status"]


def test_runs_without_alphas_without_a_graph_without_epochs_and_with_nothing(tmp_path):
    enas = report.payload(write_run(tmp_path / "enas", alphas={}, config={"algorithm": "enas", "graph": None}))
    assert all(choice["alphas"] is None for choice in enas["choices"])
    assert enas["graph"] is None
    begun = report.payload(write_run(tmp_path / "begun", epochs=0))
    assert begun["epochs"] == begun["panels"] == []
    assert begun["final"] is None
    assert set(waiting(tmp_path)) == set(begun)
    unknown = {**record(0)["probabilities"], "op": [None] * 3}
    nulls = report.payload(write_run(tmp_path / "nulls", train_loss=None, probabilities=unknown))
    assert nulls["choices"][0]["entropy"] == [None, None]
    assert all(series["name"] != "train" for panel in nulls["panels"] for series in panel["series"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"probabilities": {}}, "epoch 0 does not fit .* KeyError: 'op'"),
        ({"probabilities": {"op": [1.0], "two": [], "skip": []}}, "1 values for 3 candidates"),
        (
            {"probabilities": {"op": ["x"] * 3, "two": [], "skip": []}},
            "line 1: probabilities/op/0 is 'x'; expected a number",
        ),
        ({"alphas": {"op": 3}}, "line 1: alphas/op is 3; expected a list"),
        ({"arch": {"op": "nowhere"}}, "unknown name 'nowhere'"),
        ({"epoch": 5}, r"line 2: epoch 5; expected an epoch after 5"),
        ({"epoch": "x"}, "line 1: epoch is 'x'; expected an integer from 0"),
    ],
)
def test_history_that_does_not_fit_is_one_clear_error(tmp_path, damage, message):
    with pytest.raises(jaxnas.RunError, match=message):
        report.payload(write_run(tmp_path / "run", **damage))


def test_other_damage_is_one_clear_error(tmp_path):
    with pytest.raises(jaxnas.RunError, match=r"has no config\.json"):
        report.write(tmp_path)
    run = write_run(tmp_path / "run", config={"graph": {"nodes": [], "edges": [{"source": "a", "target": "b"}]}})
    with pytest.raises(jaxnas.RunError, match=r"config\.json: graph/edges/0/candidates is missing"):
        report.payload(run)
    run = write_run(tmp_path / "run", result={"status": "finished", "candidates": [{"score": 1}]})
    with pytest.raises(jaxnas.RunError, match=r"result\.json: candidates/0/arch is missing"):
        report.payload(run)
    (run / "result.json").unlink()
    (run / "final_arch.json").write_text("{")
    with pytest.raises(jaxnas.RunError, match=r"final_arch\.json: not valid JSON"):
        report.payload(run)
    (run / "final_arch.json").unlink()
    (tmp_path / "file").write_text("")
    with pytest.raises(jaxnas.RunError, match="cannot be written"):
        report.write(run, tmp_path / "file" / "report.html")


@pytest.mark.parametrize(
    ("n", "k", "weights", "expected"),
    [
        (4, 1, [0.25] * 4, 1.0),
        (4, 1, [0.0, 1.0, 0.0, 0.0], 0.0),
        (4, 1, [0.5, 0.5, 0.0, 0.0], 0.5),
        (4, 2, [0.5] * 4, 1.0),
        (4, 2, [1.0, 1.0, 0.0, 0.0], 0.0),
        (4, 2, [2.0, 0.0, 0.0, 0.0], 0.0),  # k·softmax may go beyond one
        (2, None, [0.5, 0.0], 0.5),
        (2, None, [1.0, 0.0], 0.0),
        (3, 3, [1.0] * 3, None),
        (1, 1, [1.0], None),
        (2, 1, [None, 1.0], None),
    ],
)
def test_entropy_is_one_where_open_and_zero_where_decided(n, k, weights, expected):
    found = choice_entropy(ChoiceSpec("input", n, None, k), weights)
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-9))


def test_groups():
    assert groups_of(["a1", "b/c"]) == ["all choices"] * 2
    cells = [f"{kind}/node_{i}" for kind in ("normal", "reduce") for i in range(5)]
    assert groups_of([*cells, "head"]) == ["normal"] * 5 + ["reduce"] * 5 + ["others"]
    layers = [f"layer_{i}/{part}" for i in range(6) for part in ("op", "skip")]
    assert set(groups_of(layers)) == {"layer"}
    assert set(groups_of([f"conv{i}" for i in range(9)])) == {"conv"}


def test_durations():
    assert [duration_text(s) for s in (9.74, 192.0, 7500.0)] == ["9.7 s", "3 min 12 s", "2 h 05 min"]


def test_the_graph_is_drawn_downwards_without_nodes_on_each_other():
    space = Space({key: ChoiceSpec(**spec) for key, spec in SPACE.items()})
    drawn = draw_graph(GRAPH, space)
    nodes = {node["key"]: node for node in drawn["nodes"]}
    assert [node["choice"] for node in drawn["nodes"]] == [None, 0, 1, 2, None]
    for edge, given in zip(drawn["edges"], GRAPH["edges"], strict=True):
        source, target = nodes[given["source"]], nodes[given["target"]]
        assert edge["path"][0] == [source["x"], source["y"] + source["height"] / 2]
        assert edge["path"][-1] == [target["x"], target["y"] - target["height"] / 2]
        assert edge["path"][0][1] < edge["path"][-1][1]
    for a in drawn["nodes"]:
        assert drawn["left"] <= a["x"] - a["width"] / 2
        assert a["x"] + a["width"] / 2 <= drawn["left"] + drawn["width"]
        assert 0 < a["y"] - a["height"] / 2 < a["y"] + a["height"] / 2 < drawn["height"]
        for b in drawn["nodes"]:
            apart = abs(a["x"] - b["x"]) >= (a["width"] + b["width"]) / 2
            assert a is b or apart or abs(a["y"] - b["y"]) >= (a["height"] + b["height"]) / 2


def test_a_cell_is_drawn_with_labels_apart():
    names = ["c_{k-2}", "c_{k-1}", "0", "1", "out"]
    free = [
        {"source": names[i], "target": names[j], "choice": "op", "switch": ["two", i]} for j in (2, 3) for i in range(j)
    ]
    ends = [{"source": name, "target": "out", "choice": None, "switch": None, "loose": True} for name in names[2:4]]
    space = Space({key: ChoiceSpec(**spec) for key, spec in SPACE.items()})
    drawn = draw_cell({"name": "normal", "nodes": names, "edges": [*free, free[0], *ends]}, space)
    middle = drawn["nodes"][0]["y"]
    assert len({tuple(edge["label"]) for edge in drawn["edges"]}) == len(drawn["edges"])
    assert all(edge["label"][1] < middle for edge in drawn["edges"][:5])
    assert drawn["edges"][5]["label"][1] > middle  # the second of the same two nodes
    assert all(y >= middle for edge in drawn["edges"][6:] for _, y in edge["path"])
    assert (drawn["edges"][0]["choice"], drawn["edges"][4]["switch"]) == (0, [1, 2])
    assert [edge["loose"] for edge in drawn["edges"]] == [None] * 6 + [[[1, 2]], []]  # who takes "0", and "1"
    for edge in drawn["edges"]:
        assert 0 < edge["label"][1] < drawn["height"]


def test_what_users_named_is_never_markup():
    text = embedded({"name": EVIL, "deep": [{EVIL: "\ud800 é"}]})
    assert json.loads(text) == {"name": EVIL, "deep": [{EVIL: "\ud800 é"}]}
    assert text.isascii()
    assert not set("<>&\u2028") & set(text)
    html = page({"name": EVIL + "{{script}}"})
    assert "onerror" not in html.replace(text, "").split('id="data">')[0]
    assert html.count("<img src=x") == 0
    assert re.search(r"script-src 'sha256-[^;]*'; style-src", html)


def test_the_page_names_no_address():
    ours = page({}).split("<script>", 2)
    without_plotly = ours[0] + ours[1]
    addresses = set(re.findall(r"https?://[^\s\"'`)]*", without_plotly))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not an address


@pytest.fixture
def served(tmp_path):
    (tmp_path / "run").mkdir()
    with make_server(tmp_path / "run", port=0) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield tmp_path / "run", server
        server.shutdown()
        thread.join()


def get(server, path="data.json", **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(server.url + path, headers=headers), timeout=30) as answer:
            return answer.status, answer.headers.get("ETag"), answer.read()
    except urllib.error.HTTPError as e:
        with e:
            return e.code, e.headers.get("ETag"), e.read()


def test_watch_serves_what_is_there_and_says_when_nothing_is_new(served):
    run, server = served
    assert server.server_address[0] == "127.0.0.1"
    status, tag, body = get(server)
    assert (status, json.loads(body)["status"]["text"]) == (200, "waiting for a run to begin")
    assert get(server, **{"If-None-Match": tag})[0] == 304
    write_run(run)
    status, new, body = get(server, **{"If-None-Match": tag})
    assert (status, json.loads(body)["epochs"]) == (200, [1, 2])
    assert new != tag
    assert get(server, **{"If-None-Match": new})[0] == 304
    with Lock(run / "run.lock"):
        assert json.loads(get(server, **{"If-None-Match": new})[2])["status"]["state"] == "running"
    assert get(server, **{"If-None-Match": new})[0] == 304
    status, _, html = get(server, "")
    assert status == 200
    assert b'"live":true' in html


def test_watch_survives_damage_and_answers_to_this_machine_only(served):
    run, server = served
    write_run(run, probabilities={})
    status, _, body = get(server)
    assert status == 200
    assert "does not fit the space" in json.loads(body)["error"]
    (run / "config.json").write_text("{")
    assert "not valid JSON" in json.loads(get(server)[2])["error"]
    assert get(server, "")[0] == 200
    write_run(run)
    assert json.loads(get(server)[2])["epochs"] == [1, 2]
    assert get(server, "config.json")[0] == 404
    assert get(server, Host="rebound.example")[0] == 403
    assert get(server, Host="localhost:1234")[0] == 200  # a tunnel


def test_watch_makes_the_page_once_and_answers_head(served, monkeypatch):
    run, server = served
    write_run(run)
    made = []
    monkeypatch.setattr(watch, "page", lambda data: made.append(data) or page(data))
    pages = {get(server, "") for _ in range(20)}
    assert len(made) == len(pages) == 1
    ((_, tag, body),) = pages
    assert get(server, "", **{"If-None-Match": tag})[0] == 304
    write_run(run, epochs=1)
    assert get(server, "", **{"If-None-Match": tag})[1:] != (tag, body)
    assert len(made) == 2
    for path in ("/", "/data.json"):
        connection = HTTPConnection("127.0.0.1", server.server_port, timeout=30)
        connection.request("HEAD", path)
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"")
        assert int(answer.headers["Content-Length"]) == len(get(server, path[1:])[2])
        connection.close()


def test_idle_clients_hold_a_bounded_number_of_threads_and_keep_nobody_out(served):
    _, server = served
    before = threading.active_count()
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(server.server_address[:2], 30)) for _ in range(100)]
        assert get(server)[0] == 200
        assert idle[0].recv(1) == b""  # who has been silent for longest has gone
        assert len(server._open) <= 32
        assert threading.active_count() <= before + 40


def test_when_all_are_being_answered_a_client_is_told_to_come_again(served, monkeypatch):
    _, server = served
    monkeypatch.setattr(watch, "_MOST", 1)
    server._open[object()] = True
    assert get(server)[0] == 503


def test_a_silent_client_is_cut_off(served, monkeypatch):
    _, server = served
    monkeypatch.setattr(watch.Handler, "timeout", 0.01)
    with socket.create_connection(server.server_address[:2], 30) as silent:
        assert silent.recv(1) == b""


def test_watch_refuses_what_it_cannot_do(served, tmp_path):
    _, server = served
    for host in ("", " "):
        with pytest.raises(jaxnas.RunError, match="the host is empty"):
            make_server(tmp_path / "run", host, port=0)
    for host in ("a\0b", "a" * 100, "..", "no such host"):
        with pytest.raises(jaxnas.RunError, match="cannot listen on port 0 of"):
            make_server(tmp_path / "run", host, port=0)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("")
    with pytest.raises(jaxnas.RunError, match=f"cannot listen on port {server.server_port}"):
        make_server(tmp_path / "run", port=server.server_port)
    with pytest.raises(jaxnas.RunError, match=r"has no config\.json"):
        make_server(tmp_path / "other", port=0)


def test_watch_waits_for_a_directory_that_is_not_there_yet(tmp_path, capsys, monkeypatch):
    run = tmp_path / "later" / "run"
    with make_server(run, port=0) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        assert json.loads(get(server)[2])["epochs"] == []
        run.parent.mkdir()
        write_run(run)
        assert json.loads(get(server)[2])["epochs"] == [1, 2]
        server.shutdown()
    monkeypatch.setattr("jaxnas.report.watch.Server.serve_forever", lambda self: None)
    jaxnas.report.serve(tmp_path / "nowhere", port=0)
    assert f"{tmp_path / 'nowhere'} does not exist yet: the page waits" in capsys.readouterr().out


def test_what_is_not_installed_is_named_and_nothing_else_is_blamed(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run")
    for module in ("fast_sugiyama", "plotly.offline"):
        with monkeypatch.context() as without:
            without.setitem(sys.modules, module, None)
            name = module.split(".")[0].replace("_", "-")
            message = rf'needs {name}: pip install -e "\.\[report\]" in the checkout of jaxnas\.$'
            with pytest.raises(jaxnas.RunError, match=message):
                jaxnas.report.write(run)


def test_pictures_need_no_import_of_their_own():
    script = "import jaxnas; print(jaxnas.report.plots.plot.__name__, jaxnas.report.compare.read.__name__)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["plot", "read"]
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = jaxnas.report.nothing


def test_command_line(tmp_path):
    run = write_run(tmp_path / "run")
    command = [sys.executable, "-m", "jaxnas", "report"]
    done = subprocess.run([*command, run], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert str(run / "report.html") in done.stdout
    assert "</html>" in (run / "report.html").read_text(encoding="utf-8")
    failed = subprocess.run([*command, tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: ")
