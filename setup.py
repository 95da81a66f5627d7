"""The one part that is compiled, and only where it can be; everything else is in pyproject.toml.

`jaxnas/ops/onednn.cc` needs a compiler, the extra `cpu` (oneDNN and its headers) and the headers that come with jaxlib.
Where one of them is missing, or compiling fails, jaxnas is installed without it and says so in `jaxnas doctor`.
"""

import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup


def extensions() -> list[Extension]:
    """The shim, if what it is made from is in the environment that is installed into."""
    headers = Path(sys.prefix) / "include"
    libraries = Path(sys.prefix) / "lib"
    # By path: where the build is isolated, jaxlib cannot be imported, but it is there.
    foreign = Path(sysconfig.get_path("platlib")) / "jaxlib" / "include"
    needed = (headers / "dnnl.hpp", libraries / "libdnnl.so", foreign / "xla" / "ffi" / "api" / "ffi.h")
    if not sys.platform.startswith("linux") or not all(path.exists() for path in needed):
        return []
    return [
        Extension(
            "jaxnas.ops._onednn",
            sources=["jaxnas/ops/onednn.cc"],
            include_dirs=[str(headers), str(foreign)],
            library_dirs=[str(libraries)],
            libraries=["dnnl"],
            language="c++",
            extra_compile_args=["-std=c++17", "-O2", "-fopenmp"],
            extra_link_args=["-fopenmp"],
            optional=True,
        )
    ]


setup(ext_modules=extensions())
