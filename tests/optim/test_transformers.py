"""Hugging Face's Trainer runs the driver as it runs torch's optimizers. Alone in its file: the import takes seconds."""

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from minimand import optim

STEPS = 6
OPTIONS = {"lr": 0.01, "weight_decay": 0.1}


class Regression(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))

    def forward(self, inputs, labels):
        return {"loss": nn.functional.mse_loss(self.net(inputs), labels)}


class Rows(Dataset):
    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        self.inputs, self.labels = torch.randn(16, 6, generator=generator), torch.randn(16, 3, generator=generator)

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, row):
        return {"inputs": self.inputs[row], "labels": self.labels[row]}


def trainer(folder, model, steps=STEPS, save="no", **options) -> Trainer:
    arguments = TrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=OPTIONS["lr"],
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
        logging_strategy="no",
        save_strategy=save,
        save_steps=3,
    )
    return Trainer(model, arguments, train_dataset=Rows(), **options)


def pair(kind, model):
    """An optimizer and the schedule that goes with it."""
    optimizer = kind(model.parameters(), **OPTIONS)
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)


def close(ours, theirs) -> None:
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", ["optimizers", "optimizer_cls_and_kwargs"])
def test_a_run_is_that_of_torchs_own_optimizer(tmp_path, way):
    models = []
    for kind in (optim.AdamW, torch.optim.AdamW):
        model = Regression()
        given = pair(kind, model) if way == "optimizers" else (kind, OPTIONS)
        trainer(tmp_path, model, **{way: given}).train()
        models.append(model)
    close(*models)
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), Regression().parameters(), strict=True))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [optim.AdamW, optim.Muon])
def test_a_run_goes_on_from_the_trainers_checkpoint(tmp_path, kind):
    unbroken, resumed = Regression(), Regression()
    trainer(tmp_path, unbroken, save="steps", optimizers=pair(kind, unbroken)).train()
    again = trainer(tmp_path, resumed, optimizers=pair(kind, resumed))
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert again.state.global_step == STEPS
    assert all(torch.equal(a, b) for a, b in zip(unbroken.parameters(), resumed.parameters(), strict=True))
