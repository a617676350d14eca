"""Ledger: every unit is pending, running, or settled once; pure bookkeeping, tested without machines."""

from collections import deque

MAX_ATTEMPTS = 3


class Ledger:
    """Accounts for units, by id, handed to workers that may die.

    A unit whose worker dies is handed out again, up to ``max_attempts`` times: a preempted machine
    costs a retry, a unit that kills every worker it meets (a poison unit) ends as failed. An error
    the worker itself reports is settled at once: attacks are deterministic and would fail again.

    """

    def __init__(self, max_attempts: int = MAX_ATTEMPTS) -> None:
        self._pending: deque[str] = deque()
        self._attempts: dict[str, int] = {}
        self._running: set[str] = set()
        self._max_attempts = max_attempts

    def add(self, unit: str) -> None:
        """One more unit, pending.

        Raises:
            ValueError: the unit was given before; each is done once.
        """
        if unit in self._attempts:
            raise ValueError(f"{unit} was given twice; each unit is done once.")
        self._attempts[unit] = 0
        self._pending.append(unit)

    def take(self) -> str | None:
        """The next pending unit, now running; None when all are running or settled."""
        if not self._pending:
            return None
        unit = self._pending.popleft()
        self._attempts[unit] += 1
        self._running.add(unit)
        return unit

    def settle(self, unit: str) -> None:
        """The unit is done, or failed for good.

        Raises:
            ValueError: the unit is not running.
        """
        self._stop(unit)

    def lose(self, unit: str) -> bool:
        """The unit's worker died. True: it is pending again. False: it has used up its attempts.

        Raises:
            ValueError: the unit is not running.
        """
        self._stop(unit)
        if self._attempts[unit] >= self._max_attempts:
            return False
        # To the front: what was begun first ends first, and its source is still warm elsewhere.
        self._pending.appendleft(unit)
        return True

    def attempts(self, unit: str) -> int:
        """How often the unit was handed out."""
        return self._attempts[unit]

    @property
    def pending(self) -> int:
        """Units waiting for a worker."""
        return len(self._pending)

    @property
    def open(self) -> bool:
        """Whether any unit is not settled yet."""
        return bool(self._pending or self._running)

    def _stop(self, unit: str) -> None:
        if unit not in self._running:
            raise ValueError(f"{unit} is not running.")
        self._running.remove(unit)
