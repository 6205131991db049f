"""A plain loop by hand, with images as rows: forward and backward as matrix products, weights changed in place."""

import torch

from benchmarks.peers import BATCH, CLASSES, HIDDEN, LEARNING_RATE, Clock, splits


def train(epochs: int, replicas: int, clock: Clock) -> None:
    x, y, x_val, y_val = splits()
    w1, b1 = torch.randn(784, HIDDEN) * (2 / 784) ** 0.5, torch.zeros(HIDDEN)
    w2, b2 = torch.randn(HIDDEN, CLASSES) * (2 / HIDDEN) ** 0.5, torch.zeros(CLASSES)
    clock.start()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(BATCH):
            xb, yb = x[rows], y[rows]
            z1 = torch.addmm(b1, xb, w1)
            a1 = z1.clamp_min(0)
            z2 = torch.addmm(b2, a1, w2)
            delta2 = z2.softmax(1)
            delta2[torch.arange(len(yb)), yb] -= 1
            delta2 /= len(yb)
            delta1 = (delta2 @ w2.T) * (z1 > 0)
            w2 -= LEARNING_RATE * (a1.T @ delta2)
            b2 -= LEARNING_RATE * delta2.sum(0)
            w1 -= LEARNING_RATE * (xb.T @ delta1)
            b1 -= LEARNING_RATE * delta1.sum(0)
        z = torch.addmm(b2, torch.addmm(b1, x_val, w1).clamp_min(0), w2)
        clock.tick((z.argmax(1) == y_val).float().mean().item())
