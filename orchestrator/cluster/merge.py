"""Several streams as one: each runs in a thread of its own, and items come as they are made."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
_END = object()


def merged(streams: Sequence[Callable[[], Iterator[T]]]) -> Iterator[T]:
    """Items of all streams; an error of any is raised here, at once.

    The threads are daemons: a driver that is told to stop does not wait for a training to end. What
    they started ends with the connection to the cluster.
    """
    items: queue.SimpleQueue[tuple[object, BaseException | None]] = queue.SimpleQueue()

    def drain(stream: Callable[[], Iterator[T]]) -> None:
        try:
            for item in stream():
                items.put((item, None))
            items.put((_END, None))
        except BaseException as error:  # raised again where the items are taken
            items.put((_END, error))

    for stream in streams:
        threading.Thread(target=drain, args=(stream,), daemon=True).start()
    running = len(streams)
    while running:
        item, error = items.get()
        if error is not None:
            raise error
        if item is _END:
            running -= 1
        else:
            yield item  # type: ignore[misc]
