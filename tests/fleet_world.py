"""A fleet drawn from known chances: models, images and pairs differ, and the true means are known."""

from dataclasses import dataclass

import numpy as np

from orchestrator.statistics.pairs import Pairs


@dataclass(frozen=True)
class World:
    """Fooling is Bernoulli: the logit is the sum of what source, target, pair and image bring."""

    level: float = -1.7
    source: float = 0.4
    target: float = 0.4
    pair: float = 0.2
    image: float = 1.0

    def mean(self) -> float:
        """The expected rate from one key to another, over all keys and images."""
        spread = np.sqrt(self.source**2 + self.target**2 + self.pair**2 + self.image**2)
        points, weights = np.polynomial.hermite_e.hermegauss(60)
        return float(weights @ expit(self.level + spread * points) / weights.sum())

    def draw(self, seed: int, keys: int, images: int, replicates: int = 100) -> Pairs:
        """Counts of every key on every other, as counted and under redrawn images."""
        random = np.random.default_rng(seed)
        logits = (
            self.level
            + self.source * random.standard_normal((keys, 1, 1))
            + self.target * random.standard_normal((1, keys, 1))
            + self.pair * random.standard_normal((keys, keys, 1))
            + self.image * random.standard_normal((1, 1, images))
        )
        fooled = random.random(logits.shape) < expit(logits)
        source, target = np.nonzero(~np.eye(keys, dtype=bool))
        weights = np.ones((images, 1 + replicates))
        weights[:, 1:] = random.poisson(1.0, (images, replicates))
        hits = fooled[source, target].astype(float) @ weights
        trials = np.broadcast_to(weights.sum(axis=0), hits.shape)
        return Pairs([f"k-{key}" for key in range(keys)], source, target, hits, trials)


def expit(logits: np.ndarray) -> np.ndarray:
    """From log odds to a chance."""
    return 1 / (1 + np.exp(-logits))


def themselves(pairs: Pairs) -> dict[str, str]:
    """Every model in a cluster of its own."""
    return {name: name for name in pairs.names}
