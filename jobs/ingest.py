"""Images into the shards of a study, and nothing else: ImageFolder or parquet, local or s3://.

    python jobs/ingest.py --preset imagenet --data s3://bucket/imagenet --store s3://bucket/studies
    ray job submit --working-dir . -- python jobs/ingest.py --preset imagenet …

Takes the options of jobs/proliferate.py, which begins with the same step. A shard that is there is not cut
again. Images that cannot be decoded are left out and listed. Exit status: 0 done; 2 it could not be done.
"""

from rich.console import Console
from rich.table import Table

from orchestrator.pipeline.command import Command, main, parse
from orchestrator.pipeline.intake import take_in


def ingest(command: Command) -> int:
    """Cut what is not there yet, then print what each split came to and every image left out."""
    splits = take_in(command)
    table = Table(title=f"{command.study.name}: images taken in")
    for heading in ("split", "shards", "images", "left out", "MB", "images a core-second"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for each in splits:
        seen = each.images + len(each.left_out)
        pace = f"{seen / each.core_seconds:,.0f}" if each.core_seconds else "–"
        counts = (f"{each.shards:,}", f"{each.images:,}", f"{len(each.left_out):,}")
        table.add_row(each.split, *counts, f"{each.store_bytes / 1e6:,.1f}", pace)
    console = Console()
    console.print(table)
    for name in (name for each in splits for name in each.left_out):
        console.print(f"left out: {name}", soft_wrap=True, markup=False, highlight=False)
    return 0


if __name__ == "__main__":
    main(ingest, parse)
