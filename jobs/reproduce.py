"""The paper's study as one command: Tables I and II, Fig. 4 and section IV-C, ours beside the paper's.

    python jobs/reproduce.py --preset digits
    python jobs/reproduce.py --preset imagenet --data s3://bucket/imagenet --dry-run

Runs one study a block size and seed, as jobs/proliferate.py would: the same store, the same resume. Exit
status: 0 all done; 1 some units failed (they are listed); 2 it could not be done as asked.
"""

from orchestrator.pipeline.bars import open_reporter
from orchestrator.pipeline.bill import show_bill
from orchestrator.pipeline.command import main
from orchestrator.pipeline.series import SeriesCommand, parse_series, price_series, run_series


def reproduce(command: SeriesCommand) -> int:
    """Run it to the end; the exit status."""
    if command.dry_run:
        return show_prices(command)
    reporter = open_reporter()
    ending = run_series(command, reporter)
    if ending.failures:
        reporter.say(f"{len(ending.failures)} units failed; the same command tries them again")
    reporter.say(f"beside the paper: {ending.report}")
    return 1 if ending.failures else 0


def show_prices(command: SeriesCommand) -> int:
    """Print what every study takes and what all take together; nothing is made."""
    for name, lines in price_series(command).items():
        show_bill(name, lines, command.gpu.told if name == "all" else "")
    return 0


if __name__ == "__main__":
    main(reproduce, parse_series)
