"""An ensemble with torch.func: stack_module_state, functional_call, and vmap over grad. All replicas share a batch."""

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F

from benchmarks.peers import BATCH, CLASSES, HIDDEN, LEARNING_RATE, Clock, splits


def train(epochs: int, replicas: int, clock: Clock) -> None:
    x, y, x_val, y_val = splits()
    models = [nn.Sequential(nn.Linear(784, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES)) for _ in range(replicas)]
    params, buffers = stack_module_state(models)
    params = {name: value.detach() for name, value in params.items()}
    base = copy.deepcopy(models[0]).to("meta")

    def call(params: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(base, (params, buffers), (x,))

    def loss(params: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(call(params, buffers, x), y)

    gradients = vmap(grad(loss), in_dims=(0, 0, None, None))
    predict = vmap(call, in_dims=(0, 0, None))
    clock.start()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(BATCH):
            found = gradients(params, buffers, x[rows], y[rows])
            params = {name: value - LEARNING_RATE * found[name] for name, value in params.items()}
        chunks = zip(x_val.split(1000), y_val.split(1000), strict=True)
        right = [(predict(params, buffers, some).argmax(-1) == digits) for some, digits in chunks]
        clock.tick(torch.cat(right, dim=1).float().mean().item())
