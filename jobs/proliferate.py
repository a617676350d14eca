"""The main job: keys, shards, models, attacks, matrix, report; each made once, resumed if it exists.

    python jobs/proliferate.py --preset digits --n-keys 4
    ray job submit --working-dir . -- python jobs/proliferate.py --n-keys 32

Exit status: 0 all done; 1 some units failed (they are listed, the rest is in the report); 2 nothing
could be done as asked (one sentence says why).
"""

from orchestrator.pipeline.bars import open_reporter
from orchestrator.pipeline.bill import price_study, show_bill
from orchestrator.pipeline.command import Command, main, parse
from orchestrator.pipeline.metered import Metered
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
    """Print the plan: done, pending, devices, model calls, hours and bytes; nothing is made."""
    title = f"{command.study.name}: what is done and what is to do"
    show_bill(title, price_study(command), command.gpu.told)
    return 0


if __name__ == "__main__":
    main(proliferate, parse)
