"""The main job: keys, shards, models, attacks, matrix, report; each made once, resumed if it exists.

    python jobs/proliferate.py --preset digits --n-keys 4
    ray job submit --working-dir . -- python jobs/proliferate.py --n-keys 32

Exit status: 0 all done; 1 some units failed (they are listed, the rest is in the report); 2 nothing
could be done as asked (one sentence says why).
"""

from rich.console import Console
from rich.table import Table

from orchestrator.keys.vault import VaultAt
from orchestrator.pipeline.bars import open_reporter
from orchestrator.pipeline.command import Command, main, parse
from orchestrator.pipeline.metered import Metered
from orchestrator.pipeline.plan import make_plan, plan_images
from orchestrator.pipeline.price import price
from orchestrator.pipeline.roster import known_keys
from orchestrator.pipeline.stages import StudyRun


def proliferate(command: Command) -> int:
    """Run the study to the end; the exit status."""
    if command.dry_run:
        return show_price(command)
    reporter, store = open_reporter(), command.open_store()
    with command.workplace() as workplace, workplace.meter() as meter:
        reporter.say(f"study {command.study.name} in {store.uri}, on {workplace.description}")
        metered = Metered(reporter, meter, command.study.name)
        run = StudyRun(command.study, store, command.vault_uri, workplace, metered, command.attacking)
        ending = run.run()
    if ending.failures:
        reporter.say(f"{len(ending.failures)} units failed; the same command tries them again")
    if ending.report:
        reporter.say(f"report: {ending.report}")
    return 1 if ending.failures else 0


def show_price(command: Command) -> int:
    """Print the plan: done, pending, devices, model calls and bytes; nothing is made."""
    store = command.open_store()
    key_ids = known_keys(command.study, command.vault_uri)
    images = plan_images(command.study)
    plan = make_plan(command.study, images, key_ids, store.uri, VaultAt(command.vault_uri))
    table = Table(title=f"{command.study.name}: what is done and what is to do")
    for heading in ("stage", "done", "pending", "devices", "forwards", "backwards", "MB to store"):
        words = heading in ("stage", "devices")
        table.add_column(heading, justify="left" if words else "right", no_wrap=True)
    for line in price(plan, store, command.workers_per_model):
        calls = (f"{line.forwards:,}", f"{line.backwards:,}")
        megabytes = f"{line.store_bytes / 1e6:,.1f}"
        table.add_row(line.stage, str(line.done), str(line.pending), line.devices, *calls, megabytes)
    # A job log has no width of its own; a narrow guess would cut the numbers.
    Console(width=None if Console().is_terminal else 120).print(table)
    return 0


if __name__ == "__main__":
    main(proliferate, parse)
