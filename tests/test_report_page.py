"""The report in a real browser: from disk, and while a search runs."""

import json
import random
import re
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from made_runs import seal

from jaxnas import report

ROOT = Path(__file__).resolve().parents[1]
EVIL = '<img src=x onerror="window.hacked=1"><b>bold</b>&amp;%{y}</script>'

pytest.importorskip("playwright")
from playwright.sync_api import expect, sync_playwright  # noqa: E402

expect.set_options(timeout=30_000)  # of a busy machine


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs the program chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def visit(browser):
    """Opens a page, and in the end checks that it loaded nothing else and complained of nothing."""
    contexts, complaints = [], []

    def open_page(url, width=1440, height=900, scheme="light", **options):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        own = url.rstrip("/") if url.startswith("http") else url
        page.on("request", lambda r: r.url.startswith((own, "data:")) or complaints.append(f"request of {r.url}"))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def write_run(folder, space, graph=None, *, epochs=4, result=None, more=None):
    """A run whose first candidates grow likelier with every epoch; of the last choice the second is taken."""
    folder.mkdir()
    about = {"algorithm": "darts", "model": EVIL, "data": "digits", "epochs": epochs, "seed": 0}
    config = {**about, "space": space, "graph": graph, "versions": {"device": EVIL}}
    (folder / "config.json").write_text(json.dumps(config))
    rng, lines = random.Random(0), []
    for epoch in range(epochs):
        probabilities = {}
        for key, spec in space.items():
            n, first = spec["n_candidates"], min(0.5 + 0.1 * epoch, 0.9)
            probabilities[key] = [first, *([(1 - first) / max(n - 1, 1)] * (n - 1))]
        alphas = {key: [p + 0.01 * rng.random() for p in row] for key, row in probabilities.items()}
        arch = {key: 0 if spec["names"] is None else spec["names"][0] for key, spec in space.items()}
        scores = {"train_loss": 1 / (epoch + 1), "derived_accuracy": 0.5 + 0.1 * epoch, "seconds": 1.0, **(more or {})}
        lines.append({"epoch": epoch, **scores, "probabilities": probabilities, "alphas": alphas, "arch": arch})
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "result.json").write_text(json.dumps(result or {"status": "finished"}))
    seal(folder)
    return folder


def layer(*names, n=2):
    return {"kind": "layer", "n_candidates": len(names) or n, "names": list(names) or None, "n_chosen": 1}


def gates(n):
    return {"kind": "input", "n_candidates": n, "names": None, "n_chosen": None}


SMALL = {"conv1": layer("a", EVIL), "skip": gates(1), EVIL: layer(n=3)}


def node(key, kind):
    return {"key": key, "kind": kind, "uses": 1, "inside": None}


def edge(source, target, candidates=None):
    return {"source": source, "target": target, "candidates": candidates}


def chain(keys):
    """Choices one after the other, every input choice with an edge past it."""
    ends = [node("input", "input")], [node("output", "output")]
    names = ["input", *keys, "output"]
    edges = [edge(a, b, [0] if "skip" in b else None) for a, b in pairwise(names)]
    middle = [node(key, "inputs" if "skip" in key else "layer") for key in keys]
    return {"nodes": [*ends[0], *middle, *ends[1]], "edges": edges, "cells": []}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    found = {"arch": {"conv1": "a", "skip": [], EVIL: 0}, "score": 0.5, "metrics": {EVIL: 0.25}}
    result = {"status": "finished", "candidates": [found] * 12}
    run = write_run(tmp_path_factory.mktemp("small") / "run <i>x", SMALL, chain(list(SMALL)), result=result)
    return report.write(run).as_uri()


def shares(page):
    """What stands beside the bars, in the cards and in the graph."""
    return page.locator(".bars .value").all_text_contents(), page.locator("svg a text.share").all_text_contents()


