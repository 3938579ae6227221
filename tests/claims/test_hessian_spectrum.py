"""The pieces of the claim about the Hessian's spectrum."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from minimand.claims import hessian_spectrum as claim


def test_clusters_lie_around_their_points():
    inputs, target = claim.gaussian_clusters(3, seed=0)
    assert inputs.shape == (400, 10)
    assert set(target.tolist()) == {0, 1, 2}
    for cluster in range(3):
        own = inputs[target == cluster]
        np.testing.assert_allclose(own.mean(0), 2 * np.eye(10)[cluster], atol=0.25)
        assert own.std(0).mean().item() == pytest.approx(0.7, rel=0.05)


def test_networks_are_trained_as_torch_trains_each():
    data = [claim.gaussian_clusters(2, seed) for seed in (0, 1)]
    modules = [claim.network(3, 2, seed) for seed in (0, 1)]
    found = claim.trained(modules, data, 5)
    alone = claim.network(3, 2, 1)
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.1, momentum=0.9)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(alone(data[1][0]), data[1][1]).backward()
        optimizer.step()
    for name, param in alone.named_parameters():
        torch.testing.assert_close(found[name][1], param.detach())


def test_spectra_are_those_of_the_dense_hessian():
    (seed,) = seeds = [3]
    found = claim.spectra(2, 3, seeds, steps=4)
    sample = claim.gaussian_clusters(2, seed)
    params = {name: value[0] for name, value in claim.trained([claim.network(3, 2, seed)], [sample], 4).items()}
    sizes = [value.numel() for value in params.values()]

    def loss(w):
        parts = (part.view_as(like) for part, like in zip(w.split(sizes), params.values(), strict=True))
        a, b, c, d = parts
        return F.cross_entropy((sample[0] @ a.T + b).tanh() @ c.T + d, sample[1])

    w = torch.cat([value.flatten() for value in params.values()])
    wanted = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, w))
    torch.testing.assert_close(found.values[0], wanted)
    torch.testing.assert_close(found.losses[0], loss(w))
