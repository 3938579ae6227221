"""Calibrators in studies: fitted to validation rows, told to the test rows, scored crosswise on validation rows."""

import numpy as np
import pytest
import torch

from minimand.calibration import TemperatureScaling, fit_calibrator, nll
from minimand.study import Budget, Task, compare
from minimand.study.choices import choices, find, make_method
from minimand.study.metrics import metric
from minimand.study.training import Recipe
from tests.study.examples import blobs, job, run


def overconfident(task: Task, split: str, seed: int = 0) -> np.ndarray:
    """Probabilities of a model that is right three times in four and nearly always sure."""
    target = getattr(task, split).target.numpy()
    random = np.random.default_rng(seed)
    said = np.where(random.random(len(target)) < 0.75, target, (target + 1) % 3)
    return np.full((len(target), 3), 0.01) + 0.97 * np.eye(3)[said]


def recipe(calibrator: str, scored: str = "log_loss") -> Recipe:
    task = blobs(rows=400, scored=scored)
    return Recipe(task, make_method(task, "it", calibrator=calibrator), Budget(steps=1))


def test_test_rows_are_scored_through_a_map_fitted_to_the_validation_rows():
    mended = recipe("temperature")
    validation, test = (overconfident(mended.task, split) for split in ("validation", "test"))
    logs = [torch.from_numpy(each).log() for each in (validation, test)]
    map = fit_calibrator(TemperatureScaling(), nll, logs[0], mended.task.validation.target)
    wanted = torch.nn.functional.cross_entropy(map(logs[1]), mended.task.test.target).item()
    assert mended.score("test", test, validation) == pytest.approx(wanted, rel=1e-6)
    assert wanted < recipe("none").score("test", test, validation) - 0.1


def test_validation_rows_are_scored_through_maps_that_did_not_see_them():
    chance = recipe("isotonic")
    rows = len(chance.task.validation)
    random = np.random.default_rng(0)
    guesses = random.dirichlet(np.ones(3), rows)
    # A map that saw the labels it is scored on would beat the shares of the classes, which is all that can be known.
    assert chance.score("validation", guesses) > np.log(3) - 0.02


def test_predictions_that_are_not_finite_are_scored_as_such():
    broken = np.full((len(recipe("none").task.validation), 3), np.nan)
    assert np.isnan(recipe("temperature").score("validation", broken))


def test_engines_agree_on_calibrated_scores():
    task = blobs()
    methods = [make_method(task, "it", calibrator="vector")]
    batched, process = (run(job(task, methods, range(2)), engine) for engine in ("batched", "process"))
    for key, found in batched.items():  # a map of many numbers, fitted to few rows, magnifies rounding tenfold
        assert found.test == pytest.approx(process[key].test, rel=5e-3)
        assert found.validation == pytest.approx(process[key].validation, rel=5e-3)


def test_calibration_is_for_classes():
    assert {choice.kinds for choice in choices("calibrator")} == {("classification",)}
    with pytest.raises(ValueError, match="calibrator 'isotonic' is for classification; this task is regression"):
        find("calibrator", "isotonic", "regression")


def test_the_calibration_error_of_a_study_is_that_of_the_room():
    from minimand.calibration import expected_calibration_error

    random = np.random.default_rng(1)
    probs, target = random.dirichlet(np.ones(4), 300), random.integers(0, 4, 300)
    wanted = expected_calibration_error(torch.from_numpy(probs), torch.from_numpy(target)).item()
    assert metric("ece").score(target, probs) == pytest.approx(wanted, abs=1e-12)


def test_a_study_of_calibrators_ranks_a_mended_model_first():
    found = compare(
        blobs(scored="ece", spread=3.0),
        {"calibrator": ["none", "temperature"], "rule": "adam:lr=0.05"},
        budget=Budget(steps=150, batch_size=32, candidates=1),
        seeds=2,
        progress=False,
    )
    assert [row.name for row in found.rows] == ["temperature", "none"]
