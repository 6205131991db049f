"""scikit-learn's MLPClassifier: plain SGD, one `partial_fit` per epoch."""

import numpy as np
from sklearn.neural_network import MLPClassifier

from benchmarks.peers import BATCH, CLASSES, HIDDEN, LEARNING_RATE, Clock, splits


def train(epochs: int, replicas: int, clock: Clock) -> None:
    x, y, x_val, y_val = (value.numpy() for value in splits())
    model = MLPClassifier(
        (HIDDEN,), solver="sgd", alpha=0, batch_size=BATCH, learning_rate_init=LEARNING_RATE, momentum=0
    )
    clock.start()
    for _ in range(epochs):
        model.partial_fit(x, y, classes=np.arange(CLASSES))
        clock.tick(float((model.predict(x_val) == y_val).mean()))
