"""Curvature products, operators and diagonals against dense derivatives, exact expectations and curvlinops."""

import itertools
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minimand import optim
from minimand.optim import Composite, CurvatureOperator, diagonals, module_objective
from minimand.optim.objective import flatten, unflatten

KINDS = ("hessian", "gauss_newton", "fisher", "empirical_fisher", "gradient_covariance")
N, C = 9, 3
INPUTS = torch.randn(N, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGET = torch.arange(N) % C


def network(seed=1, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, C)).to(dtype)


def own(module):
    return {name: param.detach() for name, param in module.named_parameters()}


def each(outputs, target):
    return F.cross_entropy(outputs, target, reduction="none")


def columns(product, params):
    """A product's matrix, a column at a time."""
    eye = torch.eye(flatten(params).numel(), dtype=torch.float64)
    return torch.stack([flatten(product(unflatten(row, params))) for row in eye], 1)


@pytest.fixture(scope="module")
def dense():
    """Every matrix by loops over samples and dense first and second derivatives."""
    module = network()
    params = own(module)
    objective = module_objective(module, each, INPUTS, TARGET)
    at = flatten(params)
    slopes = torch.func.jacrev(lambda w: objective.outputs(unflatten(w, params)))(at)  # (N, C, d)
    p = objective.outputs(params).softmax(1)
    errors = p - F.one_hot(TARGET, C)
    spread = torch.stack([q.diag() - torch.outer(q, q) for q in p])
    fisher = torch.einsum("nci,nck,nkj->ij", slopes, spread, slopes) / N
    gradients = torch.einsum("ncd,nc->nd", slopes, errors).numpy()
    return {
        "hessian": torch.func.jacrev(torch.func.jacrev(lambda w: objective(unflatten(w, params))))(at).numpy(),
        "gauss_newton": fisher.numpy(),
        "fisher": fisher.numpy(),
        "empirical_fisher": gradients.T @ gradients / N,
        "gradient_covariance": np.cov(gradients.T, bias=True),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_products_are_the_dense_matrices(dense, kind):
    module = network()
    params, objective = own(module), module_objective(module, each, INPUTS, TARGET)
    products = {
        "hessian": lambda v: optim.hvp(objective, params, v),
        "gauss_newton": lambda v: optim.ggn_vp(objective, params, v),
        "fisher": lambda v: optim.fisher_vp(objective.outputs, params, v),
        "empirical_fisher": lambda v: optim.empirical_fisher_vp(objective, params, v),
        "gradient_covariance": lambda v: optim.gradient_covariance_vp(objective, params, v),
    }
    np.testing.assert_allclose(columns(products[kind], params), dense[kind], atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_an_operator_adds_up_unequal_batches_to_the_dense_matrix(dense, kind):
    data = [(INPUTS[:4], TARGET[:4]), (INPUTS[4:5], TARGET[4:5]), (INPUTS[5:], TARGET[5:])]
    operator = CurvatureOperator(network(), each, data, kind, columns=5)
    eye = torch.eye(operator.dim, dtype=torch.float64)
    np.testing.assert_allclose((operator @ eye).numpy(), dense[kind], atol=1e-14)
    np.testing.assert_allclose((operator @ eye[3]).numpy(), dense[kind][3], atol=1e-14)
    assert operator.shape == (operator.dim, operator.dim) == dense[kind].shape


def test_products_are_those_of_curvlinops():
    curvlinops = pytest.importorskip("curvlinops")
    module = network()
    data = [(INPUTS[:6], TARGET[:6]), (INPUTS[6:], TARGET[6:])]
    parameters, v = list(module.parameters()), torch.linspace(-1, 1, 27, dtype=torch.float64)
    peers = {"hessian": curvlinops.HessianLinearOperator, "gauss_newton": curvlinops.GGNLinearOperator}
    for kind, peer in {**peers, "empirical_fisher": curvlinops.EFLinearOperator}.items():
        loss = each if kind == "empirical_fisher" else nn.CrossEntropyLoss()
        wanted = peer(module, nn.CrossEntropyLoss(), parameters, data, check_deterministic=False) @ v
        found = CurvatureOperator(module, loss, data, kind) @ v  # type: ignore[arg-type]
        torch.testing.assert_close(found, wanted.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.HuberLoss()])
def test_a_loss_without_a_forward_derivative_goes_backwards_twice(loss):
    module, target = network(), torch.ones(N, C, dtype=torch.float64)
    params, objective = own(module), module_objective(module, loss, INPUTS, target)
    at = flatten(params)
    wanted = torch.func.jacrev(torch.func.jacrev(lambda w: objective(unflatten(w, params))))(at)
    torch.testing.assert_close(columns(lambda v: optim.hvp(objective, params, v), params), wanted)


def test_products_map_over_stacked_models_and_compile():
    modules = [network(seed) for seed in (1, 2)]
    stacked = {name: torch.stack([own(m)[name] for m in modules]) for name in own(modules[0])}
    objective = module_objective(modules[0], each, INPUTS, TARGET)
    for product in (optim.hvp, optim.ggn_vp, optim.empirical_fisher_vp):
        found = torch.func.vmap(lambda w, product=product: product(objective, w, w))(stacked)
        for i, module in enumerate(modules):
            alone = flatten(product(objective, own(module), own(module)))
            torch.testing.assert_close(flatten({name: part[i] for name, part in found.items()}), alone)
    compiled = torch.compile(lambda w: optim.hvp(objective, w, w), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(own(modules[1])), optim.hvp(objective, own(modules[1]), own(modules[1])))


def test_an_operator_keeps_the_weights_of_its_making_and_asks_for_some_alone(dense):
    module = network()
    operator = CurvatureOperator(module, each, [(INPUTS, TARGET)], params={"2.bias": module.get_parameter("2.bias")})
    with torch.no_grad():
        module.get_parameter("2.bias").add_(1.0)
    np.testing.assert_allclose(operator @ torch.eye(C, dtype=torch.float64), dense["hessian"][-C:, -C:], atol=1e-14)


def test_an_operators_gradient_is_that_of_the_mean_loss():
    module = network()
    operator = CurvatureOperator(module, nn.CrossEntropyLoss(), [(INPUTS[:2], TARGET[:2]), (INPUTS[2:], TARGET[2:])])
    F.cross_entropy(module(INPUTS), TARGET).backward()
    torch.testing.assert_close(
        operator.gradient(), torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    )


def test_answers_have_the_vectors_type_and_16_bits_are_no_worse_than_their_rounding():
    for dtype in (torch.float32, torch.bfloat16):
        operator = CurvatureOperator(network(dtype=dtype), each, [(INPUTS, TARGET)], "gauss_newton")
        exact = CurvatureOperator(network(dtype=dtype).double(), each, [(INPUTS, TARGET)], "gauss_newton")
        v = torch.linspace(-1, 1, operator.dim, dtype=torch.float64)
        assert (operator @ v).dtype == torch.float64
        assert (operator @ v.to(dtype)).dtype == dtype
        wanted = exact @ v
        assert (operator @ v - wanted).norm() < 10 * torch.finfo(dtype).eps * wanted.norm()


def test_a_shuffling_loader_is_fine_and_data_that_change_are_an_error():
    dataset = torch.utils.data.TensorDataset(INPUTS, TARGET)
    shuffled = torch.utils.data.DataLoader(dataset, batch_size=4, shuffle=True)
    v = torch.ones(27, dtype=torch.float64)
    operator = CurvatureOperator(network(), each, shuffled)
    torch.testing.assert_close(operator @ v, operator @ v)
    dropping = CurvatureOperator(network(), each, torch.utils.data.DataLoader(dataset, 4, shuffle=True, drop_last=True))
    with pytest.raises(ValueError, match="data must hold the same samples in every pass; got 8 that add up to"):
        [dropping @ v for _ in range(20)]


def test_an_operator_pickles():
    operator = CurvatureOperator(network(), nn.CrossEntropyLoss(), [(INPUTS, TARGET)])
    v = torch.ones(27, dtype=torch.float64)
    assert torch.equal(pickle.loads(pickle.dumps(operator)) @ v, operator @ v)


# Diagonals.


def test_hutchinson_averaged_over_all_signs_is_the_diagonal(monkeypatch):
    params = {"a": torch.tensor([0.3, -0.5, 1.1], dtype=torch.float64), "b": torch.tensor(0.7, dtype=torch.float64)}

    def loss(p):
        return (p["a"].prod() * p["b"] ** 3).sin() + p["a"].square().square().sum()

    wanted = torch.func.hessian(lambda w: loss(unflatten(w, params)))(flatten(params)).diagonal()
    draws = [torch.tensor(u, dtype=torch.float64) for u in itertools.product((-1.0, 1.0), repeat=4)]
    pieces = iter([part for u in draws for part in (u[:3], u[3])])
    monkeypatch.setattr(diagonals, "_signs", lambda like, generator: next(pieces))
    found = optim.hutchinson_diagonal(loss, params, seed=0, probes=len(draws))
    torch.testing.assert_close(flatten(found), wanted)


def test_hutchinsons_signs_are_even_and_a_function_of_the_seed():
    params = {"x": torch.zeros(4000)}
    generator = torch.Generator().manual_seed(3)
    drawn = diagonals._signs(params["x"], generator)
    assert drawn.abs().eq(1).all()
    assert drawn.mean().abs() < 0.05

    def mixed(p):
        return p["x"][0] * p["x"][1] + p["x"].square().sum()

    one, again, other = (optim.hutchinson_diagonal(mixed, {"x": torch.zeros(2)}, seed=seed)["x"] for seed in (4, 4, 5))
    assert torch.equal(one, again)
    assert set(one.tolist()) | set(other.tolist()) <= {1.0, 3.0}


def test_bartlett_averaged_over_all_labels_is_the_gauss_newton_diagonal(monkeypatch):
    weights = {"w": torch.randn(2, C, generator=torch.Generator().manual_seed(5), dtype=torch.float64)}
    x = INPUTS[:4]
    p = (x @ weights["w"]).softmax(1)
    matrix = sum(
        (torch.kron(torch.outer(a, a), q.diag() - torch.outer(q, q)) / 4 for a, q in zip(x, p, strict=True)),
        torch.zeros(()),
    )
    expected = torch.zeros(2 * C, dtype=torch.float64)
    for labels in itertools.product(range(C), repeat=4):
        chosen = torch.tensor(labels)[:, None]
        monkeypatch.setattr(torch, "multinomial", lambda *_, chosen=chosen, **__: chosen)
        found = optim.gauss_newton_bartlett_diagonal(lambda q: x @ q["w"], weights, seed=0)
        expected += p.gather(1, chosen).prod() * found["w"].flatten()
    torch.testing.assert_close(expected, matrix.diagonal())


def test_bartletts_labels_are_drawn_from_the_softmax():
    # a bias's gradient of one prediction with label 0 is p_0 - 1: its square tells how often that was drawn
    logits = {"z": torch.tensor([2.0, 0.0], dtype=torch.float64)}
    share = logits["z"].softmax(0)[0].item()
    drawn = [optim.gauss_newton_bartlett_diagonal(lambda p: p["z"], logits, seed)["z"][0].item() for seed in range(400)]
    zeros = np.isclose(drawn, (1 - share) ** 2)
    assert np.isclose(np.array(drawn)[~zeros], share**2).all()
    assert abs(zeros.mean() - share) < 0.06


@pytest.mark.parametrize("shape", [(5, C), (2, 3, C), (C,)])
def test_every_row_of_logits_is_a_prediction(shape):
    flat = {"z": torch.zeros(shape, dtype=torch.float64)}
    rows = int(np.prod(shape[:-1]))
    found = optim.gauss_newton_bartlett_diagonal(lambda p: p["z"], flat, seed=0)["z"].reshape(-1, C)
    torch.testing.assert_close(found.sort(1).values * rows, torch.tensor([[1.0, 1.0, 4.0]] * rows).double() / 9)


def test_logits_of_any_size_and_16_bits_give_finite_diagonals_in_float32():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        weights = {"w": torch.tensor([1e4, -1e4, 0.0], dtype=dtype)}
        found = optim.gauss_newton_bartlett_diagonal(lambda p: p["w"].expand(4, 3), weights, seed=0)
        assert found["w"].dtype == torch.float32
        assert found["w"].isfinite().all()
        curved = optim.hutchinson_diagonal(lambda p: p["w"].square().sum(), {"w": torch.ones(2, dtype=dtype)}, seed=0)
        assert curved["w"].dtype == torch.float32
        assert curved["w"].tolist() == [2.0, 2.0]


X = {"x": torch.ones(2)}
SQUARES = Composite(lambda p: p["x"], torch.square)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: optim.hvp(lambda p: p["x"], X, X), ValueError, r"objective must give a scalar; got shape \(2,\)"),
        (lambda: optim.hvp(SQUARES, X, {"y": X["x"]}), ValueError, r"vector must name \['x'\]; got \['y'\]"),
        (lambda: optim.hvp(SQUARES, X, {"x": torch.ones(3)}), ValueError, r"vector\['x'\] must have shape \(2,\); got"),
        (lambda: optim.hvp(SQUARES, X, {"x": torch.ones(2).double()}), TypeError, "must be torch.float32, as params"),
        (
            lambda: optim.ggn_vp(lambda p: p["x"].sum(), X, X),  # type: ignore
            TypeError,
            "objective must be a Composite.*; got function",
        ),
        (
            lambda: optim.empirical_fisher_vp(Composite(SQUARES.outputs, torch.mean), X, X),
            ValueError,
            "number a sample",
        ),
        (lambda: optim.fisher_vp(lambda p: p["x"][:0], X, X), ValueError, r"at least one prediction; got \(0,\)"),
        (lambda: optim.hutchinson_diagonal(SQUARES, X, 0, probes=0), ValueError, "probes must be at least 1; got 0"),
        (
            lambda: optim.hutchinson_diagonal(SQUARES, X, 0, probes=1.0),  # type: ignore
            TypeError,
            "probes must be an integer of at least 1; got float",
        ),
        (
            lambda: optim.gauss_newton_bartlett_diagonal(lambda p: p["x"] * torch.nan, X, 0),
            ValueError,
            "must not hold NaN",
        ),
        (
            lambda: optim.gauss_newton_bartlett_diagonal(lambda p: p["x"][:0], X, 0),
            ValueError,
            r"prediction; got \(0,\)",
        ),
        (lambda: CurvatureOperator(network(), each, [], kind="all"), ValueError, "kind must be one of 'hessian'"),  # type: ignore
        (lambda: CurvatureOperator(network(), each, iter([])), TypeError, "data must be read anew.*list_iterator"),
        (
            lambda: CurvatureOperator(network(), each, []) @ torch.ones(27),
            ValueError,
            "data must hold at least one sample",
        ),
        (
            lambda: CurvatureOperator(network(), each, []) @ torch.ones(3),
            ValueError,
            r"v must have shape \(27,\) or.*\(3,\)",
        ),
        (lambda: CurvatureOperator(network(), each, [], columns=0), ValueError, "columns must be at least 1; got 0"),
        (lambda: CurvatureOperator(network(), each, [], params={}), ValueError, "params must hold at least one tensor"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
