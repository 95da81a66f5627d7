"""Compiled programs on disk."""

import subprocess
import sys

SCRIPT = """
import jax, jaxnas
print(jaxnas.cache_compilations())
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
print(float(jax.jit(lambda x: x * 2 + 1)(3.0)))
"""


def run(environment):
    clean = {"PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu", **environment}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=clean, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_programs_are_kept_where_caches_are(tmp_path):
    assert run({"XDG_CACHE_HOME": str(tmp_path)}) == [str(tmp_path / "jaxnas"), "7.0"]
    assert list((tmp_path / "jaxnas").iterdir())


def test_what_is_set_already_stays(tmp_path):
    own = str(tmp_path / "own")
    assert run({"XDG_CACHE_HOME": str(tmp_path), "JAX_COMPILATION_CACHE_DIR": own}) == [own, "7.0"]
    assert not (tmp_path / "jaxnas").exists()
