"""The four steps of NNI's naive example: search, export, apply, retrain."""

import jaxnas
from jaxnas.quickstart.net import Net


def run(data, *, epochs, retrain_epochs, out, seed=0):
    # The paper's rate for the logits, 3e-4, is for 50 epochs of CIFAR-10; in so few steps it decides nothing.
    result = jaxnas.darts.search(Net, data, epochs=epochs, arch_lr=1e-2, seed=seed, workdir=out)
    jaxnas.export(result.arch, out / "final_arch.json")
    model = jaxnas.apply_fixed_architecture(Net, out / "final_arch.json")
    trained = jaxnas.training.fit(model, data, epochs=retrain_epochs, batch_size=64, seed=seed, workdir=out / "retrain")
    return result, trained