def test_long_names_make_no_wide_page(visit, tmp_path):
    long = "n" * 2000
    space = {long: layer(long, "b"), "z": layer(n=2)}
    found = {"arch": {long: long, "z": 0}, "score": 0.5, "metrics": {long: 0.25}}
    run = write_run(
        tmp_path / "run",
        space,
        chain(list(space)),
        result={"status": "finished", "candidates": [found]},
        more={long: 1.0},
    )
    page = visit(report.write(run).as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    expect(page.locator("#more .legend").first).to_contain_text("nnn…nnn")
    right = "Math.max(...[...document.querySelectorAll('body *')].map((each) => each.getBoundingClientRect().right))"
    assert page.evaluate(right) < 4000  # a table may be scrolled within itself
    assert page.evaluate("document.documentElement.scrollWidth") == 1440


def test_the_slider_moves_graph_bars_and_curves(visit, small):
    page = visit(small)
    slider = page.get_by_role("slider", name="Epoch")
    expect(page.locator("#shown")).to_have_text("epoch 4 of 4")
    expect(page.locator("#panels .shapelayer path").first).to_be_attached()
    assert shares(page)[0][:3] == ["0.800", "0.200", "0.800"]
    marker = page.locator("#panels .shapelayer path").first.get_attribute("d")
    expect(page.locator("svg a .weight").first).to_have_attribute("width", "110.4")  # 0.8 of 138
    expect(page.locator("svg .edge.chosen").first).to_have_attribute("stroke-width", "4.7")  # 1.5 + 4 · 0.8
    slider.focus()
    page.keyboard.press("Home")
    expect(page.locator("#shown")).to_have_text("epoch 1 of 4")
    bars, graph = shares(page)
    assert bars[:3] == ["0.500", "0.500", "0.500"]
    assert graph[:2] == ["a", "0.50"]
    expect(page.locator("svg a .weight").first).to_have_attribute("width", "69")
    expect(page.locator("svg .edge.chosen").first).to_have_attribute("stroke-width", "3.5")
    expect(page.locator("#panels .shapelayer path").first).not_to_have_attribute("d", marker)
    expect(page.locator("#panels .legend b").first).to_have_text("1.0000")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#panels .legend b").first).to_have_text("0.5000")
    assert shares(page)[0][0] == "0.600"
    page.keyboard.press("End")
    expect(page.locator("#shown")).to_have_text("epoch 4 of 4")


def test_everything_is_reached_and_works_by_keyboard(visit, small):
    page = visit(small)
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("(e => e.id || e.localName + ' ' + e.className)(document.activeElement)"))
        if reached[-1].startswith("body"):
            break  # the end; Tab begins anew
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or reached[-1].startswith(("a", "body")), reached[-1]
    for name in ("theme", "play", "epoch", "unfold", "fold", "all", "copy", "json"):
        assert name in reached, reached
    assert any(name.startswith("summary") for name in reached)
    assert sum(name.startswith("a ") for name in reached) == 2  # the skip link, one choice of the graph
    link = page.locator("svg a[tabindex='0']")
    link.focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator("svg a").nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#choice-1")).to_be_focused()
    page.locator("#theme").focus()
    page.keyboard.press("Space")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    expect(page.locator("#play")).to_have_attribute("aria-label", "Play")  # Space was for the button in focus
    page.locator("#theme").evaluate("e => e.blur()")
    page.evaluate("""() => {
        window.played = [];
        const note = () => window.played.push(document.getElementById("shown").textContent);
        new MutationObserver(note).observe(document.getElementById("shown"), { childList: true });
    }""")
    page.keyboard.press("Space")
    expect(page.locator("#play")).to_have_attribute("aria-label", "Play")  # once it has stopped
    expect(page.locator("#shown")).to_have_text("epoch 4 of 4")
    assert page.evaluate("window.played") == [f"epoch {i} of 4" for i in (1, 2, 3, 4)]
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#shown")).to_have_text("epoch 3 of 4")


def test_names_with_markup_appear_as_text(visit, small):
    page = visit(small)
    expect(page).to_have_title("run <i>x · jaxnas")
    expect(page.locator("#name")).to_have_text("run <i>x")
    expect(page.locator("#about")).to_contain_text(EVIL)
    expect(page.locator("#choice-2 h3")).to_have_text(EVIL)
    expect(page.locator("#configuration")).to_contain_text(EVIL)
    head = page.locator("#candidates th").nth(2)  # long names are shortened there
    expect(head).to_contain_text("<img src=x oner…")
    expect(head).to_contain_text("</b>&amp;%{y}</script>")
    plot = page.locator("#choice-0 .plot")
    plot.evaluate("e => e.scrollIntoView({ block: 'center' })")
    expect(plot.locator(".main-svg").first).to_be_attached()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
    expect(plot.locator(".hoverlayer")).to_contain_text("<b>bold</b>&amp;%{y}</script>")
    assert page.locator("img").count() == 0
    assert page.evaluate("window.hacked") is None


