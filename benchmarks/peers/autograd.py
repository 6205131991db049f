"""A plain loop in torch: nn.Sequential, autograd, torch.optim.SGD, batches indexed in memory."""

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.peers import BATCH, CLASSES, HIDDEN, LEARNING_RATE, Clock, splits


def train(epochs: int, replicas: int, clock: Clock) -> None:
    x, y, x_val, y_val = splits()
    model = nn.Sequential(nn.Linear(784, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    clock.start()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(BATCH):
            loss = F.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            clock.tick((model(x_val).argmax(1) == y_val).float().mean().item())
