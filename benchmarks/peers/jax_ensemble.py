"""JAX: a jitted update with grad, vmapped over replicas if there are several."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import BATCH, CLASSES, HIDDEN, LEARNING_RATE, Clock, splits

Params = list[tuple[jax.Array, jax.Array]]


def train(epochs: int, replicas: int, clock: Clock) -> None:
    x, y, x_val, y_val = (jnp.asarray(value.numpy()) for value in splits())
    keys = jax.random.split(jax.random.key(0), replicas)
    params = jax.vmap(draw)(keys) if replicas > 1 else draw(keys[0])
    many = (lambda function: jax.vmap(function, in_axes=(0, None, None))) if replicas > 1 else lambda function: function
    update, accuracy = jax.jit(many(step)), jax.jit(many(score))
    generator = np.random.default_rng(0)
    clock.start()
    for _ in range(epochs):
        order = jnp.asarray(generator.permutation(len(x)))
        for start in range(0, len(x) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            params = update(params, x[rows], y[rows])
        clock.tick(float(accuracy(params, x_val, y_val).mean()))


def draw(key: jax.Array) -> Params:
    sizes = [784, HIDDEN, CLASSES]
    keys = jax.random.split(key, 2)
    return [
        (jax.random.normal(k, (n, m)) * jnp.sqrt(2 / n), jnp.zeros(m))
        for k, n, m in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def forward(params: Params, x: jax.Array) -> jax.Array:
    (w1, b1), (w2, b2) = params
    return jax.nn.relu(x @ w1 + b1) @ w2 + b2


def loss(params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
    log_p = jax.nn.log_softmax(forward(params, x))
    return -jnp.take_along_axis(log_p, y[:, None], axis=1).mean()


def step(params: Params, x: jax.Array, y: jax.Array) -> Params:
    return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, params, jax.grad(loss)(params, x, y))


def score(params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
    return (forward(params, x).argmax(1) == y).mean()
