"""How often intervals of a mean over keys and images hold the truth, of ours and of others.

    python benchmarks/coverage.py [--draws 300] [--images 150]

Fleets are drawn from known chances (tests/fleet_world.py). Compared: the interval of our own statistics;
the percentiles of a bootstrap that weighs keys and images at once (Owen & Eckles 2012, arXiv 1106.2125);
and its standard error widened by Student's t (after Hesterberg 2015, arXiv 1411.5279).
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from fleet_world import World, themselves

from orchestrator.statistics.pairs import Pairs, mean_rate

WORLDS = {
    "as usual": World(),
    "rare": World(level=-3.5, source=0.6),
    "keys alike": World(source=0.1, target=0.1, pair=0.05),
}
KEYS = (4, 8, 16, 32)
WAYS = ("ours", "percentiles", "percentiles' error, t")


def weighed(pairs: Pairs, random: np.random.Generator, draws: int = 400) -> np.ndarray:
    """Means under weights of keys, the same as source and as target, times weights of images."""
    keys = random.exponential(1.0, (draws, len(pairs.names)))
    images = random.integers(1, pairs.hits.shape[1], draws)
    weights = keys[:, pairs.source] * keys[:, pairs.target]
    means: np.ndarray = (weights * pairs.rates[:, images].T).sum(axis=1) / weights.sum(axis=1)
    return means


def measure(world: World, keys: int, images: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """By way: the share of intervals that hold the truth, and their mean width."""
    truth, random = world.mean(), np.random.default_rng(keys)
    ends = np.empty((draws, len(WAYS), 2))
    for seed in range(draws):
        pairs = world.draw(seed, keys, images)
        ours = mean_rate(pairs, themselves(pairs)).interval()
        means = weighed(pairs, random)
        half = stats.t.ppf(0.975, keys - 1) * np.sqrt(keys / (keys - 1)) * means.std(ddof=1)
        ends[seed] = [ours[1:], np.quantile(means, [0.025, 0.975]), (ours.rate - half, ours.rate + half)]
    held = (ends[..., 0] <= truth) & (truth <= ends[..., 1])
    return held.mean(axis=0), (ends[..., 1] - ends[..., 0]).mean(axis=0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--images", type=int, default=150)
    options = parser.parse_args()
    told = Table(title=f"{options.draws} fleets each, {options.images} images: held, width in points")
    for heading in ("world", "mean", "keys", *WAYS):
        told.add_column(heading, justify="left" if heading == "world" else "right", no_wrap=True)
    for name, world in WORLDS.items():
        for keys in KEYS:
            held, width = measure(world, keys, options.images, options.draws)
            cells = [f"{share:.0%}, {100 * wide:.1f}" for share, wide in zip(held, width, strict=True)]
            told.add_row(name, f"{world.mean():.1%}", str(keys), *cells)
    Console(width=None if sys.stdout.isatty() else 120).print(told)


if __name__ == "__main__":
    main()
