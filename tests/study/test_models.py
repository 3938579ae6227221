"""Models by name: shapes, that they can be stacked, and the user's own by module:factory."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from minimand.study.models import MODELS, check_model, model, summary


@pytest.mark.parametrize("name", MODELS)
def test_named_model_maps_features_to_outputs(name: str) -> None:
    assert model(name)(16, 3)(torch.randn(5, 16)).shape == (5, 3)
    assert summary(name).endswith(".")


@pytest.mark.parametrize("name", MODELS)
def test_named_model_can_be_stacked(name: str) -> None:
    """What the batched engine needs: gradients of stacked copies equal those of each copy."""
    torch.manual_seed(0)
    copies = [model(name)(16, 3).double() for _ in range(3)]
    params, buffers = torch.func.stack_module_state(copies)
    assert not buffers
    x, y = torch.randn(3, 4, 16, dtype=torch.float64), torch.randint(0, 3, (3, 4))

    def loss(p: dict, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(torch.func.functional_call(copies[0], p, (x,)), y)

    stacked = torch.func.vmap(torch.func.grad(loss))(params, x, y)
    for i, copy in enumerate(copies):
        nn.functional.cross_entropy(copy(x[i]), y[i]).backward()
        for key, parameter in copy.named_parameters():
            torch.testing.assert_close(stacked[key][i], parameter.grad)


def test_mlp_has_the_parameters_of_two_hidden_layers_of_64() -> None:
    expected = (64 * 64 + 64) + (64 * 64 + 64) + (64 * 10 + 10)
    assert sum(p.numel() for p in model("mlp")(64, 10).parameters()) == expected


def test_cnn_lays_out_channels_height_and_width() -> None:
    net = model("cnn", (3, 5, 2))(30, 4)
    picture = torch.randn(2, 3, 5, 2)
    torch.testing.assert_close(net(picture.flatten(1)), net[1:](picture))


@pytest.mark.parametrize("features", [1, 2, 30])
def test_cnn_refuses_features_that_are_no_square(features: int) -> None:
    with pytest.raises(ValueError, match=f"model 'cnn' takes pictures: .*; got {features} features"):
        model("cnn")(features, 2)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mpl", r"model must be one of mlp, linear, cnn, module:factory; got 'mpl' \(did you mean 'mlp'\?\)"),
        ("a b:c", r"model must be mlp, linear, cnn or module:factory; got 'a b:c'"),
        ("nowhere_at_all:make", r"no module 'nowhere_at_all' in .* or on the path"),
    ],
)
def test_unknown_model_is_named(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        model(name)


def test_model_that_is_no_name_and_not_callable_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="model must be a name or a factory"):
        model(3)  # type: ignore[arg-type]


NETS = """
import torch

def make(num_features, num_outputs):
    return torch.nn.Linear(num_features, num_outputs)

def number(num_features, num_outputs):
    return 3

def crooked(num_features, num_outputs):
    return torch.nn.Linear(num_features + 1, num_outputs)

def other_outputs(num_features, num_outputs):
    return torch.nn.Linear(num_features, num_outputs + 1)

size = 3
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of the user's in the working directory."""
    name = f"users_nets_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def test_factory_is_imported_from_the_working_directory(nets: str) -> None:
    assert model(f"{nets}:make")(4, 2)(torch.zeros(3, 4)).shape == (3, 2)


def test_imported_factory_works_in_a_process_started_elsewhere(nets: str, tmp_path: Path) -> None:
    blob = tmp_path / "factory.pickle"
    blob.write_bytes(pickle.dumps(model(f"{nets}:make")))
    program = f"import pickle; print(pickle.load(open({str(blob)!r}, 'rb'))(4, 2))"
    done = subprocess.run([sys.executable, "-c", program], cwd="/", capture_output=True, text=True, check=False)
    assert done.stdout.startswith("Linear(in_features=4, out_features=2"), done.stderr


@pytest.mark.parametrize(
    ("attribute", "said"),
    [("mak", "did you mean 'make'"), ("size", "size must be callable; got int")],
)
def test_factory_that_is_not_there_or_not_callable_is_named(nets: str, attribute: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        model(f"{nets}:{attribute}")


def test_error_in_the_users_module_is_told_with_its_place(nets: str, tmp_path: Path) -> None:
    (tmp_path / f"{nets}_broken.py").write_text("import math\nmath.sqroot(2)\n")
    with pytest.raises(
        ValueError, match=rf"importing {nets}_broken failed: AttributeError: .*\({nets}_broken.py, line 2\)"
    ):
        model(f"{nets}_broken:make")
    (tmp_path / f"{nets}_needs.py").write_text("import not_installed_here\n")
    with pytest.raises(
        ValueError, match=r"importing .* failed: ModuleNotFoundError: No module named 'not_installed_here'"
    ):
        model(f"{nets}_needs:make")


@pytest.mark.parametrize(
    ("attribute", "said"),
    [
        ("number", "must return a torch.nn.Module; got int"),
        ("crooked", r"model cannot take inputs of shape \(N, 4\)"),
        ("other_outputs", r"model must return outputs of shape \(N, 2\); got shape \(2, 3\)"),
    ],
)
def test_model_that_does_not_fit_the_task_is_named(nets: str, attribute: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_model(model(f"{nets}:{attribute}"), torch.zeros(5, 4), 4, 2)


def test_checking_a_model_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    check_model(model("mlp"), torch.zeros(5, 4), 4, 2)
    assert torch.equal(torch.get_rng_state(), before)
