"""The package as it is distributed: what wheel and sdist hold, and that the wheel works away from the repository."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from jaxnas.version import __version__

ROOT = Path(__file__).resolve().parents[1]
BESIDE = ("report/page/page.js", "benchmarks/nasbench201.npz", "benchmarks/nasbench201.NOTICE.txt", "py.typed")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and sdist of the files that git knows, built where nothing else lies."""
    folder = tmp_path_factory.mktemp("built")
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a checkout of git")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith(("tests/", "experiments/")):
            (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "tree" / name)
    script = "from setuptools import build_meta as b; import sys; d = sys.argv[1]; b.build_wheel(d); b.build_sdist(d)"
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], cwd=folder / "tree", capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def test_what_is_in_them(built):
    wheel, sdist = built
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "jaxnas").rglob("*.py")}
    beside = {f"jaxnas/{name}" for name in BESIDE}
    page = {str(path.relative_to(ROOT)) for path in (ROOT / "jaxnas" / "report" / "page").iterdir()}
    info = {name for name in names if name.startswith(f"jaxnas-{__version__}.dist-info/")}
    assert names - info == modules | beside | page
    assert any(name.endswith("/LICENSE") for name in info)
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert modules | beside | page | {"pyproject.toml", "README.md", "LICENSE"} <= inside


def test_its_description(built):
    wheel, _ = built
    archive = zipfile.ZipFile(wheel)
    metadata = archive.read(f"jaxnas-{__version__}.dist-info/METADATA").decode()
    head, _, description = metadata.partition("\n\n")
    assert f"\nVersion: {__version__}\n" in head
    assert "\nDescription-Content-Type: text/markdown" in head
    assert description.startswith("# jaxnas")
    needed = re.findall(r"^Requires-Dist: (\w+)[^;\n]*$", head, re.MULTILINE)
    assert sorted(needed) == ["flax", "jax", "numpy", "optax"]
    scripts = archive.read(f"jaxnas-{__version__}.dist-info/entry_points.txt").decode()
    assert "jaxnas = jaxnas.cli:main" in scripts


def test_the_wheel_works_away_from_the_repository(built, tmp_path):
    zipfile.ZipFile(built[0]).extractall(tmp_path / "installed")
    work = tmp_path / "work"
    work.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}

    def python(*arguments):
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert str(tmp_path) in python("-c", "import jaxnas; print(jaxnas.__file__)")
    said = python("-m", "jaxnas.quickstart", "--epochs", "1", "--retrain-epochs", "1", "--out", "q")
    assert "test accuracy" in said
    python("-m", "jaxnas", "report", "q")
    assert (work / "q" / "report.html").stat().st_size > 10_000


def test_the_version_is_in_one_place():
    cited = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {__version__}\n" in cited
    assert "dynamic" in (ROOT / "pyproject.toml").read_text()
