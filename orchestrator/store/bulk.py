"""Many small waits at once: a map over threads, in order, that never runs far ahead of its reader."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def in_order(function: Callable[[Item], Answer], items: Iterable[Item], threads: int) -> Iterator[Answer]:
    """``function`` of every item, in the items' order, up to ``threads`` of them computed at once.

    At most ``2 * threads`` answers wait to be taken, so memory does not grow with the number of items.
    An exception is raised in the place of its answer; items not begun by then are left out.
    """
    waiting: deque[Future[Answer]] = deque()
    rest = iter(items)
    with ThreadPoolExecutor(threads, thread_name_prefix="bulk") as pool:
        try:
            waiting.extend(pool.submit(function, item) for item in itertools.islice(rest, 2 * threads))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in itertools.islice(rest, 1))
        finally:
            for future in waiting:
                future.cancel()
