"""What rules cost: the documented table, what drivers hold, and what traced formulas touch."""

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from minimand.hyper import as_hyper
from minimand.optim import RuleOptimizer, rules, state_bytes, step_bytes
from minimand.optim.floor import COSTS

SHAPE = (1024, 4096)


@pytest.mark.parametrize("rule", rules.RULES)
def test_the_table_is_what_is_measured(rule):
    narrow = step_bytes(rule(), SHAPE, torch.bfloat16)
    measured = (state_bytes(rule(), SHAPE), step_bytes(rule(), SHAPE), narrow)
    assert measured == pytest.approx(COSTS[rule.__name__], abs=0.01)


def test_the_table_is_of_these_rules():
    assert set(COSTS) == {rule.__name__ for rule in rules.RULES}


@pytest.mark.parametrize(("shape", "dtype"), [((4, 3, 2), torch.float32), ((5,), torch.bfloat16)])
def test_an_optimizer_holds_as_much_as_is_said(shape, dtype):
    for kind in rules.RULES:
        rule = kind(window=4) if kind is rules.MFAC else kind()
        param = nn.Parameter(torch.ones(shape, dtype=dtype))
        param.grad = torch.ones(shape, dtype=dtype)
        optimizer = RuleOptimizer([param], rule)
        optimizer.step()
        held = sum(value.nbytes for value in optimizer.state[param].values())
        assert state_bytes(rule, shape, dtype) == pytest.approx(held / param.numel())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rule", [rule for rule in rules.RULES if rule.event == "element"])
def test_one_pass_is_what_the_traced_formula_touches(rule, dtype):
    """Inputs that are used, and outputs that are not the input of their name as it came, a byte for a byte."""
    rule, param = rule(), torch.ones(10, dtype=dtype)
    state = rule.init(param)
    given = {"param": param, "grad": param.clone(), **state}
    hyper = {name: as_hyper(spec.default) for name, spec in rule.hypers.items()}

    def step(given):
        update, new = rule.update(given["grad"], {name: given[name] for name in state}, given["param"], hyper)
        return {"param": given["param"] + update, **new}

    graph = make_fx(step)(given).graph
    graph.eliminate_dead_code()
    inputs = dict(zip(given, (node for node in graph.nodes if node.op == "placeholder"), strict=True))
    outputs = dict(zip(step(given), next(node for node in graph.nodes if node.op == "output").args[0], strict=True))
    written = [node for name, node in outputs.items() if inputs[name] not in node.args or "clone" not in str(node)]
    moved = [node.meta["val"] for node in (*(node for node in inputs.values() if node.users), *written)]
    entries = sum(x.numel() * x.element_size() for x in moved if x.ndim) / param.numel()
    assert step_bytes(rule, (10,), dtype) == entries


def test_states_may_be_narrower_than_they_start():
    assert step_bytes(rules.AdamW(), SHAPE, torch.bfloat16, torch.bfloat16) == 14
    assert step_bytes(rules.AdamW(), SHAPE, torch.float64) == 56


def test_parameters_that_are_no_matrix_cost_what_the_fallback_costs():
    assert step_bytes(rules.Muon(), (5,)) == step_bytes(rules.AdamW(), (5,))
    assert step_bytes(rules.Muon(), (4, 3, 2)) == step_bytes(rules.Muon(), (4, 6))
    assert step_bytes(rules.AdamP(), (5,)) == step_bytes(rules.AdamW(), (5,))


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"select": "columns"}, 12 + 16 * 0.25),
        ({"select": "rows", "density": 0.5}, 12 + 16 * 0.5),
        ({"select": "elements"}, 12 + 16 * 0.25 + 8 * 0.25),  # an index of 8 bytes an entry
        ({"free": "none"}, 18.5),
    ],
)
def test_a_share_of_the_entries_costs_its_share(options, wanted):
    assert step_bytes(rules.Frugal(**options), SHAPE) == pytest.approx(wanted, abs=0.01)


def test_kernels_that_need_a_norm_cost_a_pass_and_iterations_theirs():
    assert step_bytes(rules.LionK(kernel="l2"), SHAPE) == 28
    assert step_bytes(rules.LionK(kernel="nuclear"), SHAPE) == 20 + 4 * (2 + 3 * 4)  # 1, 3, 3, 3 steps at a time
    assert step_bytes(rules.Muon(ns_dtype=torch.float32, ns_steps=3), SHAPE) == 20 + 4 * (2 + 3)
    assert step_bytes(rules.Muon(ns_dtype=torch.float32, ns_steps=3), (8, 8)) == 20 + 4 * (2 + 3 * 3)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"shape must have at least one entry; got \(0, 3\)"):
        state_bytes(rules.SGD(), (0, 3))
    with pytest.raises(TypeError, match=r"dtype must be a floating dtype; got torch.int64"):
        step_bytes(rules.SGD(), (3,), torch.int64)
    with pytest.raises(TypeError, match="state_dtype must be a floating dtype; got 'float32'"):
        step_bytes(rules.SGD(), (3,), state_dtype="float32")
