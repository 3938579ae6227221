"""TrAct layers against ridge regression, numbers by hand and the layers that they are drop-ins for."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn

from minimand.optim import TrActConv2d, TrActLinear, tract, tract_gradient


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gradient_of(layer, x, weights):
    layer.zero_grad()
    (layer(x) * weights).sum().backward()
    assert layer.weight.grad is not None
    return layer.weight.grad


def test_golden_gradient():
    x = torch.tensor([[1.0, 2.0], [0.0, 1.0], [-1.0, 1.0]], dtype=torch.float64)
    dz = torch.tensor([[0.3], [-0.6], [0.9]], dtype=torch.float64)
    np.testing.assert_allclose(tract_gradient(dz, x, 0.1), [[-1.040770941, 0.593773165]], atol=1e-9)
    np.testing.assert_allclose(1e9 * tract_gradient(dz, x, 1e9), [[-0.6, 0.9]], atol=1e-7)  # the plain gradient


@pytest.mark.parametrize("shape", [(20, 4), (4, 20), (1, 3), (3, 1)])
def test_a_step_is_the_ridge_regression_of_the_step_that_the_activations_want(shape):
    (count, width), lam, eta = shape, 0.3, 0.05
    x, dz = drawn(count, width), drawn(count, 3, seed=1)
    ridge = Ridge(alpha=count * lam, fit_intercept=False).fit(x.numpy(), -eta * count * dz.numpy())
    np.testing.assert_allclose(-eta * tract_gradient(dz, x, lam).numpy(), ridge.coef_.reshape(3, width), atol=1e-12)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_both_forms_agree(shape):
    x, dz = drawn(*shape).numpy(), drawn(shape[0], 2, seed=1).numpy()
    b, n = shape
    primal = dz.T @ x @ np.linalg.inv(x.T @ x / b + 0.1 * np.eye(n))
    dual = dz.T @ np.linalg.inv(x @ x.T / b + 0.1 * np.eye(b)) @ x
    for form in (primal, dual):
        np.testing.assert_allclose(tract_gradient(torch.from_numpy(dz), torch.from_numpy(x), 0.1), form, atol=1e-12)


def test_with_a_small_lam_the_contrast_of_the_inputs_does_not_change_how_far_the_activations_move():
    x, dz = drawn(50, 4), drawn(50, 2, seed=1)
    moves = [scale * x @ tract_gradient(dz, scale * x, 1e-9).mT for scale in (1.0, 0.1)]
    torch.testing.assert_close(moves[0], moves[1], rtol=1e-5, atol=1e-8)


def test_a_linear_layer_gives_its_weight_tracts_gradient_and_all_else_its_own():
    plain = nn.Linear(6, 3, dtype=torch.float64)
    layer, x, weights = tract(copy.deepcopy(plain), lam=0.2), drawn(2, 4, 6), drawn(2, 4, 3, seed=1)
    ours, theirs = (x.clone().requires_grad_() for _ in range(2))
    torch.testing.assert_close(layer(ours), plain(theirs), rtol=0, atol=0)
    gradient, _ = gradient_of(layer, ours, weights), gradient_of(plain, theirs, weights)
    torch.testing.assert_close(gradient, tract_gradient(weights.reshape(8, 3), x.reshape(8, 6), 0.2))
    torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(layer.bias.grad, plain.bias.grad)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1, "dilation": 2},
        {"padding": "same", "bias": False},
        {"padding": (2, 1), "padding_mode": "circular", "stride": (1, 2)},
        {"padding": 1, "padding_mode": "reflect"},
    ],
)
def test_a_convolution_is_a_linear_layer_on_its_patches(options):
    plain = nn.Conv2d(2, 4, 3, dtype=torch.float64, **options)
    layer, x = tract(copy.deepcopy(plain), lam=0.3), drawn(3, 2, 8, 7)
    ours, theirs = (x.clone().requires_grad_() for _ in range(2))
    out = plain(theirs)
    weights = drawn(*out.shape, seed=1)
    torch.testing.assert_close(layer(ours), out)
    found, gradient = gradient_of(layer, ours, weights), gradient_of(plain, theirs, weights)
    torch.testing.assert_close(ours.grad, theirs.grad)
    # the patches, from what each entry of the kernel adds to the output
    units = torch.eye(18, dtype=torch.float64).reshape(18, 2, 3, 3)
    probe = nn.Conv2d(2, 18, 3, dtype=torch.float64, **{**options, "bias": False})
    probe.weight.data = units
    patches = probe(x).detach().movedim(1, -1).reshape(-1, 18)
    inverse = torch.linalg.inv(patches.mT @ patches / len(patches) + 0.3 * torch.eye(18, dtype=torch.float64))
    torch.testing.assert_close(found.flatten(1), gradient.flatten(1) @ inverse)


def test_one_image_without_a_batch_is_a_batch_of_one():
    layer, x = TrActConv2d(2, 3, 3), drawn(2, 6, 6, dtype=torch.float32)
    alone = gradient_of(layer, x, 1.0).clone()
    torch.testing.assert_close(gradient_of(layer, x[None], 1.0), alone)
    assert layer(x).shape == (3, 4, 4)


@pytest.mark.parametrize("plain", [nn.Linear(4, 3), nn.Conv2d(2, 3, 3, padding=1)])
def test_a_layer_shares_its_parameters_and_its_state_is_the_plain_layers(plain):
    layer = tract(plain.eval(), lam=0.7)
    assert layer.weight is plain.weight
    assert layer.bias is plain.bias
    assert not layer.training
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    type(plain)(*((4, 3) if isinstance(plain, nn.Linear) else (2, 3, 3))).load_state_dict(
        torch.load(file, weights_only=True)
    )
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(twin) == repr(layer)
        assert twin.lam == 0.7


@pytest.mark.parametrize(
    ("kind", "sizes", "shape"), [(TrActLinear, (5, 3), (7, 5)), (TrActConv2d, (2, 3, 3), (2, 2, 6, 5))]
)
def test_compiled_and_stacked_layers_give_the_same_gradients(kind, sizes, shape):
    layer, x = kind(*sizes), drawn(*shape, dtype=torch.float32)
    wanted = gradient_of(layer, x, 1.0).clone()
    gradient_of(layer, x, 1.0)
    layer.zero_grad()
    torch._dynamo.reset()
    torch.compile(lambda x: layer(x).sum(), fullgraph=True, backend="aot_eager")(x).backward()
    torch.testing.assert_close(layer.weight.grad, wanted)
    params = {name: torch.stack([p.detach(), 2 * p.detach()]) for name, p in layer.named_parameters()}
    loss = torch.func.grad(lambda params, x: torch.func.functional_call(layer, params, (x,)).sum())
    torch.testing.assert_close(
        torch.func.vmap(loss, in_dims=(0, None))(params, x)["weight"], wanted.expand(2, *wanted.shape)
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_layers_keep_the_type_and_solve_in_float32_or_wider(dtype):
    layer, x = TrActLinear(5, 3, dtype=dtype), drawn(9, 5).to(dtype)
    gradient = gradient_of(layer, x, 1.0)
    assert layer(x).dtype == gradient.dtype == dtype
    wanted = tract_gradient(torch.ones(9, 3, dtype=torch.float64), x.double(), 0.1)
    torch.testing.assert_close(gradient.double(), wanted, rtol=2 * torch.finfo(dtype).eps + 1e-6, atol=1e-5)


def test_an_activation_in_place_may_follow():
    nn.Sequential(TrActLinear(3, 2), nn.ReLU(inplace=True))(torch.ones(4, 3)).sum().backward()


def test_a_frozen_weight_gets_no_gradient():
    layer, x = TrActLinear(3, 2).requires_grad_(False), torch.ones(4, 3, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(4, 3))


def test_degenerate_batches_are_finite():
    for x in (torch.zeros(4, 3), torch.full((4, 3), 1e4), torch.zeros(0, 3), torch.ones(1, 3)):
        assert gradient_of(TrActLinear(3, 2), x, 1.0).isfinite().all(), x


def test_a_nan_in_the_inputs_is_seen():
    assert tract_gradient(torch.ones(3, 1), torch.tensor([[1.0], [torch.nan], [2.0]])).isnan().all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: TrActLinear(2, 3, lam=0.0), ValueError, r"lam must lie in \(0, inf\); got 0"),
        (lambda: TrActConv2d(4, 4, 3, groups=2), ValueError, "groups must be 1; got 2"),
        (lambda: tract(nn.Conv2d(4, 4, 3, groups=4)), ValueError, "groups must be 1; got 4"),
        (lambda: tract(nn.ReLU()), TypeError, "module must be an nn.Linear or nn.Conv2d; got ReLU"),
        (lambda: TrActLinear(2, 3)(torch.ones(4, 3)), ValueError, r"input must have shape \(..., 2\); got \(4, 3\)"),
        (lambda: TrActLinear(2, 3)(torch.ones(4, 2).long()), TypeError, "input must be a float.*; got .*int64"),
        (lambda: TrActConv2d(2, 3, 3)(torch.ones(2, 3, 5, 5)), ValueError, r"input must have .*; got \(2, 3, 5, 5\)"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
