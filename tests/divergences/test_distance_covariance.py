"""Distance covariance against its definition and golden numbers; the sorted and the blockwise computation."""

import importlib
import itertools
import math

import numpy as np
import pytest
import torch

import minimand.divergences.ordered_sums as ordered_sums
from minimand.divergences import (
    concatenated_distance_covariance,
    distance_correlation,
    distance_covariance,
    joint_distance_covariance,
)

MEASURES = importlib.import_module("minimand.divergences.distance_covariance")  # the package has the function

# A worked sample; its values were computed from the definitions with NumPy.
X, Y, Z = torch.tensor([[0, 1, 3, 2, 5, 4, 7], [1, 0.5, 2, 2.5, 4, 1, 0], [0, 1, 1, 0, 1, 0, 0]], dtype=torch.float64)
FAIR_BITS = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2)), dtype=torch.float64).T


def drawn(rows: int, *widths: int, seed: int = 0) -> list[torch.Tensor]:
    """Dependent variables (rows, width)."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(rows, 1, dtype=torch.float64, generator=generator)
    return [common**i + torch.randn(rows, w, dtype=torch.float64, generator=generator) for i, w in enumerate(widths)]


def centred(x: torch.Tensor, unbiased: bool) -> np.ndarray:
    """Centred distances by their definition, with the sign of the joint distance covariance."""
    points = x.numpy().reshape(len(x), -1)
    a = np.sqrt(((points[:, None] - points) ** 2).sum(-1))
    n = len(a)
    if not unbiased:
        return a.mean(0) + a.mean(1)[:, None] - a - a.mean()
    found = a.sum(0) / (n - 2) + a.sum(1)[:, None] / (n - 2) - a - a.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(found, 0)
    return found


def test_distance_covariance_has_the_golden_values():
    assert distance_covariance(X, Y, unbiased=False).item() == pytest.approx(0.46230737, abs=1e-8)
    assert distance_covariance(X, Y).item() == pytest.approx(-0.27619048, abs=1e-8)


def test_concatenated_distance_covariance_has_the_golden_values():
    assert concatenated_distance_covariance(X, [Y, Z]).item() == pytest.approx(-0.32547607, abs=1e-8)
    assert concatenated_distance_covariance(X, [Y, Z], unbiased=False).item() == pytest.approx(0.50151165, abs=1e-8)


def test_joint_distance_covariance_has_the_golden_values():
    assert joint_distance_covariance(X, Y, Z).item() == pytest.approx(-0.39047619, abs=1e-8)
    assert joint_distance_covariance(X, Y, Z, unbiased=False).item() == pytest.approx(1.01892919, abs=1e-8)
    assert joint_distance_covariance(X, Y, Z, c=0.5).item() == pytest.approx(-0.10952381, abs=1e-8)


def test_an_exclusive_or_of_fair_bits_is_seen_by_joint_measures_alone():
    first, second = FAIR_BITS
    either = (first != second).double()
    assert distance_covariance(either, first, unbiased=False).item() == pytest.approx(0.0, abs=1e-15)
    concatenated = concatenated_distance_covariance(either, [first, second], unbiased=False)
    assert concatenated.item() == pytest.approx((2 - math.sqrt(2)) / 8, abs=1e-12)
    assert joint_distance_covariance(either, first, second, unbiased=False).item() == pytest.approx(0.125, abs=1e-12)


def defined(x: torch.Tensor, y: torch.Tensor, unbiased: bool) -> float:
    """The distance covariance, squared: the centred distances' mean product."""
    n, product = len(x), centred(x, unbiased) * centred(y, unbiased)
    return float(product.sum() / (n * (n - 3)) if unbiased else product.mean())


@pytest.mark.parametrize("widths", [(1, 1), (2, 1), (3, 4)])
def test_both_estimates_are_their_definitions(widths):
    x, y = drawn(40, *widths)
    for unbiased in (False, True):
        covariance = defined(x, y, unbiased)
        assert distance_covariance(x, y, unbiased=unbiased).item() == pytest.approx(covariance, abs=1e-12)
        correlation = covariance / math.sqrt(defined(x, x, unbiased) * defined(y, y, unbiased))
        assert distance_correlation(x, y, unbiased=unbiased).item() == pytest.approx(correlation, abs=1e-12)
    root = distance_correlation(x, y, unbiased=False, squared=False).item()
    assert root**2 == pytest.approx(distance_correlation(x, y, unbiased=False).item(), abs=1e-12)


@pytest.mark.parametrize("c", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("unbiased", [False, True])
def test_joint_distance_covariance_is_its_definition(c, unbiased):
    variables = drawn(12, 1, 2, 1)
    n = len(variables[0])
    product = math.prod(centred(x, unbiased) + c for x in variables)
    expected = product.mean() - c**3
    if unbiased:
        expected = product.sum() / (n * (n - 3)) - c**3 * n / (n - 3)
    found = joint_distance_covariance(*variables, c=c, unbiased=unbiased)
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_the_joint_measure_of_two_variables_is_their_distance_covariance():
    x, y = drawn(15, 1, 2)
    expected = distance_covariance(x, y).item()
    assert joint_distance_covariance(x, y, c=3.0).item() == pytest.approx(expected, abs=1e-14)


def test_the_unbiased_estimate_is_zero_on_average_for_independent_variables():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 4000, 6, generator=generator, dtype=torch.float64)
    found = torch.vmap(distance_covariance)(x, y)
    assert abs(found.mean().item()) < 3 * found.std().item() / math.sqrt(4000)


