"""One process of the PyTorch side: `PYTHON -m experiments.speed.torch_reference WORKLOAD [WEIGHTS.npz]`.

Steps start from the weights that `experiments.speed.ours` wrote.
"""

import sys

import numpy as np
import torch

from experiments.speed.torch_reference import candidates, darts, enas, nasbench201
from experiments.speed.torch_reference.bilevel import Bilevel, Child
from experiments.speed.workload import Clock, Workload

NETS = {
    "candidates": (candidates, candidates.Candidates),
    "darts": (darts, darts.Darts),
    "enas_macro": (enas, enas.Enas),
    "nasbench201": (nasbench201, nasbench201.NasBench201),
}


def load(model, arrays, source) -> None:
    """Copies weights of jaxnas, `{path: array}`, into the model; `source` says which goes where.

    Dense kernels become convolutions of 1x1 where the model has those.
    """
    kinds = {"weight": ("kernel", "scale"), "bias": ("bias",)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            path, index = source(name, model)
            stem, _, last = path.rpartition("/")
            paths = [f"params/{stem}/{kind}" for kind in kinds.get(last, (last,))]
            array = next(arrays[p] for p in paths if p in arrays)[index]
            axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, tuple(range(array.ndim)))
            parameter.copy_(torch.from_numpy(array.transpose(axes).copy()).reshape(parameter.shape))


def make_step(workload: Workload, arrays, device):
    module, net = NETS[workload.net]
    model = net(**workload.options)
    load(model, arrays, module.source)
    model = model.to(device, memory_format=torch.channels_last)
    if workload.compiled:
        model = torch.compile(model)
    half = workload.dtype == "bfloat16"
    if workload.algorithm == "enas":
        return Child(model, enas.archs(arrays), half=half)
    alphas = {
        kind: torch.from_numpy(np.stack([arrays[f"alphas/{key}"] for key in keys]))
        for kind, keys in module.KEYS.items()
    }
    alphas = {kind: alpha.to(device).requires_grad_() for kind, alpha in alphas.items()}
    return Bilevel(model, alphas, order=workload.order, half=half)


def steps(workload: Workload, arrays) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    clock = Clock(workload)
    step = make_step(workload, arrays, device)
    train, valid = (
        (
            torch.from_numpy(x).permute(0, 3, 1, 2).to(device, memory_format=torch.channels_last),
            torch.from_numpy(y).to(device),
        )
        for x, y in workload.batches()
    )
    losses = []
    clock.start()
    for _ in range(workload.warm + workload.timed):
        for _ in range(workload.block):
            found = step(train, valid)
            if len(losses) < 2:
                losses.append({name: float(value) for name, value in found.items()})
                clock.first_step_done()
        wait()
        clock.lap()
    more = {"device_peak_bytes": torch.cuda.max_memory_allocated()} if device.type == "cuda" else {}
    clock.report(losses=losses, device=_name(device), version=f"PyTorch {torch.__version__}", **more)


def _name(device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else "cpu"


def main() -> None:
    workload = Workload.parse(sys.argv[1])
    arrays = dict(np.load(sys.argv[2])) if len(sys.argv) > 2 else None
    torch.set_num_threads(workload.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as JAX does by default
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    if workload.net == "quickstart":
        from experiments.speed.torch_reference import quickstart  # needs NNI

        if workload.kind == "search":
            quickstart.search(workload)
        else:
            quickstart.steps(workload, arrays, load)
    else:
        steps(workload, arrays)


if __name__ == "__main__":
    main()
