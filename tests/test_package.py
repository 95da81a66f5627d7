"""The package as it is distributed: what wheel and sdist hold, and that the wheel works away from the repository."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from jaxnas.version import __version__

ROOT = Path(__file__).resolve().parents[1]
BESIDE = (
    "report/page/page.js",
    "benchmarks/nasbench201.npz",
    "benchmarks/nasbench201.NOTICE.txt",
    "py.typed",
    "ops/onednn.cc",
)


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
    shim = {name for name in names if re.fullmatch(r"jaxnas/ops/_onednn\..*\.so", name)}  # where the extra `cpu` is
    assert names - info - shim == modules | beside | page
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


def test_the_extras_are_those_that_doctor_knows():
    pytest.importorskip("typer")
    from jaxnas.cli.about import _EXTRAS

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras) == {*_EXTRAS, "test", "all"}
    for extra, packages in _EXTRAS.items():
        assert set(packages) <= {re.match(r"[\w-]+", line)[0] for line in extras[extra]}
    (everything,) = extras["all"]
    in_all = everything.removeprefix("jaxnas[").removesuffix("]").split(",")
    assert set(in_all) == set(_EXTRAS) - {"cpu", "ray", "tpu"}  # for some machines, and it changes bits; large


def test_without_a_compiler_it_is_built_without_the_shim(tmp_path):
    """As on a machine that has oneDNN but no compiler: a warning, no error."""
    for name in ("pyproject.toml", "README.md", "LICENSE", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "jaxnas" / "ops").mkdir(parents=True)
    shutil.copy(ROOT / "jaxnas" / "version.py", tmp_path / "jaxnas")
    for name in ("jaxnas/__init__.py", "jaxnas/ops/__init__.py", "jaxnas/ops/onednn.cc"):
        (tmp_path / name).touch()
    # What setup.py looks for, wherever the environment is.
    found = (tmp_path / "setup.py").read_text().replace("all(path.exists() for path in needed)", "True")
    (tmp_path / "setup.py").write_text(found)
    script = "from setuptools import build_meta as b; b.build_wheel('.')"
    environment = {**os.environ, "CC": "/bin/false", "CXX": "/bin/false"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "jaxnas.ops._onednn" in done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert not any(name.endswith(".so") for name in zipfile.ZipFile(wheel).namelist())


def test_the_version_is_in_one_place():
    cited = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {__version__}\n" in cited
    assert "dynamic" in (ROOT / "pyproject.toml").read_text()