def test_tables_and_copying(visit, small):
    page = visit(small)
    expect(page.locator("#candidates tbody tr")).to_have_count(10)
    page.get_by_role("button", name="Show all 12").click()
    expect(page.locator("#candidates tbody tr")).to_have_count(12)
    page.locator("#copy").click()
    expect(page.locator("#copy")).to_have_text(re.compile("Copied|Selected"))
    denied = visit(small)
    denied.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    denied.locator("#copy").click()
    expect(denied.locator("#copy")).to_have_text("Selected: press Ctrl+C")
    assert json.loads(denied.evaluate("getSelection().toString()")) == {"conv1": "a", "skip": 0, EVIL: 0}


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_sizes_and_schemes(visit, small, width, height, scheme):
    page = visit(small, width, height, scheme, reduced_motion="reduce")
    expect(page.locator("html")).to_have_attribute("data-theme", scheme)
    page.locator("#panels").scroll_into_view_if_needed()
    expect(page.locator("#panels .main-svg").first).to_be_attached()
    assert page.evaluate("document.documentElement.scrollWidth") == width  # nothing sticks out
    assert page.evaluate("getComputedStyle(document.querySelector('.fill')).transitionDuration") == "0s"
    # Text against what is behind it: 4.5 to 1 or more (WCAG AA).
    contrast = """() => ['body', 'header p', '#facts dt', '.note', '.legend', '#status', '#play path'].map((name) => {
        const luminance = (text) => {
            const [r, g, b] = text.match(/[\\d.]+/g).map((v) => v / 255)
                .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        let behind = document.querySelector(name);
        const style = getComputedStyle(behind);
        const front = luminance(name.endsWith('path') ? style.fill : style.color);
        while (/, 0\\)$/.test(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
        const back = luminance(getComputedStyle(behind).backgroundColor);
        return (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    })"""
    assert min(page.evaluate(contrast)) >= 4.5


def test_a_hundred_choices(visit, tmp_path):
    keys = [f"stage_{i}/block_{j}/{kind}" for i in range(5) for j in range(10) for kind in ("op", "skip")]
    space = {key: gates(2) if key.endswith("skip") else layer(*"abcdefgh") for key in keys}
    page = visit(report.write(write_run(tmp_path / "run", space, chain(keys), epochs=100)).as_uri())
    expect(page.locator("#panels .main-svg").first).to_be_attached()
    seconds = """() => {
        const at = (name) => performance.getEntriesByName(name)[0].startTime / 1000;
        return at("drawn") - at("begun") + at("plotted") - at("plotting");
    }"""
    assert page.evaluate(seconds) < 2  # what is required of 100 choices
    assert page.locator("svg a").count() == 100
    expect(page.locator("#groups details")).to_have_count(5)
    assert page.locator("#groups details[open]").count() == 1
    assert page.locator(".choice").count() == 20
    page.locator("#groups summary").nth(1).focus()
    page.keyboard.press("Enter")
    expect(page.locator(".choice")).to_have_count(40)
    page.get_by_role("button", name="Unfold all").click()
    expect(page.locator(".choice")).to_have_count(100)
    assert page.locator(".choice .main-svg").count() < 200  # plots are drawn when they are seen
    page.get_by_role("button", name="Fold all", exact=True).click()
    expect(page.locator("#groups details[open]")).to_have_count(0)
    page.locator("svg a").nth(99).focus()
    page.keyboard.press("Enter")  # opens its group
    expect(page.locator("#choice-99")).to_be_focused()
    expect(page.locator("#choice-99 .main-svg").first).to_be_attached()


