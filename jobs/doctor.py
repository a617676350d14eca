"""The doctor: looks at all a study would use, and says what is well, what is not, and what to do.

    python jobs/doctor.py --preset digits --store s3://bucket/prefix --vault aws-sm://keys
    ray job submit --working-dir . -- python jobs/doctor.py --store s3://bucket/prefix

It takes the options of jobs/proliferate.py, makes nothing of the study, and leaves nothing behind. Exit
status: 0 all is well, or nearly; 1 something would fail; 2 nothing could be looked at as asked (one
sentence says why).
"""

from collections import Counter

from rich.console import Console
from rich.text import Text

from orchestrator.checkup.doctor import Told, examine
from orchestrator.pipeline.command import Command, main, parse

COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}


def doctor(command: Command) -> int:
    """Print a line for every finding as it is made; the exit status."""
    console = Console()
    levels: Counter[str] = Counter()
    for told in examine(command):
        levels[told.finding.level] += 1
        # One line each, however long: a log that is searched by line keeps what belongs together.
        console.print(line(told), soft_wrap=True)
    console.print(f"\n{levels['ok']} well, {levels['warn']} to think about, {levels['fail']} to mend")
    return 1 if levels["fail"] else 0


def line(told: Told) -> Text:
    """A finding as it is printed."""
    probe, finding = told
    advice = f" → {finding.advice}" if finding.advice else ""
    level = (f"{finding.level:<4}", COLOURS[finding.level])
    return Text.assemble(level, f"  {probe.topic:<7}  {probe.name}: {finding.found}{advice}")


if __name__ == "__main__":
    main(doctor, parse)
