"""NNI's naive example on NNI's own `DartsTrainer`: the net of its examples/nas/naive, and its data loaders."""

import importlib.metadata
import statistics
import time

import numpy as np
import torch
import torch.nn.functional as F
from nni.nas.pytorch.darts import DartsTrainer
from nni.nas.pytorch.mutables import InputChoice, LayerChoice
from PIL import Image
from torch import nn

from experiments.speed.workload import Clock, Workload

# The candidates of ours are numbered in the order in which the net meets them.
_SOURCES = {
    "conv1.0": "Conv_0",
    "conv1.1": "Conv_1",
    "conv2.0": "Conv_2",
    "conv2.1": "Conv_3",
    "conv3": "Conv_4",
    "bn": "BatchNorm_0",
    "fc1": "Dense_0",
    "fc2": "Dense_1",
    "fc3": "Dense_2",
}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = LayerChoice([nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 6, 5, padding=2)], key="conv1")
        self.conv2 = LayerChoice([nn.Conv2d(6, 16, 3, padding=1), nn.Conv2d(6, 16, 5, padding=2)], key="conv2")
        self.conv3 = nn.Conv2d(16, 16, 1)
        self.skipconnect = InputChoice(n_candidates=1, key="skipconnect")
        self.bn = nn.BatchNorm2d(16)
        self.gap = nn.AdaptiveAvgPool2d(4)
        self.fc1, self.fc2, self.fc3 = nn.Linear(256, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x0 = F.relu(self.conv2(x))
        x1 = F.relu(self.conv3(x0))
        x0 = self.skipconnect([x0])
        if x0 is not None:
            x1 = x1 + x0
        x = self.gap(F.max_pool2d(self.bn(x1), 2)).flatten(1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


def source(name: str, model: nn.Module) -> tuple[str, tuple[int, ...]]:
    """Where jaxnas keeps the parameter of that name."""
    layer, _, kind = name.rpartition(".")
    return f"{_SOURCES[layer]}/{kind}", ()


class Images(torch.utils.data.Dataset):
    """As torchvision's CIFAR10 with ToTensor and Normalize: uint8 images, each a PIL image and then a tensor when asked
    for. Written out, since torchvision's wheels fit one build of torch each.
    """

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        pixels = torch.from_numpy(np.array(Image.fromarray(self.images[i])))
        image = pixels.permute(2, 0, 1).contiguous().float().div_(255)
        return image.sub_(0.5).div_(0.5), int(self.labels[i])

    def ready(self) -> torch.utils.data.TensorDataset:
        """The same as normalised tensors."""
        images = torch.from_numpy(self.images).permute(0, 3, 1, 2).float() / 255
        return torch.utils.data.TensorDataset((images - 0.5) / 0.5, torch.from_numpy(self.labels))


class Waiting:
    """A loader that adds up the time spent waiting for it."""

    def __init__(self, loader):
        self.loader, self.seconds = loader, 0.0

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        start = time.perf_counter()
        batches = iter(self.loader)
        self.seconds += time.perf_counter() - start
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.seconds += time.perf_counter() - start
            if batch is None:
                return
            yield batch


def trainer(workload: Workload, dataset) -> DartsTrainer:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.001, momentum=0.9)
    return DartsTrainer(
        model,
        loss=nn.CrossEntropyLoss(),
        metrics=lambda output, target: {"acc1": (output.argmax(1) == target).float().mean().item()},
        optimizer=optimizer,
        num_epochs=1,
        dataset_train=dataset,
        dataset_valid=dataset,
        batch_size=workload.batch,
        workers=workload.workers,
        log_frequency=10,
    )


def search(workload: Workload) -> None:
    """Epochs of the trainer with its data loaders."""
    clock = Clock(workload)
    images = Images(*workload.images())
    nni = trainer(workload, images.ready() if workload.ready else images)
    waiting = [Waiting(nni.train_loader), Waiting(nni.valid_loader)]
    nni.train_loader, nni.valid_loader = waiting
    shares = []
    clock.start()
    for epoch in range(workload.warm + workload.timed):
        before = sum(loader.seconds for loader in waiting)
        nni.train_one_epoch(epoch)
        clock.first_step_done()
        clock.lap()
        shares.append((sum(loader.seconds for loader in waiting) - before) / clock.seconds[-1])
    clock.report(waiting_share=statistics.median(shares[workload.warm :]), **_where())


def steps(workload: Workload, arrays, load) -> None:
    """Steps of the trainer on one pair of batches.

    NNI's softmax has one logit more, for `none`; at -30 it has no effect. Its skip connection is always
    taken; that of jaxnas has a gate, which is open at a logit of 30.
    """
    clock = Clock(workload)
    images = Images(*workload.images())
    nni = trainer(workload, images)
    load(nni.model, arrays, source)
    _unflatten(nni.model.fc1)
    for key, alpha in nni.mutator.choices.items():
        given = torch.from_numpy(arrays[f"alphas/{key}"])
        alpha.data = torch.cat([given, torch.tensor([-30.0])])
    train, valid = (
        (torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(y)) for x, y in workload.batches()
    )
    nni.train_loader, nni.valid_loader = [train] * workload.block, [valid] * workload.block
    nni.loss = Recording(nni.loss)
    clock.start()
    for lap in range(workload.warm + workload.timed):
        nni.train_one_epoch(lap)
        clock.first_step_done()
        clock.lap()
    clock.report(losses=nni.loss.steps(), **_where())


def _where() -> dict[str, str]:
    return {"device": "cpu", "version": f"PyTorch {torch.__version__}, NNI {importlib.metadata.version('nni')}"}


class Recording:
    """A loss that records its first two steps; each step asks for the validation loss, then the training loss."""

    def __init__(self, loss):
        self.loss, self.values = loss, []

    def __call__(self, output, target):
        value = self.loss(output, target)
        if len(self.values) < 4:
            self.values.append(value.item())
        return value

    def steps(self) -> list[dict[str, float]]:
        pairs = zip(self.values[::2], self.values[1::2], strict=True)
        return [{"valid": valid, "train": train} for valid, train in pairs]


def _unflatten(layer: nn.Linear) -> None:
    """Reorders the columns of the first dense layer from pixels first to channels first."""
    layer.weight.data = layer.weight.data.reshape(-1, 4, 4, 16).permute(0, 3, 1, 2).reshape(-1, 256).contiguous()
