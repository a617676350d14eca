"""The bench of training: both its sides start from what it prepares."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from training_scene import PREPARED, flops_per_image, prepare, scene

from orchestrator.store.local import LocalStore


def test_both_sides_find_what_is_prepared(tmp_path: Path) -> None:
    study = scene("digits", data="", images=128, keys=1, epochs=1)
    study = replace(study, base=replace(study.base, epochs=1, warmup_epochs=0.0), eval_images=40)
    assert 0 <= prepare(study, tmp_path) <= 1
    assert LocalStore(tmp_path / PREPARED).has("models/plain")
    assert (tmp_path / "plain.safetensors").stat().st_size > 0
    assert len(np.load(tmp_path / "images.npz")["train_labels"]) == 128
    whole, adapters = (flops_per_image(study, tmp_path, method) for method in ("full", "lora"))
    assert 0 < adapters < whole
