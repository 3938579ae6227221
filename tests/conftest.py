"""What all tests share: threads, seeds and hypothesis's settings."""

import os
import random

import hypothesis
import numpy as np
import pytest
import torch

# Workers of pytest-xdist share the cores; a pool of threads each would only fight over them.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)

hypothesis.settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _seeded():
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
