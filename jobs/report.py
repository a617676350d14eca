"""The report of a study, made again from its store alone: no Ray, no GPU, no keys, no data.

    python jobs/report.py --store s3://bucket/studies --name digits
    python jobs/report.py --name blocks-of-4 --against blocks-of-16

Exit status: 0 written, and its place printed; 2 there is nothing to report, and one sentence says why.
"""

from dataclasses import dataclass

from orchestrator.pipeline.command import HOME, main, reader
from orchestrator.pipeline.retell import retell
from orchestrator.store.artifacts import ArtifactStore, open_store
from orchestrator.store.uri import below


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which study."""

    store: str = f"{HOME}/store"
    """Where all studies' artifacts are: a folder, or s3://bucket/prefix with options such as ?sse=kms."""
    name: str = "digits"
    """The study."""
    against: str = ""
    """Another study of the same store, to compare it with: its differences have intervals of their own."""

    def open(self, name: str) -> ArtifactStore:
        """A study's own part of the store."""
        return open_store(below(self.store, name))


def report(options: Options) -> int:
    """Write the report of what the store holds by now."""
    other = options.open(options.against) if options.against else None
    print(f"report: {retell(options.open(options.name), other)}")
    return 0


if __name__ == "__main__":
    main(report, reader(Options, "The report of a study from its store alone."))
