"""Bill: the price of one study, or of several that share what they can, as a table."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from orchestrator.keys.vault import VaultAt
from orchestrator.pipeline.alignment_price import gradient_line
from orchestrator.pipeline.command import Command
from orchestrator.pipeline.committee_price import committee_line
from orchestrator.pipeline.guard_price import detector_line
from orchestrator.pipeline.plan import make_plan, plan_images
from orchestrator.pipeline.price import PriceLine, price
from orchestrator.pipeline.roster import known_keys

_HEADINGS = ("stage", "done", "pending", "devices", "forwards", "backwards", "GPU-hours", "MB to store")
_WORDS = ("stage", "devices")


def price_study(command: Command) -> list[PriceLine]:
    """What a study takes; nothing is made."""
    study, store = command.study, command.open_store()
    key_ids = known_keys(study, command.vault_uri)
    plan = make_plan(study, plan_images(study), key_ids, store.uri, VaultAt(command.vault_uri))
    lines = price(plan, store, command.workers_per_model, command.gpu)
    lines += [gradient_line(plan, store, command.gpu)] if study.gradients else []
    lines += [detector_line(plan, store, command.gpu)] if study.detect else []
    return [*lines, committee_line(plan, store, command.gpu)] if study.committees else lines


def taken_over(lines: Iterable[PriceLine], stages: Sequence[str]) -> list[PriceLine]:
    """The lines of a study that takes these stages over from another one: bytes, and nothing computed."""
    free = {"forwards": 0, "backwards": 0, "gpu_hours": 0.0, "devices": "taken over"}
    return [replace(line, **free) if line.stage in stages else line for line in lines]  # type: ignore[arg-type]


def summed(lines: Iterable[PriceLine]) -> PriceLine:
    """All of them in one line."""
    every = list(lines)
    counts = ("done", "pending", "forwards", "backwards", "store_bytes")
    whole = {name: sum(getattr(line, name) for line in every) for name in counts}
    return PriceLine(stage="all", gpu_hours=sum(line.gpu_hours for line in every), **whole)


def show_bill(title: str, lines: Iterable[PriceLine], note: str = "") -> None:
    """Print lines as a table, with a note below."""
    table = Table(title=title)
    for heading in _HEADINGS:
        justify = "left" if heading in _WORDS else "right"
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for line in lines:
        calls = (f"{line.forwards:,}", f"{line.backwards:,}", _hours(line.gpu_hours))
        megabytes = f"{line.store_bytes / 1e6:,.1f}"
        table.add_row(line.stage, str(line.done), str(line.pending), line.devices, *calls, megabytes)
    # A job log has no width of its own; a narrow guess would cut the numbers.
    console = Console(width=None if Console().is_terminal else 132)
    console.print(table)
    if note:
        console.print(note, soft_wrap=True)


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 0.1 or hours == 0 else f"{hours:.1g}"
