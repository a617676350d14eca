"""What detection costs: a pass with judgement against the same pass alone; measuring; bytes of a class.

    python benchmarks/detection.py [--model vit_tiny_patch16_224 --size 224 --classes 10 --repeats 9]

Both sides read the same images in the same batches, in turn, in one process. Weights, images and
fingerprints are random, and every class has all of its fingerprints: what is measured does not depend on
what they show.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import timm
import torch

from orchestrator.detection.bank import DetectorBank, Side
from orchestrator.detection.examples import Examples
from orchestrator.detection.fit import Fit
from orchestrator.detection.neurons import layout_of
from orchestrator.detection.recipe import BankRecipe


def seconds(work: Callable[[], object]) -> float:
    """How long something takes."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


def full_bank(fit: Fit) -> DetectorBank:
    """A bank in which every class has as many fingerprints as may be kept."""
    proposed = fit.proposed()
    rows, count = proposed.members.shape[:2]
    zeros, ones = torch.zeros(rows, count).double(), torch.ones(rows, count).double()
    kept = torch.full((rows,), count)
    apart = torch.eye(count).repeat(rows, 1, 1)
    sides = (Side(zeros, ones, apart), Side(ones, ones, apart))
    recipe = fit.recipe
    return DetectorBank(proposed, kept, *sides, recipe.draw, recipe.batch, rule=recipe.rule)


def measure(options: argparse.Namespace) -> None:
    """Measure and print."""
    torch.manual_seed(0)
    model = timm.create_model(options.model, num_classes=options.classes).eval()
    if hasattr(model, "set_input_size"):
        model.set_input_size(img_size=options.size)
    images = torch.rand(options.images, 3, options.size, options.size)
    layout = layout_of(model, images)
    kept = BankRecipe(proposals=BankRecipe().kept, batch=32)
    fit = Fit(layout=layout, classes=options.classes, recipe=kept, seed=0, model_digest="")
    bank = full_bank(fit)
    bank = bank.calibrated(bank.read(model, images), 1, 0)

    @torch.no_grad()
    def alone() -> None:
        for some in images.split(kept.batch):
            model(some)

    pairs = [
        (seconds(alone), seconds(lambda: bank.judge(model, images, rate=0.5)))
        for _ in range(options.repeats)
    ]
    ratios = sorted(judged / passed for passed, judged in pairs)
    wide = Fit(layout=layout, classes=options.classes, recipe=BankRecipe(), seed=0, model_digest="")
    proposed, clean = wide.proposed(), Examples(images, torch.zeros(len(images), dtype=torch.int64))
    fitting = seconds(lambda: wide.measure(model, proposed, clean, "clean"))
    print(f"{options.model}, {options.size} px, {options.classes} classes, {layout.total} neurons")
    print(f"pass with judgement / pass alone: median {median(ratios):.3f} of {len(ratios)}, ", end="")
    print(f"from {ratios[0]:.3f} to {ratios[-1]:.3f}")
    print(f"measuring {wide.recipe.proposals} proposals a class / pass alone: ", end="")
    print(f"{fitting / median(passed for passed, _ in pairs):.3f}")
    bare = BankRecipe(covariance=False, rule="ratio")
    print(f"bytes of a class: {kept.state_bytes()}, without correlations {bare.state_bytes()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    for name, default in (("size", 224), ("classes", 10), ("images", 64), ("repeats", 9)):
        parser.add_argument(f"--{name}", type=int, default=default)
    measure(parser.parse_args())
