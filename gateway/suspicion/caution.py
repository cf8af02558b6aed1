"""What is known, and done, about requests that may kill the engine; shared by all who send any."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.suspicion.inquest import Inquest
from gateway.suspicion.solitude import Solitude
from gateway.suspicion.suspects import Suspects

__all__ = ["Caution"]


@dataclass(frozen=True, slots=True)
class Caution:
    """One service has one of each."""

    suspects: Suspects
    """Who may have killed an engine, and who did."""
    solitude: Solitude
    """Keeps others out while a suspect is inside."""
    inquest: Inquest
    """Finds out who did."""
