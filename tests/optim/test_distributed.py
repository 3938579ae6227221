"""Two processes against one: the driver under DDP and ``fully_shard``, and matrices shared out among processes."""

import pathlib
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn

from minimand import optim
from minimand.optim import DistributedOptimizer, RuleOptimizer, rules

RANKS, STEPS = 2, 3
OPTIONS = {"lr": 0.02, "weight_decay": 0.1}
RULES = {"Muon": rules.Muon(), "NorMuon": rules.NorMuon(), "Frugal": rules.Frugal(select="rows", gap=2)}
KINDS = {"every process for itself": RuleOptimizer, "shared out": DistributedOptimizer, "sharded": DistributedOptimizer}
CASES = [(how, name) for how in KINDS for name in RULES if how == "sharded" or name == "NorMuon"]
CASES += [("shared out", "Muon")]


def network() -> nn.Module:
    torch.manual_seed(0)
    # Seven rows are four and three, one row is one and none; a kernel is a matrix.
    layers = [
        nn.Conv1d(3, 4, 2),
        nn.Flatten(),
        nn.Linear(20, 7),
        nn.Tanh(),
        nn.Linear(7, 6),
        nn.Tanh(),
        nn.Linear(6, 1),
    ]
    return nn.Sequential(*layers).double()


def rows() -> torch.Tensor:
    return torch.randn(8, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def train(model, optimizer, inputs, steps=STEPS) -> None:
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
        scheduler.step()


def wrapped(how, model):
    if how != "sharded":
        return nn.parallel.DistributedDataParallel(model)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    fully_shard(model, mesh=init_device_mesh("cpu", (RANKS,)))
    return model


def whole(param) -> torch.Tensor:
    return (param.full_tensor() if hasattr(param, "full_tensor") else param).detach().clone()


def worker(rank: int, folder: pathlib.Path) -> None:
    """What each process does; it saves the parameters that it ends with, and how many bytes of state it holds."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    ends, held = {}, {}
    inputs = rows().chunk(RANKS)[rank]
    for how, name in CASES:
        model = wrapped(how, network())
        optimizer = KINDS[how](model.parameters(), RULES[name], **OPTIONS)
        train(model, optimizer, inputs)
        ends[how, name] = [whole(param) for param in model.parameters()]
        states = [value for state in optimizer.state.values() for value in state.values()]
        held[how, name] = sum(value.nbytes for value in states if value.ndim)
        if name == "NorMuon" and how != "every process for itself":
            again = DistributedOptimizer(model.parameters(), RULES[name], **OPTIONS)
            again.load_state_dict(optimizer.state_dict())
            train(model, again, inputs, 1)
            ends[how, "resumed"] = [whole(param) for param in model.parameters()]
    torch.save((ends, held), folder / f"{rank}.pt")
    dist.destroy_process_group()


PROGRAM = """
import pathlib, sys, torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
from tests.optim.test_distributed import worker
worker(int(sys.argv[2]), pathlib.Path(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def ranks(request, made_once):
    folder = made_once("ranks", lambda folder: run_ranks(folder, str(request.config.rootpath)))
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


def run_ranks(folder, root):
    call = [sys.executable, "-c", PROGRAM, root]
    running = [
        subprocess.Popen([*call, str(rank), str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in range(RANKS)
    ]
    try:
        said = [process.communicate(timeout=120)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * RANKS, "\n".join(said)


def alone(rule, resumed=False):
    model = network()
    optimizer = RuleOptimizer(model.parameters(), rule, **OPTIONS)
    train(model, optimizer, rows())
    if resumed:
        again = RuleOptimizer(model.parameters(), rule, **OPTIONS)
        again.load_state_dict(optimizer.state_dict())
        train(model, again, rows(), 1)
    states = [value for state in optimizer.state.values() for value in state.values()]
    return [param.detach() for param in model.parameters()], sum(value.nbytes for value in states if value.ndim)


@pytest.mark.parametrize(("how", "name"), CASES)
def test_two_processes_end_where_one_ends(ranks, how, name):
    wanted, _ = alone(RULES[name])
    for ends, _ in ranks:
        for got, want in zip(ends[how, name], wanted, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("how", ["shared out", "sharded"])
def test_each_process_goes_on_from_its_own_checkpoint(ranks, how):
    wanted, _ = alone(RULES["NorMuon"], resumed=True)
    for ends, _ in ranks:
        for got, want in zip(ends[how, "resumed"], wanted, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


def test_a_matrix_has_its_state_in_one_process_alone(ranks):
    _, state = alone(RULES["NorMuon"])
    assert [held["every process for itself", "NorMuon"] for _, held in ranks] == [state] * RANKS
    assert sum(held["sharded", "NorMuon"] for _, held in ranks) == state
    assert all(held["sharded", "NorMuon"] < 0.9 * state for _, held in ranks)
    assert all(held["shared out", "NorMuon"] < 0.9 * state for _, held in ranks)


def test_a_process_group_is_asked_for():
    with pytest.raises(RuntimeError, match=r"needs torch.distributed.init_process_group first"):
        DistributedOptimizer(network().parameters(), rules.Muon())


@pytest.fixture
def one_rank(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_layouts_that_are_not_rows_are_refused(one_rank):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (1,))
    columns, lines = (nn.Parameter(distribute_tensor(torch.ones(4, 4), mesh, [Shard(dim)])) for dim in (1, 0))
    with pytest.raises(ValueError, match="parameters must be sharded by rows over one dimension of a mesh; got"):
        DistributedOptimizer([columns], rules.Muon())
    with pytest.raises(ValueError, match="AdaGradNorm takes a group as one vector, and parameters must not be sharded"):
        DistributedOptimizer([lines], rules.AdaGradNorm())


def test_one_process_is_the_plain_driver(one_rank):
    ends = []
    for kind in (optim.RuleOptimizer, DistributedOptimizer):
        model = network()
        train(model, kind(model.parameters(), rules.AdaGradNorm(), **OPTIONS), rows())
        ends.append(list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
