"""The child that opens what was uploaded: PyAV and ffmpeg's demuxers meet a stranger's file here first."""

from contextlib import chdir
from pathlib import Path

from trainer.app.children import conversation
from trainer.errors import UserError
from trainer.videos import lasts_longer, open_video

THE_FILE = "the file"  # its name in its folder, and so in words; they tell no place on the server's disk


def main() -> None:
    """Answer what each file holds."""
    questions, say = conversation()
    settings = next(questions)
    say({"answer": {}})
    for question in questions:
        try:
            with chdir(question["folder"]):
                video = open_video(Path(THE_FILE), wanted=settings["wanted"], alone=settings["alone"])
                too_long = lasts_longer(video, settings["max_s"])
            say({"answer": {"too_long": too_long}})
        except UserError as error:
            say({"refused": str(error)})


if __name__ == "__main__":
    main()
