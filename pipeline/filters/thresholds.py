"""What a clip must reach to be kept; ``docs/filters.md`` shows the evidence for each."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from pipeline.errors import UserError

NO_SHARES = ("loudness", "motion")  # in dB and in grey levels; the others are shares


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Limits of the filters, by the names of their flags."""

    speech: float = 0.25
    """Largest share of time that is surely talk."""
    music: float = 0.4
    """Smallest share of time that is surely music or singing."""
    loudness: float = -50.0
    """Smallest RMS, dB of full scale."""
    silence: float = 0.5
    """Largest share of silence."""
    clipping: float = 0.05
    """Largest share of samples that clipping has piled up at one amplitude."""
    tone: float = 0.6
    """Largest share of the sound that is one steady tone and nothing else."""
    motion: float = 0.2
    """Smallest median change between successive pictures, grey levels."""
    moved: float = 0.45
    """Smallest share of time in which more moves than a zoom, pan or fade of a still."""
    black: float = 0.5
    """Largest share of black."""

    def __post_init__(self) -> None:
        """Refuse what could drop everything or nothing by a slip: NaN, or per cent for a share."""
        for name, value in vars(self).items():
            if not math.isfinite(value):
                raise UserError(f"--thresholds {name} {value}: give a number")
            if name not in NO_SHARES and not 0 <= value <= 1:
                raise UserError(f"--thresholds {name} {value:g}: give a share, from 0 to 1")

    @classmethod
    def of(cls, changes: dict[str, float]) -> Thresholds:
        """Default thresholds with changes by name.

        Raises
        ------
        UserError
            If a name is unknown.
        """
        known = [field.name for field in fields(cls)]
        for name in changes:
            if name not in known:
                raise UserError(f"--thresholds {name}: no such threshold; known are {', '.join(known)}")
        return cls(**{name: float(value) for name, value in changes.items()})
