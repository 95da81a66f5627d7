"""Measures jaxnas, PyTorch and NNI, and prints one table."""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

from experiments.speed.measure import Bench, same_work
from experiments.speed.rows import rows
from experiments.speed.table import markdown


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor's name, as Linux has it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def has_gpu() -> bool:
    """Whether JAX computes on a GPU; asked in a separate process, since JAX would take the GPU's memory."""
    code = "import jax; print(jax.default_backend())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.stdout.strip().endswith("gpu")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.speed", description=__doc__)
    parser.add_argument("--json", type=Path, help="write everything measured there")
    parser.add_argument("--rows", help="only these, by name and separated by commas (--list names them)")
    parser.add_argument("--list", action="store_true", help="list the rows and exit")
    parser.add_argument("--torch-python", help="a Python with PyTorch and NNI (see README.md); else only ours")
    parser.add_argument("--small", action="store_true", help="tiny nets and one round: shows that everything runs")
    parser.add_argument("--rounds", type=int, help="how often each side runs, in turn (default: per row, 1 to 3)")
    parser.add_argument("--threads", type=int, default=cores(), help="of each process (default: all cores)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--default-heap", action="store_true", help="do not keep the heap (MALLOC_*), on either side")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds that a process may take (default: 600)")
    parser.add_argument(
        "--compile-timeout", type=float, default=0.0,
        help="seconds that a process with torch.compile may take; 0 (default) does not try it",
    )  # fmt: skip
    options = parser.parse_args()

    table = rows(small=options.small, dtype=options.dtype, threads=options.threads, on_gpu=has_gpu())
    if options.list:
        print("\n".join(f"{row.name:20} {row.what}" for row in table))
        return 0
    if options.rows:
        wanted = options.rows.split(",")
        unknown = set(wanted) - {row.name for row in table}
        if unknown:
            parser.error(f"no rows {sorted(unknown)}; there are {[row.name for row in table]}")
        table = [row for row in table if row.name in wanted]
    if options.torch_python and shutil.which(options.torch_python) is None:
        parser.error(f"--torch-python: {options.torch_python} cannot be run")
    if not options.torch_python:
        print("No --torch-python was given: only our side is measured.", file=sys.stderr)

    bench = Bench(
        options.torch_python,
        keep_heap=not options.default_heap,
        timeout=options.timeout,
        compile_timeout=options.compile_timeout,
        rounds=1 if options.small else options.rounds,
    )
    lines = []
    began = time.perf_counter()
    try:
        for row in table:
            start = time.perf_counter()
            lines.append(bench.line(row))
            print(f"{row.name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
            where = (
                f"{options.threads} core(s) of {processor()}; {options.dtype}; "
                f"heap {'as it is' if options.default_heap else 'kept'} on both sides; "
                + "; ".join(f"{side}: {said}" for side, said in sorted(bench.device().items()))
            )
            if options.json:  # after every row, so that nothing measured is lost if a later row fails
                found = {"where": where, "rows": lines, "processes": bench.reports()}
                options.json.write_text(json.dumps(found, indent=1) + "\n")
    finally:
        bench.close()
    print(markdown(lines, where))
    print(f"\n{time.perf_counter() - began:.0f} s in total", file=sys.stderr)
    wrong = [line["name"] for line in lines if not same_work(line, options.dtype)]
    if wrong:
        print(f"The losses of the two sides do not agree in {wrong}: it is not the same work.", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
