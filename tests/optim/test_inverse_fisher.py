"""Products with the inverse Fisher matrix against the dense inverse, and M-FAC's steps against it too."""

import copy
import pickle

import numpy as np
import pytest
import torch

from minimand import optim
from minimand.optim import InverseFisher, obs_prune, rules

from .golden import fingerprint, gradient, run, weights

GRADIENTS = gradient(3, 5, 1)  # cos(1 ... 15)


def dense(gradients, damping, block_size=None):
    """The inverse by NumPy, with what lies outside the blocks struck out."""
    count, dim = gradients.shape
    fisher = damping * np.eye(dim) + gradients.numpy().T @ gradients.numpy() / count
    if block_size:
        block = np.arange(dim) // block_size
        fisher[block[:, None] != block[None]] = 0
    return np.linalg.inv(fisher)


def random_gradients(count, dim, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_golden_diagonal_and_product():
    fisher = InverseFisher(GRADIENTS, damping=0.3)
    diagonal = (2.388408605, 2.303773509, 1.958874905, 2.330566927, 2.366108613)
    product = (4.030614630, 2.390833012, 1.617581843, 2.421784681, 4.064061146)
    assert fisher.diag().tolist() == pytest.approx(diagonal, abs=1e-9)
    assert fisher.mul(torch.ones(5, dtype=torch.float64)).tolist() == pytest.approx(product, abs=1e-9)


@pytest.mark.parametrize("block_size", [None, 1, 7, 20, 50])
@pytest.mark.parametrize("count", [1, 6, 40])
def test_products_diagonal_and_columns_are_the_dense_inverses(count, block_size):
    gradients = random_gradients(count, 20)
    fisher, inverse = InverseFisher(gradients, 0.01, block_size), dense(gradients, 0.01, block_size)
    x = random_gradients(4, 20, seed=1).reshape(2, 2, 20)
    np.testing.assert_allclose(fisher.mul(x).numpy(), x.numpy() @ inverse, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(fisher.diag().numpy(), np.diag(inverse), rtol=1e-9)
    np.testing.assert_allclose(fisher.columns(torch.tensor([19, 0])).numpy(), inverse[:, [19, 0]], rtol=1e-9, atol=1e-9)


def test_a_float32_product_is_the_dense_inverses_to_float32s_rounding():
    gradients, x = random_gradients(30, 100).float(), random_gradients(1, 100, seed=1)[0].float()
    wanted = dense(gradients.double(), 1e-6) @ x.double().numpy()
    got = InverseFisher(gradients, 1e-6).mul(x).double().numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_answers_come_in_the_type_of_what_is_given(dtype):
    fisher = InverseFisher(GRADIENTS.to(dtype), damping=0.3)
    index = torch.tensor([1])
    assert fisher.diag().dtype == fisher.columns(index).dtype == dtype
    assert fisher.mul(torch.ones(5, dtype=dtype)).dtype == dtype
    assert obs_prune(torch.ones(5, dtype=dtype), fisher, 0.4).dtype == dtype


def test_gradients_all_alike_and_of_any_size_give_finite_products():
    for size in (0.0, 1e-30, 1e4, 1e30):
        gradients = torch.full((6, 3), size)
        assert InverseFisher(gradients, 1e-5).mul(torch.ones(3)).isfinite().all(), size
        assert InverseFisher(gradients, 1e-5).diag().isfinite().all(), size


def test_a_nan_among_the_gradients_is_seen():
    gradients = GRADIENTS.clone()
    gradients[1, 2] = torch.nan
    fisher = InverseFisher(gradients, 0.3)
    assert fisher.diag().isnan().all()
    assert fisher.columns(torch.tensor([0])).isnan().all()


def test_a_pickled_or_copied_inverse_answers_alike():
    fisher = InverseFisher(GRADIENTS, 0.3, block_size=2)
    for twin in (pickle.loads(pickle.dumps(fisher)), copy.deepcopy(fisher)):
        assert torch.equal(twin.diag(), fisher.diag())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f: InverseFisher(GRADIENTS[:0], 0.3), ValueError, r"gradients must .*m >= 1; got \(0, 5\)"),
        (lambda f: InverseFisher(GRADIENTS, 0.0), ValueError, r"damping must lie in \(0, inf\); got 0"),
        (lambda f: InverseFisher(GRADIENTS, 0.3, block_size=0), ValueError, "block_size must be at least 1.*got 0"),
        (lambda f: InverseFisher(GRADIENTS, 0.3, block_size=2.0), TypeError, "block_size must be an int.*got float"),
        (lambda f: f.columns(torch.tensor([5])), ValueError, r"index must lie in \[0, 5\); got \[5\]"),
        (lambda f: f.columns([0]), TypeError, "index must be an int64 tensor; got list"),
        (lambda f: obs_prune(torch.ones(4), f, 0.5), ValueError, r"weights must have .*\(5,\); got \(4,\)"),
        (lambda f: obs_prune(torch.ones(5), f, 1.5), ValueError, r"sparsity must lie in \[0, 1\]; got 1.5"),
        (lambda f: obs_prune(torch.ones(5), GRADIENTS, 0.5), TypeError, "fisher must be an InverseFisher; got Tensor"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(InverseFisher(GRADIENTS, 0.3))


# Pruning.


def test_one_weight_is_removed_where_the_quadratic_rises_least():
    # min over i of min over dw with w_i + dw_i = 0 of dw^T F dw / 2, each solved as equations with a multiplier.
    gradients, w = random_gradients(8, 6), random_gradients(1, 6, seed=2)[0]
    fisher = np.linalg.inv(dense(gradients, 0.1))
    rises, ends = [], []
    for i in range(6):
        system = np.block([[fisher, np.eye(6)[:, [i]]], [np.eye(6)[[i]], np.zeros((1, 1))]])
        move = np.linalg.solve(system, np.append(np.zeros(6), -w[i].item()))[:6]
        rises.append(move @ fisher @ move / 2)
        ends.append(w.numpy() + move)
    pruned = obs_prune(w, InverseFisher(gradients, 0.1), 1 / 6).numpy()
    assert pruned[np.argmin(rises)] == 0
    np.testing.assert_allclose(pruned, ends[np.argmin(rises)], atol=1e-10)


def test_removing_several_adds_their_moves():
    gradients, w = random_gradients(8, 6), random_gradients(1, 6, seed=2)[0]
    inverse = dense(gradients, 0.1)
    removed = np.argsort(w.numpy() ** 2 / np.diag(inverse))[:3]
    wanted = w.numpy() - sum(w[i].item() / inverse[i, i] * inverse[:, i] for i in removed)
    wanted[removed] = 0
    np.testing.assert_allclose(obs_prune(w, InverseFisher(gradients, 0.1), 0.5).numpy(), wanted, atol=1e-12)


@pytest.mark.parametrize(("sparsity", "zeros"), [(0.0, 0), (0.7, 14), (1.0, 20)])
def test_the_share_asked_for_is_zero(sparsity, zeros):
    pruned = obs_prune(random_gradients(1, 20)[0], InverseFisher(random_gradients(9, 20), 0.1), sparsity)
    assert (pruned == 0).sum() == zeros


def test_without_curvature_the_smallest_weights_go_and_the_rest_stays():
    w = weights(1, 12)[0]
    pruned = obs_prune(w, InverseFisher(torch.zeros(1, 12, dtype=torch.float64), 1.0), 0.5)
    kept = w.abs() > w.abs().median()
    assert torch.equal(pruned, torch.where(kept, w, 0))


# The rule.


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"window": 2}, (-0.067528695, 6.339417801, 0.870925655, -0.573893448)),
        ({"window": 4, "momentum": 0.9}, (-0.107137036, 6.301478351, 0.843267125, -0.553208264)),
    ],
)
def test_three_steps_of_mfac_give_the_golden_weights(options, expected):
    w = run(optim.MFAC, lr=0.1, damping=0.5, weight_decay=0.0, **options)
    assert fingerprint(w) == pytest.approx(expected, abs=1e-8)


