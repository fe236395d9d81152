"""What the paper published: Scientific Reports 11, 19834 (2021), Tables 1 to 3."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

TEST_SAMPLES = 300
"""50 a class (Fig. 9); every accuracy of Tables 1 and 2 is a whole number of 300."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A row of Table 1 or 2."""

    table: Literal[1, 2]
    network: Literal["music-video", "slow-fast"]
    mmtm: bool
    pretrained: bool
    accuracy: float
    f1: float
    roc_auc: float

    @property
    def correct(self) -> int:
        """Test samples classified rightly."""
        return round(self.accuracy * TEST_SAMPLES)


PUBLISHED = (
    Published(table=1, network="music-video", mmtm=True, pretrained=False, accuracy=0.68, f1=0.68, roc_auc=0.915),
    Published(table=1, network="music-video", mmtm=False, pretrained=False, accuracy=0.66, f1=0.64, roc_auc=0.897),
    Published(table=1, network="slow-fast", mmtm=True, pretrained=False, accuracy=0.70333, f1=0.70, roc_auc=0.919),
    Published(table=1, network="slow-fast", mmtm=False, pretrained=False, accuracy=0.63666, f1=0.63, roc_auc=0.899),
    # Table 2's rows are named "without MMTM", yet their parameter counts are of the networks with it, and the text
    # calls the MMTM essential.
    Published(table=2, network="music-video", mmtm=True, pretrained=True, accuracy=0.7033, f1=0.70, roc_auc=0.920),
    Published(table=2, network="slow-fast", mmtm=True, pretrained=True, accuracy=0.77, f1=0.77, roc_auc=0.940),
)


@dataclass(frozen=True, kw_only=True)
class Past:
    """A row of Table 3."""

    method: str
    dataset: str
    data: str
    classes: int
    score: float
    metric: Literal["accuracy", "F1"]


PAST = (
    Past(method="RNN", dataset="LastFM", data="music", classes=4, score=0.542, metric="accuracy"),
    Past(method="CNN", dataset="CAL500", data="music", classes=18, score=0.534, metric="F1"),
    Past(method="CNN", dataset="CAL500exp", data="music", classes=18, score=0.709, metric="F1"),
    Past(method="SVM", dataset="their own", data="music", classes=4, score=0.764, metric="F1"),
    Past(method="GMM", dataset="DEAP120", data="music and video", classes=8, score=0.90, metric="accuracy"),
    Past(method="CLR", dataset="CAL500", data="music and video", classes=18, score=0.744, metric="accuracy"),
    Past(method="MM", dataset="MVED_v1", data="music and video", classes=6, score=0.88, metric="F1"),
    Past(method="MVF", dataset="MVED_v2", data="music, video, faces", classes=6, score=0.73, metric="F1"),
    Past(
        method="the paper's, supervised", dataset="MVED_v2", data="music and video", classes=6, score=0.70, metric="F1"
    ),
    Past(
        method="the paper's, pretrained", dataset="MVED_v2", data="music and video", classes=6, score=0.77, metric="F1"
    ),
)


def counterpart(network: Mapping[str, Any], *, pretrained: bool) -> Published | None:
    """Return the row of a network as the paper trained it, if it did."""
    for row in PUBLISHED:
        wanted = (network.get("network"), network.get("mmtm") != "none", pretrained)
        if network.get("modality") == "both" and (row.network, row.mmtm, row.pretrained) == wanted:
            return row
    return None
