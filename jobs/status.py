"""The state of a study, while it runs or after, from its store alone: no Ray, no GPU, no keys, no data.

    python jobs/status.py --store s3://bucket/studies --name digits
    python jobs/status.py --store s3://bucket/studies --watch 30      # every study, again and again

Nothing is written. Exit status: 0 told; 2 there is nothing to tell, and one sentence says why.
"""

import json
import time
from dataclasses import dataclass

from orchestrator.errors import StudyError
from orchestrator.pipeline.command import HOME, main, reader
from orchestrator.status.look import Watch, names_below
from orchestrator.status.page import as_values, open_console, show, show_all


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which study, and how it is told."""

    store: str = f"{HOME}/store"
    """Where all studies' artifacts are: a folder, or s3://bucket/prefix with options such as ?sse=kms."""
    name: str = ""
    """The study; all of the store where none is named."""
    json: bool = False
    """Print values for scripts, a line each time."""
    watch: float = 0.0
    """Print it again every so many seconds, until stopped."""


def status(options: Options) -> int:
    """Print the state once, or again and again."""
    watches: dict[str, Watch] = {}
    console = open_console()
    while True:
        names = [options.name] if options.name else names_below(options.store)
        if not names:
            raise StudyError(
                f"There is no study in {options.store}. Give the --store they were begun with."
            )
        watches = {name: watches.get(name) or Watch(options.store, name) for name in names}
        now = time.time()
        states = [watch.look(now, matrix=bool(options.name)) for watch in watches.values()]
        if options.json:
            values = [as_values(state) for state in states]
            print(json.dumps(values[0] if options.name else values), flush=True)
        else:
            if options.watch > 0:
                console.clear()
            show(states[0], console, now) if options.name else show_all(states, console, now)
        if options.watch <= 0:
            return 0
        time.sleep(options.watch)


if __name__ == "__main__":
    main(status, reader(Options, "The state of studies from their store alone."))