def test_cells(visit, tmp_path):
    space = {"normal/op": layer("none", "conv"), "normal/in": gates(2)}
    nodes = ["c_{k-2}", "c_{k-1}", "0", "out"]
    free = [{"source": nodes[i], "target": "0", "choice": "normal/op", "switch": ["normal/in", i]} for i in range(2)]
    cell = {
        "name": "normal",
        "nodes": nodes,
        "edges": [*free, {"source": "0", "target": "out", "choice": None, "switch": None}],
    }
    page = visit(report.write(write_run(tmp_path / "run", space, {**chain(list(space)), "cells": [cell]})).as_uri())
    expect(page.locator(".cell h3")).to_have_text("Cell normal")
    expect(page.locator(".cell circle")).to_have_count(4)
    assert page.locator(".cell .node-name").all_text_contents()[1].endswith("ck-1")
    expect(page.locator(".cell text.op").first).to_have_text("none 0.80")
    expect(page.locator(".cell text.op").nth(1)).to_have_text("")  # not taken, and weak
    expect(page.locator(".cell path.edge").first).to_have_attribute("stroke-dasharray", "3 4")  # none
    widths = [
        float(w)
        for w in page.locator(".cell path.edge").evaluate_all("all => all.map((e) => e.getAttribute('stroke-width'))")
    ]
    assert widths[0] == pytest.approx(1.5 + 4 * 0.8 * 0.8)
    assert widths[1] == pytest.approx(1 + 4 * 0.8 * 0.2)


def test_runs_that_failed_or_have_not_begun_or_have_no_graph(visit, tmp_path):
    error = "train_loss became nan in epoch 1"
    failed = write_run(tmp_path / "failed", SMALL, epochs=1, result={"status": "failed", "error": error})
    page = visit(report.write(failed).as_uri())
    expect(page.locator("#status")).to_have_text("failed")
    expect(page.get_by_role("alert")).to_have_text(error)
    expect(page.locator("#architecture")).to_contain_text("no record of how its choices are connected")
    expect(page.locator("#architecture li").first).to_have_text("conv1: a")
    expect(page.locator("#shown")).to_have_text("epoch 1 of 1")
    begun = write_run(tmp_path / "begun", SMALL, chain(list(SMALL)), epochs=0)
    (begun / "result.json").unlink()
    page = visit(report.write(begun).as_uri())
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator("#controls")).to_be_hidden()
    expect(page.locator("#configuration")).to_contain_text("digits")
    expect(page.locator("svg a")).to_have_count(3)


def test_watching_a_search(visit, tmp_path):
    (tmp_path / "run").mkdir()
    command = [sys.executable, "-u", "-m", "jaxnas"]
    watching = subprocess.Popen(
        [*command, "watch", tmp_path / "run", "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = watching.stdout.readline()
        url = re.search(r"at (http://127\.0\.0\.1:\d+/)", line)
        assert url, (line, watching.poll())
        page = visit(url[1])
        expect(page.locator("#status")).to_have_text("waiting for a run to begin")
        page.evaluate("window.same = true")
        model = ["--model", "experiments.quickstart:Net", "--data", "digits", "--epochs", "12"]
        search = subprocess.run(
            [*command, "search", "darts", *model, "--out", tmp_path / "run", "--max-minutes", "0"],
            cwd=ROOT,
            timeout=600,
        )
        assert search.returncode == 0
        slider = page.locator("#epoch")
        expect(slider).to_have_attribute("max", "0")
        expect(page.locator("#shown")).to_have_text("epoch 1 of 12")
        expect(page.locator("#status")).to_have_text("interrupted")
        with subprocess.Popen(
            [*command, "search", "darts", *model, "--out", tmp_path / "run"], cwd=ROOT, stdout=subprocess.DEVNULL
        ) as search:
            expect(page.locator("#status")).to_have_text("running", timeout=60_000)
            expect(slider).to_have_attribute("max", "11", timeout=120_000)
            assert search.wait(timeout=120) == 0
        expect(page.locator("#status")).to_have_text("finished")
        expect(page.locator("#shown")).to_have_text("epoch 12 of 12")
        assert page.evaluate("window.same")  # it was never loaded again
        (tmp_path / "run" / "history.jsonl").write_text("{]\n{}\n")
        expect(page.get_by_role("alert")).to_contain_text("history.jsonl: is damaged")
        expect(page.locator("#shown")).to_have_text("epoch 12 of 12")  # what was drawn stays
    finally:
        watching.send_signal(signal.SIGINT)
        _, err = watching.communicate(timeout=30)
    assert watching.returncode == 0, err
    assert "Traceback" not in err
