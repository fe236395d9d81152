#!/usr/bin/env bash
# Make the project ready to run: ffmpeg, .venv, and in it the project with its extras. Quick when nothing changed.
#
#     make setup                             the same as scripts/setup.sh
#     PYTHON=python3.12 make setup           another Python, 3.11 or newer
#     EXTRAS=pipeline,dev make setup         a host that only crawls needs no torch (EXTRAS=trainer: no librosa)
#
# Needs no root. As root, or where sudo asks for no password, missing system packages are installed with apt-get.
set -euo pipefail
cd "$(dirname "$0")/.."

EXTRAS=${EXTRAS:-all}
STAMP=.venv/.setup      # what .venv was made of; written last
UNDERWAY=.venv/.underway  # there while pip writes: if it is found, pip was stopped half-way

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# Two set-ups of one folder take turns.
if command -v flock >/dev/null; then exec 9<"$0"; flock 9; fi

apt_install() { # package: quietly, where we may; fails where we may not or it does not work
    local become=()
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null && sudo -n true 2>/dev/null || return 1
        become=(sudo -n)
    fi
    say "installing $1 with apt-get"
    # A stale or missing list of some source need not keep apt from finding the package in another.
    "${become[@]}" apt-get update -qq >/dev/null || true
    "${become[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "$1" >/dev/null </dev/null
}

# --- Python
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

asked=${PYTHON:-}
if [ -n "$asked" ]; then
    PYTHON=$asked
    command -v "$PYTHON" >/dev/null || die "PYTHON=$PYTHON: no such program"
    is_new_enough "$PYTHON" || die "PYTHON=$PYTHON is $("$PYTHON" -V 2>&1); Python 3.11 or newer is needed"
else
    for PYTHON in python3.11 python3 python3.12 python3.13; do
        if command -v "$PYTHON" >/dev/null && is_new_enough "$PYTHON"; then break; fi
        PYTHON=
    done
    [ -n "$PYTHON" ] || die "no Python 3.11 or newer on PATH; install one, or name it: PYTHON=/path/to/python3.11 make setup"
fi

# --- ffmpeg: the system's; else apt-get's; else the wheel imageio-ffmpeg, which comes with the extra `pipeline`
made_of="extras $EXTRAS, pyproject.toml $(sha256sum <pyproject.toml)"
if command -v ffmpeg >/dev/null; then
    ffmpeg="system"
elif [ -f "$STAMP" ] && grep -qx 'ffmpeg wheel' "$STAMP"; then
    ffmpeg="wheel" # apt-get was asked before, in vain
elif apt_install ffmpeg && command -v ffmpeg >/dev/null; then
    ffmpeg="system"
else
    ffmpeg="wheel"
fi
if [ "$ffmpeg" = system ]; then
    say "ffmpeg: $(command -v ffmpeg)"
else
    say "ffmpeg: none on PATH and apt-get could not be used; the one in the wheel imageio-ffmpeg serves"
fi

# --- .venv
folder=$(pwd -P)
has=$(version_of .venv/bin/python) || has=
if [ -n "$has" ] && [ ! -e "$UNDERWAY" ] && { [ -z "$asked" ] || [ "$has" = "$(version_of "$PYTHON")" ]; } &&
    [ "$(cat "$STAMP" 2>/dev/null)" = "$(printf '%s\n%s\nffmpeg %s' "$folder" "$made_of" "$ffmpeg")" ]; then
    say "nothing to do: .venv is up to date with pyproject.toml"
    exit 0
fi

fresh() { # why
    say "$1 with $("$PYTHON" -V)"
    local words
    if ! "$PYTHON" -m venv --clear .venv >/dev/null 2>&1; then
        # Debian keeps venv's parts in a package of their own.
        apt_install "$("$PYTHON" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" >/dev/null 2>&1 || true
        words=$("$PYTHON" -m venv --clear .venv 2>&1) ||
            die "$PYTHON cannot make .venv: $(tail -n 1 <<<"$words"); on Debian: apt-get install python3-venv"
    fi
}

made_in=$(head -n 1 "$STAMP" 2>/dev/null) || made_in=
if [ -L .venv ] && [ -n "$made_in" ] && [ "$made_in" != "$folder" ]; then
    die ".venv is a link to the environment of $made_in, which would be emptied; remove the link"
fi
if [ ! -d .venv ]; then
    fresh "making .venv"
elif [ -e "$UNDERWAY" ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    fresh "making .venv anew, since the last set-up stopped half-way or its pip is gone,"
elif ! is_new_enough .venv/bin/python; then
    fresh "making .venv anew, since its Python $has is older than 3.11,"
elif [ -n "$asked" ] && [ "$has" != "$(version_of "$PYTHON")" ]; then
    fresh "making .venv anew, since its Python is $has,"
elif [ -n "$made_in" ] && [ "$made_in" != "$folder" ]; then
    fresh "making .venv anew, since it was made in another folder,"
fi

say "installing the project with extras [$EXTRAS] into .venv (all of them: several minutes, about 7 GB)"
touch "$UNDERWAY"
rm -f "$STAMP"
# One call: torch and torchvision must come from one place, or torchvision fails at import.
.venv/bin/python -m pip install -qq --disable-pip-version-check --no-input --progress-bar off -e ".[$EXTRAS]" </dev/null ||
    die "pip could not install the project; its words stand above. Run it again when that is mended"
case ",$EXTRAS," in *,all,* | *,trainer,*)
    .venv/bin/python -c 'import torch, torchvision' 2>/dev/null ||
        die "torch and torchvision do not fit each other; remove .venv and run it again" ;;
esac
case ",$EXTRAS," in *,all,* | *,pipeline,*)
    [ "$ffmpeg" = system ] || .venv/bin/python -c 'import imageio_ffmpeg; imageio_ffmpeg.get_ffmpeg_exe()' 2>/dev/null ||
        die "no ffmpeg: none on PATH, apt-get could not be used, and imageio-ffmpeg has none for this machine" ;;
esac
printf '%s\n%s\nffmpeg %s\n' "$folder" "$made_of" "$ffmpeg" >"$STAMP"
rm -f "$UNDERWAY"
say "done: .venv is ready; commands run as .venv/bin/python -m ..., or after: source .venv/bin/activate"
if ! command -v deno >/dev/null && [ ! -x .venv/bin/deno ]; then
    say "optional: YouTube links need a JavaScript runtime beside yt-dlp: .venv/bin/python -m pip install deno"
fi
