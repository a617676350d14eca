"""One seeded stretch of randomness that leaves every global generator as it found it."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def seeded(seed: int, *, cuda: bool = False) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's global generators inside, restore them outside.

    timm's mixup and augmentation and torch's dropout draw from these; seeding each step by its own
    number makes training resumable at any epoch with the same result.
    """
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if cuda else []
    with torch.random.fork_rng(devices=devices):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