@pytest.mark.parametrize("rows", [4, 5, 64, 101])
@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("ties", [False, True])
def test_sorting_gives_value_and_derivatives_of_all_pairs(monkeypatch, rows, unbiased, ties):
    x, y = (each[:, 0] for each in drawn(rows, 1, 1))
    if ties:
        x, y = x.round(), (2 * y).round()
    found = []
    for least in (1, rows + 1):
        monkeypatch.setattr(MEASURES, "SORTED_FROM", least)
        given = [x.clone().requires_grad_(), y.clone().requires_grad_()]
        value = distance_covariance(*given, unbiased)
        gradients = torch.autograd.grad(value, given, create_graph=True)
        (mixed,) = torch.autograd.grad(gradients[0] @ torch.arange(float(rows)).double(), given[1])
        found.append([value.detach(), *(each.detach() for each in gradients), mixed])
    for sorted_, pairs in zip(*found, strict=True):
        torch.testing.assert_close(sorted_, pairs, rtol=1e-9, atol=1e-11)


def test_sums_of_distances_are_those_of_all_pairs():
    x, y = (each[:, 0].round(decimals=1) for each in drawn(70, 1, 1))
    a, b = ((each[:, None] - each).abs() for each in (x, y))
    torch.testing.assert_close(ordered_sums.distance_sums(x), a.sum(1))
    torch.testing.assert_close(ordered_sums.distance_products(x, y), (a * b).sum())


def test_sorting_keeps_its_digits_under_a_large_offset():
    x, y = (each[:, 0] for each in drawn(300, 1, 1))
    assert distance_covariance(x + 1e6, y - 1e6).item() == pytest.approx(distance_covariance(x, y).item(), rel=1e-7)


def test_sorting_compiles_and_maps(monkeypatch):
    monkeypatch.setattr(MEASURES, "SORTED_FROM", 1)
    x, y = torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slopes = torch.func.vmap(torch.func.grad(distance_covariance))
    expected = torch.stack([torch.func.grad(distance_covariance)(*each) for each in zip(x, y, strict=True)])
    torch.testing.assert_close(slopes(x, y), expected)
    torch._dynamo.reset()
    program = torch.compile(distance_covariance, backend="eager", fullgraph=True)
    torch.testing.assert_close(program(x[0], y[0]), distance_covariance(x[0], y[0]))


def test_blocks_of_rows_change_neither_value_nor_derivatives(monkeypatch):
    found = []
    for block in (2**20, 40):
        monkeypatch.setattr(MEASURES, "BLOCK", block)
        given = [each.requires_grad_() for each in drawn(11, 2, 1, 1)]
        value = joint_distance_covariance(*given)
        gradients = torch.autograd.grad(value, given, create_graph=True)
        (second,) = torch.autograd.grad(gradients[0].square().sum(), given[1])
        value = joint_distance_covariance(*given)
        value.backward()
        found.append([value.detach(), *(each.grad for each in given), second])
    for whole, blocks in zip(*found, strict=True):
        torch.testing.assert_close(blocks, whole, rtol=1e-12, atol=1e-14)


def test_blocks_map_and_compile(monkeypatch):
    x, y = drawn(9, 2, 1)
    expected = torch.func.grad(distance_covariance)(x, y)
    monkeypatch.setattr(MEASURES, "BLOCK", 40)
    slopes = torch.func.vmap(torch.func.grad(distance_covariance), in_dims=(0, None))
    torch.testing.assert_close(slopes(x[None], y)[0], expected)
    torch._dynamo.reset()
    program = torch.compile(distance_covariance, backend="eager", fullgraph=True)
    torch.testing.assert_close(program(x, y), distance_covariance(x, y))


@pytest.mark.parametrize("width", [1, 2])
def test_coinciding_rows_have_a_finite_gradient_and_all_alike_none(width):
    x = torch.tensor([[0.0] * width, [0.0] * width, [1.0] * width, [3.0] * width], requires_grad=True)
    distance_covariance(x, x.detach().flip(0)).backward()
    assert bool(x.grad.isfinite().all())
    alike = torch.ones(6, width, requires_grad=True)
    distance_covariance(alike, torch.randn(6)).backward()
    assert torch.equal(alike.grad, torch.zeros_like(alike))


def test_a_constant_has_no_correlation():
    assert distance_correlation(torch.full((5,), 0.1), torch.arange(5.0)).item() == 0
    assert distance_correlation(torch.full((300,), 0.1), torch.arange(300.0)).item() == 0


def test_correlation_is_one_for_a_moved_scaled_and_turned_copy():
    (x,) = drawn(20, 2)
    turn = torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=torch.float64)
    assert distance_correlation(x, 3 * x @ turn + 1).item() == pytest.approx(1.0, abs=1e-12)


def test_the_root_is_of_the_estimate_that_cannot_be_negative():
    with pytest.raises(ValueError, match="squared must be True where unbiased"):
        distance_covariance(X, Y, squared=False)
    assert distance_covariance(X, Y, unbiased=False, squared=False).item() == pytest.approx(math.sqrt(0.46230737))


def test_too_few_rows_and_no_attributes_are_named():
    with pytest.raises(ValueError, match="x must have at least 4 rows where unbiased; got 3"):
        distance_covariance(X[:3], Y[:3])
    with pytest.raises(ValueError, match="attributes must hold one or more tensors; got none"):
        concatenated_distance_covariance(X, [])
