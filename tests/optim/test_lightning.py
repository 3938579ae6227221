"""Lightning's Trainer runs the driver as it runs torch's optimizers. Alone in its file: the import takes seconds."""

import logging
import warnings

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from minimand import optim


class Regression(lightning.LightningModule):
    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
        self.kind = kind

    def training_step(self, batch, index):
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        optimizer = self.kind(self.net.parameters(), lr=0.01, weight_decay=0.1)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=13)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def batches() -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    rows = TensorDataset(torch.randn(16, 6, generator=generator), torch.randn(16, 3, generator=generator))
    return DataLoader(rows, 4)


def fit(kind, folder, epochs, checkpoint=None, **options):
    """The trained module and its trainer, without a word said or a file written."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = lightning.Trainer(accelerator="cpu", max_epochs=epochs, default_root_dir=folder, **quiet, **options)
    module = Regression(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of workers that the loader might have, and of libraries' own imports
        trainer.fit(module, batches(), ckpt_path=checkpoint)
    return module, trainer


def test_a_run_is_that_of_torchs_own_optimizer(tmp_path):
    (ours, _), (theirs, _) = (fit(kind, tmp_path, 2) for kind in (optim.AdamW, torch.optim.AdamW))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [optim.AdamW, optim.Muon])
def test_a_run_goes_on_from_lightnings_checkpoint(tmp_path, kind):
    unbroken, _ = fit(kind, tmp_path, 3)
    _, trainer = fit(kind, tmp_path, 1)
    trainer.save_checkpoint(tmp_path / "one.ckpt", weights_only=False)
    resumed, _ = fit(kind, tmp_path, 3, tmp_path / "one.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(unbroken.parameters(), resumed.parameters(), strict=True))


def test_accumulation_and_clipping_are_the_trainers(tmp_path):
    options = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}
    (ours, trainer), (theirs, _) = (fit(kind, tmp_path, 2, **options) for kind in (optim.AdamW, torch.optim.AdamW))
    assert trainer.global_step == 4
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
