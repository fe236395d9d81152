"""The child that holds the network: one video after the other becomes curve and player."""

import shutil
from collections.abc import Callable
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from trainer.app.children import Line, conversation
from trainer.app.look import THE_FILE
from trainer.app.rooms import FULL
from trainer.devices import describe, start_fabric
from trainer.errors import UserError, one_line
from trainer.modalities import why_not_alone
from trainer.prepare import channels_last
from trainer.runtime import OUT_OF_MEMORY, is_out_of_memory, warn
from trainer.trained import Trained, newest_trained, open_trained
from trainer.videos import open_video
from trainer.watch import num_windows, watch
from trainer.writing import write_curve

RESULTS = "results"  # folder for what is made, beside the file


class TooLongError(Exception):
    """A video goes on beyond what is allowed, whatever its head says."""


def main() -> None:
    """Open the run, then judge what is asked for."""
    questions, say = conversation()
    settings = next(questions)
    try:
        run = settings["run"]
        trained = open_trained(Path(run) if run else newest_trained(Path(settings["runs"])))
        _ = trained.sigmoids  # refused before anything is uploaded
        kept = keep(trained, Path(settings["keep"])) if settings["keep"] else trained.run
        fabric = start_fabric(settings["precision"], seed=0, device=settings["device"])
    except UserError as error:
        say({"refused": str(error)})
        return
    channels_last(trained.classifier)
    model = fabric.setup(trained.classifier)
    told = f"{trained.run}, {trained.config.name}, {trained.checkpoint.name}, {describe(fabric)}"
    alone = why_not_alone(trained.config)
    wanted = trained.config.network["modality"]
    say({"answer": {"told": told, "wanted": wanted, "alone": alone, "run": str(kept)}})
    for question in questions:
        try:
            with chdir(question["folder"]):
                say({"answer": judge(trained, model, question["title"], settings, device=fabric.device, say=say)})
        except (UserError, TooLongError) as error:
            say({"refused": str(error)})
        except OSError as error:
            warn(f"the judging process cannot write: {one_line(error)}")
            say({"refused": f"the server's disk {'is full' if error.errno in FULL else 'cannot be written to'}"})
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            say({"refused": f"the server is {OUT_OF_MEMORY}"})


def keep(trained: Trained, folder: Path) -> Path:
    """Copy what a run is opened by, and return the copy: the next start opens the very same network.

    Training may put another checkpoint in its place, and somebody may delete the run.

    Raises
    ------
    UserError
        If it cannot be copied.
    """
    named = trained.run if trained.run.name not in ("", "..") else trained.run.resolve()  # curves tell the name
    run, name = folder / named.name, trained.checkpoint.name
    try:
        (run / "checkpoints" / name).mkdir(parents=True)
        for file in ("config.json", f"checkpoints/{name}/state.json", f"checkpoints/{name}/model.safetensors"):
            shutil.copyfile(trained.run / file, run / file)
    except OSError as error:
        raise UserError(f"{trained.checkpoint} cannot be copied to --scratch: {one_line(error)}; start anew") from None
    return run


def judge(
    trained: Trained,
    model: nn.Module,
    title: str,
    settings: Line,
    *,
    device: torch.device,
    say: Callable[[Line], None],
) -> Line:
    """Write curve and player of the working folder's video to ``results`` there, telling windows as they are judged.

    Raises
    ------
    UserError
        If no window of it can be read.
    TooLongError
        If it is longer than its head says, and than is allowed.
    """
    every_s, max_s = settings["every_s"], settings["max_s"]
    wanted = trained.config.network["modality"]
    video = open_video(Path(THE_FILE), wanted=wanted, alone=why_not_alone(trained.config), title=title)
    expected = num_windows(video.duration_s, every_s)
    seen = 0

    def count(windows: int) -> None:
        nonlocal seen
        seen += windows
        if seen > num_windows(max_s, every_s):
            raise TooLongError(f"{THE_FILE} is longer than the {max_s / 60:g} minutes that are taken here")
        say({"seen": seen, "of": max(seen, expected)})

    batch_size = settings["batch_size"]
    curve, stills = watch(trained, model, video, every_s=every_s, batch_size=batch_size, device=device, seen=count)
    curve = replace(curve, about=curve.about | {"source": title})
    say({"drawing": True})
    write_curve(curve, stills, video, Path(RESULTS), how="beside")
    return {"verdict": curve.verdict, "share": float(curve.probabilities.max())}


if __name__ == "__main__":
    main()
