"""Files that appear together: whole or not at all, killed anywhere, and never in place of what others put there."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trainer import embed, embeddings, evaluate, export, predict, writing
from trainer.errors import UserError
from trainer.files import UNFINISHED, require_own, together

NAMES = ("mark", "one", "two")

# A fork costs no imports; the hook sees every change to the disk before it is made, those of shutil too.
_BROKEN = """
import itertools, json, os, shutil, signal, sys
from pathlib import Path
from trainer.errors import UserError
from trainer.files import require_own, together

root, how = Path(sys.argv[1]), sys.argv[2]
NAMES = ("mark", "one", "two")
os.fsync = lambda descriptor: None  # which takes long, and tells on power cuts alone
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}


def marked(folder):
    return (folder / "mark").is_file()


def write(folder, version, names=NAMES):
    require_own(folder, NAMES, mark=marked, by="us")
    with together(folder, NAMES, last="mark") as made:
        for name in names:
            (made / name).write_text(version)


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def broken(folder, number):
    changes = itertools.count()

    def hook(event, args):
        writes = event == "open" and str(args[0]).startswith(str(folder)) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if (event in CHANGES or writes) and next(changes) == number:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(28, "No space left on device")

    sys.addaudithook(hook)
    write(folder, "new", ("mark", "two"))


told = []
for before in ("nothing", "old"):
    for number in itertools.count():
        folder = root / f"{before}-{number}"
        folder.mkdir()
        (folder / "NOTES").write_text("mine")
        if before == "old":
            write(folder, "old")
        child = os.fork()
        if not child:
            try:
                broken(folder, number)
            except OSError:
                os._exit(1)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        after = contents(folder)
        try:
            write(folder, "again")
            again = contents(folder)
        except UserError as error:
            again = str(error)
        told.append([before, status, after, again, [path.name for path in folder.iterdir() if path.is_dir()]])
        if not status:
            break
print(json.dumps(told))
"""


@pytest.mark.parametrize("how", ["killed", "without room"])
def test_broken_off_at_any_change_of_the_disk_a_folder_is_never_mixed_and_is_written_anew(tmp_path, how):
    done = subprocess.run(
        [sys.executable, "-c", _BROKEN, str(tmp_path), how],
        cwd=Path(writing.__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    mine = {"NOTES": "mine"}
    whole = {name: mine | dict.fromkeys(names, name) for name, names in [("old", NAMES), ("new", ("mark", "two"))]}
    seen = set()
    for before, _, after, again, left in told:
        assert "mark" not in after or after in whole.values()
        assert again == mine | dict.fromkeys(NAMES, "again")
        assert left == []
        seen.add((before, "mark" in after, len(after)))
    assert {("old", False, 3), ("old", False, 1), ("nothing", False, 2)} <= seen  # between two renames, too
    assert [(before, after) for before, status, after, *_ in told if status == 0] == [
        ("nothing", whole["new"]),
        ("old", whole["new"]),
    ]


def test_a_name_that_stands_where_no_mark_does_is_refused_whatever_was_killed_there_before_it_was_whole(tmp_path):
    def refusal(marked=False):
        with pytest.raises(UserError) as found:
            require_own(tmp_path, NAMES, mark=lambda folder: marked, by="us")
        return str(found.value)

    for nowhere in ("nowhere", "n" * 300):
        require_own(tmp_path / nowhere, NAMES, mark=lambda folder: False, by="us")
    (tmp_path / "two").symlink_to("nowhere")
    assert f"{tmp_path / 'two'} is not of us, and would be lost" in refusal()
    with together(tmp_path / "other", NAMES, last="mark"):
        shutil.copytree(tmp_path / "other" / UNFINISHED, tmp_path / UNFINISHED)  # as a kill now would leave it
    assert "two is not of us" in refusal()
    require_own(tmp_path, NAMES, mark=lambda folder: True, by="us")
    (tmp_path / "one").mkdir()
    assert "one is not of us" in refusal(marked=True)


def test_a_folder_of_others_that_is_called_as_ours_is_left_alone(tmp_path):
    (tmp_path / UNFINISHED).mkdir()
    (tmp_path / UNFINISHED / "novel.txt").write_text("mine")
    with pytest.raises(UserError, match="unfinished is not of us"):
        require_own(tmp_path, NAMES, mark=lambda folder: True, by="us")
    with pytest.raises(FileExistsError), together(tmp_path, NAMES, last="mark"):
        pass
    assert (tmp_path / UNFINISHED / "novel.txt").read_text() == "mine"


def test_commands_refuse_to_replace_the_users_own_files_before_anything_is_read(runs, tmp_path, refused):
    run = ["--run", runs / "finetuned"]
    for main, name, words in [
        (predict.main, "player.mp4", [tmp_path / "song.mp4", "--player", "none"]),
        (embed.main, "map.html", ["--shards", tmp_path / "nowhere"]),
        (evaluate.main, "roc.png", ["--shards", tmp_path / "nowhere"]),
        (export.main, "config.json", []),
    ]:
        mine = tmp_path / name
        mine.write_text("mine")
        assert f"{mine} is not of an earlier " in refused(main, *words, *run, "--out", tmp_path)
        assert {path: path.read_text() for path in tmp_path.iterdir()} == {mine: "mine"}
        mine.unlink()


@pytest.mark.parametrize(
    ("names", "mark", "is_ours"),
    [
        (writing.FILES, {"curve.json": {"curve_version": 1, "labels": [], "scores": []}}, writing.require_ours),
        (
            embeddings.FILES,
            {"embed.json": {"weights": "", "samples": "", "embedded": ""}},
            embeddings.require_ours,
        ),
        (
            evaluate.RESULTS,
            {"metrics.json": {"accuracy": 1, "confusion": []}},
            lambda out: require_own(out, evaluate.RESULTS, mark=evaluate.is_scored, by="us"),
        ),
        (
            export.WRITTEN,
            {"README.md": "---\nlibrary_name: music-video-emotion\n---\n"},
            lambda out: require_own(out, export.WRITTEN, mark=export.is_export, by="us"),
        ),
    ],
    ids=["predict", "embed", "evaluate", "export"],
)
def test_each_commands_files_are_replaced_where_its_own_mark_stands_and_nowhere_else(tmp_path, names, mark, is_ours):
    is_ours(tmp_path)
    ((marked, words),) = mark.items()
    for name in names:
        path = tmp_path / name
        for text in ("mine", '{"mine": 1}', "[]", "\ud800"):
            path.write_text(text, errors="surrogatepass")
            with pytest.raises(UserError, match="would be lost"):
                is_ours(tmp_path)
        path.unlink()
    (tmp_path / names[-1]).write_text("of an earlier one")
    (tmp_path / marked).write_text(words if isinstance(words, str) else json.dumps(words))
    is_ours(tmp_path)