def test_each_step_of_mfac_is_the_dense_inverses_over_its_window():
    rule, x = rules.MFAC(window=3), torch.zeros(6, dtype=torch.float64)
    hyper = {name: torch.tensor(value, dtype=torch.float64) for name, value in rule.defaults().items()}
    state, grads = rule.init(x), [gradient(1, 6, t)[0] for t in range(1, 9)]
    for t, grad in enumerate(grads):
        step, state = rule.update(grad, state, x, {**hyper, "lr": torch.tensor(1.0), "damping": torch.tensor(1e-3)})
        window = torch.zeros(3, 6, dtype=torch.float64)
        window[: min(t + 1, 3)] = torch.stack(grads[max(t - 2, 0) : t + 1])  # missing gradients are zeros
        np.testing.assert_allclose(-step.numpy(), dense(window, 1e-3) @ grad.numpy(), rtol=1e-9)
        np.testing.assert_allclose(state["gram"].numpy(), (state["window"] @ state["window"].T).numpy(), atol=1e-12)


def test_mfac_in_float32_keeps_a_damping_that_float32_inner_products_would_lose():
    rule, x = rules.MFAC(window=2), torch.zeros(50)
    hyper = {"lr": 1.0, "damping": 1e-3, "momentum": 0.0, "weight_decay": 0.0}
    hyper = {name: torch.tensor(value, dtype=torch.float64) for name, value in hyper.items()}
    first = 100 * random_gradients(1, 50)[0].float()
    second = first + 0.1 * random_gradients(1, 50, seed=1)[0].float()  # |g|^2 is 5e5, the damping times m 2e-3
    state = rule.init(x)
    for grad in (first, second):
        step, state = rule.update(grad, state, x, hyper)
    wanted = dense(torch.stack([first, second]).double(), 1e-3) @ second.double().numpy()
    np.testing.assert_allclose(-step.double().numpy(), wanted, rtol=0, atol=1e-3 * np.abs(wanted).max())


def test_mfac_steps_a_group_as_one_vector():
    joint = [torch.nn.Parameter(weights(2, 3)), torch.nn.Parameter(weights(1, 2))]
    optimizer = optim.MFAC(joint, lr=0.1, damping=0.5, window=4)
    for t in (1, 2):
        for param, part in zip(joint, gradient(1, 8, t).split([6, 2], 1), strict=True):
            param.grad = part.reshape(param.shape)
        optimizer.step()
    start = torch.cat([weights(2, 3).flatten(), weights(1, 2).flatten()])
    whole = torch.nn.Parameter(start.clone())
    single = optim.MFAC([whole], lr=0.1, damping=0.5, window=4)
    for t in (1, 2):
        whole.grad = gradient(1, 8, t)[0]
        single.step()
    torch.testing.assert_close(torch.cat([p.detach().flatten() for p in joint]), whole.detach())


def test_a_window_must_hold_a_gradient():
    with pytest.raises(ValueError, match="window must be at least 1; got 0"):
        rules.MFAC(window=0)
