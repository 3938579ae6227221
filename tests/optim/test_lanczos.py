"""Lanczos's iteration against golden quadratures and dense eigenvalues; densities against their own sampling law."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from minimand.optim import lanczos, outlier_count, spectral_density, top_eigenvalues

GOLDEN = torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0], dtype=torch.float64)


def symmetric(eigenvalues, seed=0):
    """A random matrix with these eigenvalues."""
    values = torch.as_tensor(eigenvalues, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))[0]
    return rotation * values @ rotation.T


def test_golden_nodes_weights_and_moments():
    found = lanczos(lambda v: GOLDEN * v, torch.ones(5, dtype=torch.float64), 3)
    assert found.nodes.tolist() == pytest.approx([1.291054900, 3.489002096, 9.990674711], abs=1e-9)
    assert found.weights.tolist() == pytest.approx([0.362882020, 0.435847706, 0.201270273], abs=1e-9)
    moments = [float(found.weights @ found.nodes**power) for power in range(6)]
    assert moments == pytest.approx([1, 4, 26, 220, 2070.8, 20260], rel=1e-12)


def test_the_basis_is_orthonormal_and_the_matrix_in_it_tridiagonal():
    matrix = symmetric(np.geomspace(1e-8, 1e4, 60))  # ends that converge early: ghosts, without reorthogonalisation
    found = lanczos(matrix.mv, torch.ones(60, dtype=torch.float64), 50)
    torch.testing.assert_close(found.basis.T @ found.basis, torch.eye(50, dtype=torch.float64), atol=1e-13, rtol=0)
    inside = (found.basis.T @ matrix @ found.basis).numpy()
    assert np.abs(np.triu(inside, 2)).max() < 1e-9
    assert (found.nodes > 9.99e3).sum() == 1
    np.testing.assert_allclose(np.linalg.eigvalsh(inside), found.nodes, atol=1e-9)


def test_a_start_that_sees_few_eigenvalues_ends_early():
    found = lanczos(lambda v: torch.tensor([1.0, 1.0, 1.0, 4.0, 4.0]) * v, torch.ones(5), 5)
    np.testing.assert_allclose(found.nodes, [1, 4], atol=1e-6)
    np.testing.assert_allclose(found.weights, [0.6, 0.4], atol=1e-6)
    for size in (0.0, 1e-30, 1e30):
        of_one = lanczos(lambda v, size=size: size * v, torch.ones(4), 3)
        np.testing.assert_allclose(of_one.nodes, [size], rtol=1e-6)


@pytest.mark.parametrize("count", [1, 4])
def test_top_eigenvalues_are_scipys_and_lie_within_their_bounds(count):
    matrix = symmetric(np.r_[-30.0, np.linspace(-1, 1, 190), 5.0, 7.0, 7.5, 20.0])
    wanted, vectors = scipy.linalg.eigh(matrix.numpy())
    found = top_eigenvalues(matrix.mv, 195, count)
    np.testing.assert_allclose(found.values, wanted[::-1][:count], atol=1e-6 * 30)
    assert (np.abs(found.values.numpy() - wanted[::-1][:count]) <= found.bounds.numpy()).all()
    np.testing.assert_allclose(np.abs((vectors[:, ::-1][:, :count] * found.vectors.numpy()).sum(0)), 1, atol=1e-6)
    assert found.steps < 60


def test_too_few_steps_show_in_the_bounds():
    matrix = symmetric(np.linspace(0, 1, 200))
    found = top_eigenvalues(matrix.mv, 200, 2, max_steps=10)
    exact = np.linalg.eigvalsh(matrix.numpy())
    for value, bound in zip(found.values.numpy(), found.bounds.numpy(), strict=True):
        assert np.abs(exact - value).min() <= bound
    assert found.bounds[0] > 1e-3


def test_repeated_eigenvalues_are_found_as_often_when_the_whole_space_is_gone_through():
    values = [3.0, 3.0, 3.0, 2.0, 2.0, 0.0, 0.0, 0.0, -1.0]
    found = top_eigenvalues(symmetric(values).mv, 9, 9, tolerance=0.0, max_steps=9)
    np.testing.assert_allclose(found.values, values, atol=1e-12)


@pytest.mark.parametrize("classes", [2, 4])
def test_a_linear_softmax_at_zero_has_each_eigenvalue_of_its_inputs_once_less_than_classes(classes):
    from minimand.optim import fisher_vp

    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = {"w": torch.zeros(3, classes, dtype=torch.float64)}

    def product(v):
        return fisher_vp(lambda p: x @ p["w"], weights, {"w": v.reshape(3, classes)})["w"].flatten()

    dim = 3 * classes
    found = top_eigenvalues(product, dim, dim, tolerance=0.0, max_steps=dim)
    inputs = np.linalg.eigvalsh((x.T @ x / 30).numpy())[::-1] / classes
    np.testing.assert_allclose(found.values, np.r_[np.repeat(inputs, classes - 1), np.zeros(3)], atol=1e-12)


def test_float32_vectors_find_eigenvalues_to_float32s_rounding():
    matrix = symmetric(np.r_[np.linspace(0, 1, 98), 4.0, 9.0]).float()
    found = top_eigenvalues(matrix.mv, 100, 2, dtype=torch.float32)
    np.testing.assert_allclose(found.values, [9, 4], rtol=1e-5)
    assert (np.abs(found.values.numpy() - [9, 4]) <= found.bounds.numpy()).all()
    assert found.vectors.dtype == torch.float32


def test_a_density_is_the_spectrums_within_its_error():
    values = np.linspace(-1, 3, 30)
    found = spectral_density(symmetric(values).mv, 30, probes=40, steps=30, grid=100, width=0.3)
    exact = np.exp(-(((found.grid.numpy()[:, None] - values) / 0.3) ** 2) / 2).mean(1) / (0.3 * math.sqrt(2 * math.pi))
    assert (np.abs(found.density.numpy() - exact) <= 4 * found.error.numpy()).all()
    assert found.error.max() < 0.05
    assert np.trapezoid(found.density, found.grid) == pytest.approx(1, abs=0.01)


def test_two_standard_errors_cover_the_spectrums_density_as_often_as_they_should():
    values = np.r_[np.zeros(30), np.linspace(0, 1, 8), 5.0, 6.0]
    matrix, grid = symmetric(values), torch.tensor([0.0, 0.5, 5.5], dtype=torch.float64)
    exact = np.exp(-(((grid.numpy()[:, None] - values) / 0.4) ** 2) / 2).mean(1) / (0.4 * math.sqrt(2 * math.pi))
    covered = []
    for seed in range(25):
        found = spectral_density(matrix.mv, 40, probes=12, steps=12, grid=grid, width=0.4, seed=seed)
        covered.append(np.abs(found.density.numpy() - exact) < 2.2 * found.error.numpy())  # t with 11 degrees: 95%
    assert 0.88 < np.mean(covered) < 0.995


def test_the_mean_of_a_polynomial_is_a_trace_with_its_error():
    matrix = symmetric(np.linspace(-2, 3, 30))
    found = spectral_density(matrix.mv, 30, probes=30, steps=4)
    for power in (0, 1, 3):
        exact = float(torch.linalg.matrix_power(matrix, power).trace()) / 30
        value, error = found.mean(lambda x, power=power: x**power)
        assert abs(value - exact) <= 3 * error + 1e-12
    assert found.mean(lambda x: x)[1] > 0


@pytest.mark.parametrize("size", [0.0, 1e-20, 7.0])
def test_a_matrix_with_one_eigenvalue_has_a_density(size):
    found = spectral_density(lambda v: size * v, 5, probes=2, steps=3)
    assert found.density.isfinite().all()
    assert float(found.grid[found.density.argmax()]) == pytest.approx(size, abs=found.width)


def test_outliers_are_counted_at_the_widest_gap_of_ratios():
    values = torch.tensor([[9.0, 8.0, 0.5, 0.4, 0.0], [100.0, 5.0, 4.0, 3.0, 2.0], [-1.0, -2.0, -3.0, 0.0, -1.0]])
    assert outlier_count(values, max_count=3).tolist() == [2, 1, 0]
    assert outlier_count(values.flip(-1), max_count=3).tolist() == [2, 1, 0]
    assert outlier_count(values[0]).item() == 4  # zero counts as rounding of the largest
    assert torch.func.vmap(outlier_count)(values).tolist() == [4, 1, 0]


MV = (GOLDEN * 1.0).mul
ONES = torch.ones(5, dtype=torch.float64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: lanczos(MV, ONES, 0), ValueError, "steps must be at least 1; got 0"),
        (lambda: lanczos(MV, ONES, 2.0), TypeError, "steps must be an integer of at least 1; got float"),  # type: ignore
        (lambda: lanczos(MV, 0 * ONES, 2), ValueError, "v must be finite and not zero; got length 0"),
        (lambda: lanczos(MV, torch.nan * ONES, 2), ValueError, "v must be finite and not zero; got length nan"),
        (lambda: lanczos(MV, ONES[None], 2), ValueError, r"v must have 1 dimensions; got shape \(1, 5\)"),
        (lambda: lanczos(lambda v: v[:2], ONES, 2), ValueError, r"matvec\(v\) must have v's shape \(5,\); got \(2,\)"),
        (lambda: lanczos(lambda v: v * torch.nan, ONES, 2), ValueError, r"matvec\(v\) must be finite; got NaN"),
        (lambda: top_eigenvalues(MV, 5, 6), ValueError, r"count must lie in \[1, 5\]; got 6"),
        (lambda: top_eigenvalues(MV, 5, 3, max_steps=2), ValueError, "max_steps must be at least 3; got 2"),
        (lambda: top_eigenvalues(MV, 5, tolerance=-1.0), ValueError, "tolerance must lie in"),
        (lambda: spectral_density(MV, 5, probes=1), ValueError, "probes must be at least 2.*; got 1"),
        (lambda: spectral_density(MV, 5, width=0.0), ValueError, r"width must lie in \(0, inf\); got 0"),
        (lambda: spectral_density(MV, 5, grid=0), ValueError, "grid must be at least 1; got 0"),
        (lambda: outlier_count(torch.ones(1)), ValueError, r"eigenvalues must have shape .* n >= 2; got \(1,\)"),
        (lambda: outlier_count(torch.ones(3), max_count=3), ValueError, r"max_count must lie in \[1, 2\]; got 3"),
        (lambda: outlier_count(torch.ones(3).long()), TypeError, "eigenvalues must be a floating-point tensor"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
