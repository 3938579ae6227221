"""Time of one training run: a plain PyTorch loop, BatchedTrainer replayed and compiled, and JAX (vmap, scan, jit).

An MLP 64-64-10, batches of 64, 300 steps of AdamW. The figure is seconds a trial; compilation is timed apart.
"""

from __future__ import annotations

import os
import statistics
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import optax
import torch
from measure import record
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from minimand.optim import BatchedTrainer, rules, stack_modules

STEPS, BATCH, ROWS = 300, 64, 1280


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def train(model: nn.Module, batches) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for x, y in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def plain(inputs: torch.Tensor, target: torch.Tensor) -> float:
    """The leanest loop: rows picked by index from tensors in memory."""
    model, index = network(), torch.randint(0, ROWS, (STEPS, BATCH))
    start = time.perf_counter()
    train(model, ((inputs[rows], target[rows]) for rows in index))
    return time.perf_counter() - start


def with_loader(inputs: torch.Tensor, target: torch.Tensor) -> float:
    """The tutorial's loop: a DataLoader over a TensorDataset."""
    model = network()
    loader = DataLoader(TensorDataset(inputs, target), BATCH, shuffle=True)
    start = time.perf_counter()
    for _ in range(STEPS * BATCH // ROWS):
        train(model, loader)
    return time.perf_counter() - start


def batched(inputs: torch.Tensor, target: torch.Tensor, trials: int, compile: bool):
    """A call that times ``trials`` runs together, and the seconds its first steps took to trace or compile."""
    params, call = stack_modules([network() for _ in range(trials)])

    def loss_fn(p, batch, hyper):
        return nn.functional.cross_entropy(call(p, batch[0]), batch[1])

    trainer = BatchedTrainer(loss_fn, rules.AdamW(), compile=compile)
    state = trainer.init(params, {"lr": torch.full((trials,), 1e-3)})
    index = torch.randint(0, ROWS, (trials, STEPS, BATCH))
    start = time.perf_counter()
    trainer.run(params, state, (inputs, target), index[:, :2])
    setup = time.perf_counter() - start

    def once() -> float:
        start = time.perf_counter()
        trainer.run(params, state, (inputs, target), index)
        return (time.perf_counter() - start) / trials

    return once, setup


def in_jax(inputs: torch.Tensor, target: torch.Tensor, trials: int):
    """The same by JAX: vmap over trials of a scan over steps, jitted."""
    x, y = jnp.asarray(inputs.numpy()), jnp.asarray(target.numpy())
    optimizer = optax.adamw(1e-3)

    def init(key):
        a, b = jax.random.split(key)
        return {
            "w1": jax.random.normal(a, (64, 64)) / 8,
            "b1": jnp.zeros(64),
            "w2": jax.random.normal(b, (64, 10)) / 8,
            "b2": jnp.zeros(10),
        }

    def loss(p, x, y):
        logits = jax.nn.relu(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def run(p, index):
        def step(carry, rows):
            p, state = carry
            value, grads = jax.value_and_grad(loss)(p, x[rows], y[rows])
            updates, state = optimizer.update(grads, state, p)
            return (optax.apply_updates(p, updates), state), value

        return jax.lax.scan(step, (p, optimizer.init(p)), index)[1]

    params = jax.vmap(init)(jax.random.split(jax.random.PRNGKey(0), trials))
    index = jax.random.randint(jax.random.PRNGKey(1), (trials, STEPS, BATCH), 0, ROWS)
    together = jax.jit(jax.vmap(run))
    start = time.perf_counter()
    together(params, index).block_until_ready()
    setup = time.perf_counter() - start

    def once() -> float:
        start = time.perf_counter()
        together(params, index).block_until_ready()
        return (time.perf_counter() - start) / trials

    return once, setup


def main() -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    inputs, target = torch.randn(ROWS, 64), torch.randint(0, 10, (ROWS,))
    competitors = {
        "plain loop": (lambda: plain(inputs, target), 0.0),
        "plain loop, DataLoader": (lambda: with_loader(inputs, target), 0.0),
    }
    for trials in (64, 256):
        competitors[f"minimand, {trials} trials"] = batched(inputs, target, trials, compile=False)
        competitors[f"minimand compiled, {trials} trials"] = batched(inputs, target, trials, compile=True)
        competitors[f"JAX vmap + jit, {trials} trials"] = in_jax(inputs, target, trials)
    seconds: dict[str, list[float]] = {name: [] for name in competitors}
    for _ in range(5):
        for name, (once, _) in competitors.items():
            seconds[name].append(once())
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    record(
        "trials",
        [
            {
                "run": name,
                "ms a trial": 1e3 * middle[name],
                "times as fast as the plain loop": middle["plain loop"] / middle[name],
                "as the DataLoader loop": middle["plain loop, DataLoader"] / middle[name],
                "seconds to set up": setup,
            }
            for name, (_, setup) in competitors.items()
        ],
    )


if __name__ == "__main__":
    main()
