"""Protocol: in what a reproduction differs from the paper, what it leaves open, and what came out."""

from collections.abc import Sequence

from orchestrator.models.ref import PLAIN
from orchestrator.report.reproduction.published import PATCH
from orchestrator.report.reproduction.reproduced import Line, Reproduced, lines
from orchestrator.report.tables import Table
from orchestrator.report.wording import NONE, percent, threat_words
from orchestrator.statistics.estimate import Estimate

_WORDS = {"full": "Fully tuned models", "lora": "LoRA models"}


def protocol_table(found: Reproduced) -> Table:
    """Point by point: the paper, and this reproduction."""
    return Table(
        title="What differs in protocol",
        note="Not found: the copies of the paper that could be read do not show it. Table I’s rows of "
        "other architectures and of adversarial training are not run.",
        header=["", "Paper", "Here"],
        rows=[*_models(found), *_attacks(found)],
        words=3,
    )


def _models(found: Reproduced) -> list[list[str]]:
    sides = ", ".join(map(str, found.block_sizes))
    same = f"{sides} px, patches of {found.patch_size} px; beside those of the same share"
    return [
        [
            "Images",
            "ImageNet-1k at 224 px; 50,000 attacked",
            _here(found, "data", "image size", "images"),
        ],
        ["Plain model", "ViT-B/16, pre-trained on ImageNet-21k", _here(found, "architecture", "weights")],
        [
            "Fine-tune",
            "“settings of” the AugReg paper; epochs and rates not given",
            _here(found, "epochs (full)", "epochs (lora)"),
        ],
        [
            "LoRA",
            "patch embedding and qkv; rank not found, 16 by the count of parameters",
            _here(found, "lora rank"),
        ],
        ["Block sizes M", f"4, 8, 16 px, patches of {PATCH} px", same],
        [
            "Keys and seeds",
            "numbers not given, no intervals",
            f"{_here(found, 'keys')}; seeds: {len(found.seeds)}",
        ],
    ]


def _attacks(found: Reproduced) -> list[list[str]]:
    attacked = found.strands[0].summary.settings.get("keys attacked")
    some = f", of {attacked} keys" if attacked else ""
    return [
        [
            "Adaptive attacker",
            "one substitute model, tuned with one guessed key",
            f"every other key’s model in turn{some}; mean over pairs",
        ],
        ["Attack", "AutoAttack, standard version", _here(found, "attacks")],
        [
            "ε of ℓ∞ in Table I",
            "not found; 4/255 by the RobustBench rows beside it",
            _radii(found, "linf"),
        ],
        ["ε of ℓ2 in Table I", "not found; 0.5, 2 and 3 are all in use", _radii(found, "l2")],
        ["ε of Fig. 4", "not found", _here(found, "threats")],
    ]


def _here(found: Reproduced, *names: str) -> str:
    """Settings of this reproduction, which all its studies share."""
    settings = found.strands[0].summary.settings
    return "; ".join(f"{name}: {settings[name]}" for name in names if name in settings) or NONE


def _radii(found: Reproduced, norm: str) -> str:
    radii = dict.fromkeys(threat_words(p).rsplit(" ", 1)[1] for p in found.budgets if p.norm == norm)
    return ", ".join(radii) or NONE


def outcome(found: Reproduced) -> str:
    """What Table I came to under its ℓ∞ threat, ours and the paper's, in a paragraph."""
    if not found.budgets:
        return "Nothing was attacked under the threats of Table I."
    budget = found.budgets[0]
    rows = lines(found, budget)
    plain = next(row for row in rows if row.method == PLAIN)
    told = [
        f"Under {budget.attack}, {threat_words(budget)}, the plain model reads "
        f"{percent(plain.non_adaptive.value)} % right (paper: {plain.paper_robust[0]:.1f} %)."
    ]
    for method in found.methods:
        mine = [row for row in rows if row.method == method]
        ours = [_span([row.non_adaptive for row in mine]), _span([row.adaptive for row in mine])]
        told.append(
            f"{_WORDS[method]} keep {ours[0]} when attacked through plain (paper: {_printed(mine, 0)}) and "
            f"{ours[1]} through another key’s model (paper: {_printed(mine, 1)})."
        )
    return " ".join(told)


def _span(estimates: Sequence[Estimate]) -> str:
    values = [each.value for each in estimates if each.value == each.value]
    return _from_to(percent(min(values)), percent(max(values))) if values else NONE


def _printed(rows: Sequence[Line], place: int) -> str:
    values = [row.paper_robust[place] for row in rows if row.paper_robust[place] == row.paper_robust[place]]
    return _from_to(f"{min(values):.1f}", f"{max(values):.1f}") if values else NONE


def _from_to(low: str, high: str) -> str:
    return f"{low} %" if low == high else f"{low} to {high} %"
