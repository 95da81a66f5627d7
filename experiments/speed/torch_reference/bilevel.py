"""A step of DARTS and of an ENAS child in PyTorch.

Only the gradients that a step needs are computed: those of the alphas without those of the weights, or the reverse,
which saves half of the first backward pass. Nothing waits for the device within a step.
"""

import contextlib

import torch
import torch.nn.functional as F


class Step:
    """What both have: SGD with momentum 0.9, gradients clipped to a norm of 5, as in both papers."""

    def __init__(self, model, *, lr: float, weight_decay: float, nesterov: bool, half: bool, fused: bool = True):
        self.model = model
        self.weights = list(model.parameters())
        self.lr, self.weight_decay, self.momentum = lr, weight_decay, 0.9
        # One operation for all parameters rather than several for each; the fused one does not take parameters that
        # get their first gradient later than others, as a sampled path's do.
        kind = {"fused": True} if fused else {"foreach": True}
        self.optimizer = torch.optim.SGD(
            self.weights, lr, momentum=0.9, weight_decay=weight_decay, nesterov=nesterov, **kind
        )
        self.half = half

    def loss(self, batch, arch):
        x, y = batch
        context = torch.autocast(x.device.type, torch.bfloat16) if self.half else contextlib.nullcontext()
        with context:
            logits = self.model(x, arch)
        return F.cross_entropy(logits.float(), y)

    def train(self, batch, arch):
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(batch, arch)
        loss.backward(inputs=self.weights)
        torch.nn.utils.clip_grad_norm_(self.weights, 5.0)
        self.optimizer.step()
        return loss.detach()


class Child(Step):
    """ENAS, arXiv 1802.03268: one step of the weights for a sampled architecture."""

    def __init__(self, model, archs, *, half: bool = False):
        super().__init__(model, lr=0.05, weight_decay=1e-4, nesterov=True, half=half, fused=False)
        self.archs = iter(archs)

    def __call__(self, train, valid):
        return {"train": self.train(train, next(self.archs))}


class Bilevel(Step):
    """DARTS, arXiv 1806.09055: a step of the alphas, then one of the weights.

    The second order is the paper's finite difference (equation 8), on a single model: its weights are moved
    and restored.
    """

    def __init__(self, model, alphas, *, order: int = 1, half: bool = False):
        super().__init__(model, lr=0.025, weight_decay=3e-4, nesterov=False, half=half)
        self.alphas = alphas
        self.logits = list(alphas.values())
        self.order = order
        self.arch_optimizer = torch.optim.Adam(self.logits, 3e-4, betas=(0.5, 0.999), weight_decay=1e-3)

    def __call__(self, train, valid):
        valid_loss, gradients = (self.first_order if self.order == 1 else self.second_order)(train, valid)
        for alpha, gradient in zip(self.logits, gradients, strict=True):
            alpha.grad = gradient
        self.arch_optimizer.step()
        return {"valid": valid_loss, "train": self.train(train, self.alphas)}

    def first_order(self, train, valid):
        loss = self.loss(valid, self.alphas)
        return loss.detach(), torch.autograd.grad(loss, self.logits)

    def second_order(self, train, valid, radius: float = 0.01):
        kept = [w.detach().clone() for w in self.weights]
        gradients = torch.autograd.grad(self.loss(train, self.alphas), self.weights)
        with torch.no_grad():  # the virtual step
            update = torch._foreach_add(gradients, kept, alpha=self.weight_decay)
            if self.optimizer.state:
                buffers = [self.optimizer.state[w]["momentum_buffer"] for w in self.weights]
                torch._foreach_add_(update, buffers, alpha=self.momentum)
            torch._foreach_add_(self.weights, update, alpha=-self.lr)
        loss = self.loss(valid, self.alphas)
        outer = torch.autograd.grad(loss, [*self.logits, *self.weights])
        direct, vector = outer[: len(self.logits)], outer[len(self.logits) :]
        epsilon = radius / torch.nn.utils.get_total_norm(vector)
        shift = torch._foreach_mul(vector, epsilon)
        shifted = []
        for sign in (1, -1):
            self._set(kept)
            with torch.no_grad():
                torch._foreach_add_(self.weights, shift, alpha=sign)
            shifted.append(torch.autograd.grad(self.loss(train, self.alphas), self.logits))
        self._set(kept)
        implicit = [(plus - minus) / (2 * epsilon) for plus, minus in zip(*shifted, strict=True)]
        return loss.detach(), [d - self.lr * i for d, i in zip(direct, implicit, strict=True)]

    def _set(self, values):
        with torch.no_grad():
            torch._foreach_copy_(self.weights, values)
