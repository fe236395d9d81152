"""Free music for the demo: some pieces of Debian's package of Wesnoth's music, and the mood that their titles tell."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from scripts.steps import StepError, run

PACKAGES = ("wesnoth-1.16-music", "wesnoth-1.18-music")  # GPL-2+; the name goes with the Debian release

MOODS: dict[str, tuple[str, ...]] = {
    "Relaxation": ("elvish-theme", "silvan_sanctuary", "traveling_minstrels", "wanderer"),
    "Sad": ("casualties_of_war", "nunc_dimittis", "the_city_falls", "the_king_is_dead"),
    "Tension": ("frantic", "siege_of_laurelmor", "suspense", "vengeful"),
}
"""Pieces whose title tells a mood, long enough for two stretches. For this demo alone: nobody listened to annotate."""

UNLABELLED = (
    "battle",
    "breaking_the_chains",
    "heroes_rite",
    "knalgan_theme",
    "knolls",
    "legends_of_the_north",
    "northern_mountains",
    "return_to_wesnoth",
)
"""Others, so that nothing which is scored was seen in pretraining."""


_INSTEAD = "use videos of your own: make demo MEDIA=folder"


def fetch_music(folder: Path) -> str:
    """Fetch the package with apt-get, as any user, and unpack what is wanted of it without installing it.

    Raises
    ------
    StepError
        Where there is no apt-get, or no such package.
    """
    wanted = [piece for pieces in (*MOODS.values(), UNLABELLED) for piece in pieces]
    if all((folder / f"{piece}.ogg").exists() for piece in wanted):
        return f"{len(wanted)} pieces, there already"
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise StepError(f"no {program} on this machine to fetch free music with; {_INSTEAD}")
    scratch = folder.with_name("download")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    package = download(scratch)
    run(["dpkg-deb", "-x", str(package), str(scratch / "unpacked")])
    found = {file.stem: file for file in (scratch / "unpacked").rglob("*.ogg")}
    if missing := [piece for piece in wanted if piece not in found]:
        raise StepError(f"{package.name} holds no {missing[0]}.ogg; {_INSTEAD}")
    folder.mkdir(exist_ok=True)
    for notice in (scratch / "unpacked").rglob("copyright"):
        notice.replace(folder / "copyright")
    for piece in wanted:
        found[piece].replace(folder / f"{piece}.ogg")
    shutil.rmtree(scratch)
    return f"{len(wanted)} pieces of {package.name.split('_')[0]}, GPL-2+"


def download(scratch: Path) -> Path:
    """Download the .deb; where the machine's package lists do not know it, fetch lists for this download alone.

    Raises
    ------
    StepError
        If neither way gives a package.
    """
    own = []
    for option, place in (("Dir::State::lists", "lists/partial"), ("Dir::Cache", "cache/archives/partial")):
        (scratch / place).mkdir(parents=True)
        own += ["-o", f"{option}={(scratch / place.split('/')[0]).resolve()}"]
    reasons: list[str] = []
    for options in ([], own):
        apt = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", *options]  # else root's apt cannot write here
        if options:
            print("   not in this machine's package lists, or they are stale; fetching lists for this download alone")
            _quietly([*apt, "update"], scratch)
        for name in PACKAGES:
            print(f"$ apt-get download {name}", flush=True)
            reasons += _quietly([*apt, "download", name], scratch)
            if packages := sorted(scratch.glob("*.deb")):
                return packages[0]
    raise StepError(f"apt-get cannot fetch {PACKAGES[0]} ({reasons[-1] if reasons else 'no reason given'}); {_INSTEAD}")


def _quietly(command: list[str], folder: Path) -> list[str]:
    """Run a command and return its complaints."""
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return [line for line in done.stderr.splitlines() if line.startswith("E: ")]
