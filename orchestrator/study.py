"""Study: one experiment, whole and frozen; every default lives here or in its part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from orchestrator.attacks import parse_attack
from orchestrator.attacks.attack import Attack
from orchestrator.attacks.pairing import Pairing, check_pairing, check_patches, pair
from orchestrator.attacks.source import Precision
from orchestrator.attacks.threat import Ladder
from orchestrator.detection.recipe import BankRecipe
from orchestrator.errors import StudyError
from orchestrator.models.backbone import Architecture
from orchestrator.models.committee import CommitteeSpec
from orchestrator.models.ensemble import EnsembleSpec
from orchestrator.models.key_transform import TransformName
from orchestrator.models.ref import Method
from orchestrator.training.recipe import Recipe

Methods = Literal["full", "lora", "both"]


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is trained, attacked and compared. Where it runs is not part of it.

    Raises:
        StudyError: a value is out of range, or two do not fit together.
        ThreatError: a threat cannot be obeyed.
    """

    name: str
    """Names the study's folder in the store; settings of a begun study cannot change under it."""
    data: str
    """The word digits, or a folder or s3:// prefix holding train and val (or test) images."""
    architecture: Architecture
    weights: str = ""
    """Plain weights to start from: pretrained (timm's), a .safetensors file (local or s3://), or nothing:
    the plain model is then trained here first."""
    n_keys: int = 4
    """Keys, keyed models and matrix rows besides plain. May grow in a later run of the same study."""
    controls: int = 0
    """Models that tell what keys are worth, so many of each kind: tuned without a key, and with a key of
    the study once more (one a key at most); beside them one rewritten for another key: it must transfer."""
    method: Methods = "full"
    """full: all weights are tuned (Ray Train); lora: adapters and head (Ray Tune); both: each key twice."""
    block_size: int = 16
    """Side M of the blocks that a key transforms, in pixels."""
    transform: TransformName = "shuffle"
    """What a key does to each block: shuffle its values, take the negative at half of its places
    (negative-positive), or encrypt 8-bit values there (ffx, which never folds into weights)."""
    attacks: tuple[str, ...] = ("apgd-ce",)
    """Attacks by name, with options if wanted, e.g. apgd-ce:steps=50 autoattack."""
    threats: tuple[str, ...] = ("linf:4/255",)
    """Norms and radii on [0, 1] pixels, e.g. linf:4/255 l2:0.5; or patch:8 (its side), colour:16/255,
    spatial:0.1 (share of the side, and of 300°). linf:1/255,2/255,4/255 is climbed in one run, each radius
    begun where the one before ended. Every attack runs under those it is made for."""
    ensembles: tuple[str, ...] = ()
    """Sources of several models beside the single ones: 4 is every four keys in slot order, plain+2 every
    two keys and the undefended model; 4@gradients takes the mean of gradients, not of logits."""
    attack_precision: Precision = "fp32"
    """In what sources run while attacked: fp32, or bf16 on GPUs. Success is judged in fp32 either way."""
    base: Recipe = field(default_factory=Recipe)
    """How the plain model is trained where no weights are given."""
    recipe: Recipe = field(default_factory=Recipe)
    """How all weights of a keyed model are tuned (method full)."""
    lora: Recipe = field(default_factory=Recipe)
    """How adapters are tuned (method lora)."""
    gradients: bool = False
    """Measure the cosine of every two models' input gradients on clean images, beside who fools whom."""
    detect: bool = False
    """Fit a detector to every key's model, and try it on the images of every source: they are kept."""
    detector: BankRecipe = field(default_factory=BankRecipe)
    """How detectors are fitted and judge."""
    fit_on: tuple[str, ...] = ()
    """Attacks, of --attacks, that detectors are fitted on; the others are unseen. None: targeted-fgsm if it
    is among them, else the first."""
    committees: tuple[str, ...] = ()
    """Services of N keyed models, of which S answer each query, drawn anew: 3of5 is every five keys in slot
    order, by the mean of three models' logits; 3of5@vote by their votes. Images of all sources are kept."""
    train_images: int = 0
    """Training images to use, spread evenly over the split; 0 is all."""
    eval_images: int = 0
    """Images to attack, spread evenly over the split; 0 is all."""
    precision: float = 0.0
    """Half-width of the intervals to reach, e.g. 0.02: images are attacked shard by shard, in random order,
    until all are that narrow (valid at every look), or there are no more. 0 attacks all images."""
    sources: int = 0
    """Keys to attack, the first ones, each tried on all others; 0 is every key. Plain and controls are
    attacked in any case."""
    shard_rows: int = 1000
    """Images per shard: the unit of attack that is lost if a worker dies."""
    crop_fraction: float = 1.0
    """Share of the shorter side that the evaluation crop keeps (timm's crop_pct)."""
    seed: int = 0
    """Everything random in the study but the keys follows from this number."""

    def __post_init__(self) -> None:
        self._check_numbers()
        size, block = self.architecture.image_size, self.block_size
        if size % block:
            raise StudyError(
                f"Blocks of {block} px do not tile images of {size} px. Choose a --block-size that "
                f"divides {size}, e.g. {_divisors(size)}."
            )
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise StudyError(f"Study name {self.name!r} cannot be a folder's name. Choose another --name.")
        if not self.attacks or not self.threats:
            raise StudyError("A study needs at least one attack and one threat (--attacks, --threats).")
        # Read once here, so that what cannot be read is refused before anything runs.
        attacks, ladders = self.parsed_attacks(), self.parsed_ladders()
        check_pairing(attacks, ladders)
        check_patches(ladders, size)
        _check_transform(attacks, self.transform)
        self.parsed_ensembles()
        _check_committees(self.parsed_committees(), self.n_keys)
        if unknown := set(self.fitted_on) - set(attacks):
            raise StudyError(
                f"Detectors cannot be fitted on {min(unknown)} (--fit-on), which is not attacked with. "
                f"Give some of {', '.join(attacks)}, or add it to --attacks."
            )

    def _check_numbers(self) -> None:
        for name, least in (("n_keys", 1), ("block_size", 1), ("shard_rows", 1)):
            if getattr(self, name) < least:
                flag = name.replace("_", "-")
                raise StudyError(f"--{flag} is {getattr(self, name)}. Give at least {least}.")
        if not 0 <= self.precision < 0.5:
            raise StudyError(f"--precision is {self.precision:g}. Give a half-width such as 0.02, or 0.")
        for name in ("controls", "sources", "train_images", "eval_images"):
            if getattr(self, name) < 0:
                flag = name.replace("_", "-")
                raise StudyError(f"--{flag} is {getattr(self, name)}. Give 0 or more.")
        if not 0 < self.crop_fraction <= 1:
            raise StudyError(f"--crop-fraction is {self.crop_fraction:g}. Give more than 0, at most 1.")

    @property
    def methods(self) -> tuple[Method, ...]:
        """The training methods of keyed models, in order."""
        return ("full", "lora") if self.method == "both" else (self.method,)

    def recipe_of(self, method: Method) -> Recipe:
        """The recipe a method follows."""
        return {"plain": self.base, "full": self.recipe, "lora": self.lora}[method]

    def parsed_attacks(self) -> dict[str, Attack]:
        """Attacks by their canonical name."""
        return dict(parse_attack(text) for text in dict.fromkeys(self.attacks))

    def parsed_ladders(self) -> tuple[Ladder, ...]:
        """Ladders of threats in the order given, each once."""
        return tuple(dict.fromkeys(Ladder.parse(text) for text in self.threats))

    def pairings(self) -> tuple[Pairing, ...]:
        """What is attacked with under which threats: every attack under all that it is made for."""
        return pair(self.parsed_attacks(), self.parsed_ladders())

    def parsed_ensembles(self) -> tuple[EnsembleSpec, ...]:
        """Ensembles in the order given, each once."""
        return tuple(dict.fromkeys(EnsembleSpec.parse(text) for text in self.ensembles))

    def parsed_committees(self) -> tuple[CommitteeSpec, ...]:
        """Committees in the order given, each once."""
        return tuple(dict.fromkeys(CommitteeSpec.parse(text) for text in self.committees))

    @property
    def keeps_images(self) -> bool:
        """Whether a later stage wants the images that attacks make."""
        return self.detect or bool(self.committees)

    @property
    def fitted_on(self) -> tuple[str, ...]:
        """Canonical names of the attacks that detectors are fitted on."""
        if self.fit_on:
            return tuple(parse_attack(text)[0] for text in dict.fromkeys(self.fit_on))
        names = list(self.parsed_attacks())
        own = [name for name in names if name.startswith("targeted-fgsm")]
        return tuple(own or names[:1])

    def fixed(self) -> dict[str, Any]:
        """Settings every artifact of a begun study shares; keys, attacks and threats may be added."""
        return {
            "architecture": self.architecture.recipe(),
            "block_size": self.block_size,
            **({"transform": self.transform} if self.transform != "shuffle" else {}),
            "seed": self.seed,
        }


def _check_committees(committees: Sequence[CommitteeSpec], keys: int) -> None:
    """Raise StudyError where there are too few keys for a committee."""
    for each in committees:
        if each.keys > keys:
            raise StudyError(
                f"A committee of {each.keys} keys (--committees) needs as many: give --n-keys {each.keys}, "
                f"or more, so that there are keys outside. There are {keys}."
            )


def _check_transform(attacks: Mapping[str, Attack], transform: TransformName) -> None:
    """Raise StudyError where an attack assumes keys of another kind."""
    unfit = [name for name, attack in attacks.items() if "shuffle" in attack.needs]
    if unfit and transform != "shuffle":
        raise StudyError(
            f"Attack {unfit[0]} is made for keys that shuffle and would say nothing of {transform}. Leave "
            f"{', '.join(unfit)} out of --attacks, or give --transform shuffle."
        )


def _divisors(size: int) -> str:
    fitting = [str(number) for number in (4, 7, 8, 14, 16, 28, 32) if size % number == 0]
    return ", ".join(fitting) or str(size)
