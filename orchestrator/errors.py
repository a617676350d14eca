"""Every error we raise, drawn as one tree.

Errors a person can mend; each message says what, which, and what to do next. A job that ends in one
prints that sentence and exits with status 2.

    OrchestratorError
    ├── StudyError            a study's settings do not fit together
    ├── ThreatError           a threat that no perturbation can obey (negative ε, unknown norm)
    ├── DataError             images or labels that are missing, empty or out of range
    ├── WeightsError          weights that do not belong to the architecture they are loaded into
    ├── VaultError            a key that cannot be created, opened or recognised
    ├── StoreError            the place artifacts live in cannot be used
    │   ├── NotCommitted      nothing is recorded at this address
    │   ├── StaleArtifact     something is recorded there, made by another recipe
    │   └── DamagedArtifact   bytes differ from what was recorded
    └── ThreatViolated        an attack left its threat; a defect of the attack, never of the input
"""


def first_line(error: BaseException, length: int = 160) -> str:
    """What someone else's error says, in one line: its first, or its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:length] if lines else type(error).__name__


class OrchestratorError(Exception):
    """Something a person can mend; ``str(error)`` is the whole story in one or two sentences."""


class StudyError(OrchestratorError):
    """A study's settings do not fit together, or differ from those it was begun with."""


class ThreatError(OrchestratorError):
    """A threat that no perturbation can obey, such as a negative epsilon."""


class DataError(OrchestratorError):
    """Images or labels are missing, empty, unreadable as a whole, or out of range."""


class WeightsError(OrchestratorError):
    """Weights do not belong to the architecture they are loaded into."""


class VaultError(OrchestratorError):
    """A key cannot be created, opened or recognised."""


class StoreError(OrchestratorError):
    """The store cannot be read or written."""


class NotCommitted(StoreError):  # noqa: N818 - a state, and callers read it as one
    """No artifact is recorded at this address."""


class StaleArtifact(StoreError):  # noqa: N818
    """An artifact is recorded at this address, but another recipe made it."""


class DamagedArtifact(StoreError):  # noqa: N818
    """The bytes at this address differ from what its record says."""


class ThreatViolated(OrchestratorError):  # noqa: N818
    """An attack returned images outside its threat or outside [0, 1]."""
