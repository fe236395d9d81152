"""Clips of local files by video2dataset 1.3.0, run by the Python that has it: see ``benchmarks.peers``.

Two stages, since its download stage fails with any other step than cutting (``encode_formats`` is no attribute of a
subsampler there): cut, then make small. Sound goes through mp3: with frames alone made small, it would be lost. Prints
the CPU seconds of all.
"""

import json
import resource
import sys
from pathlib import Path

FORMATS = {"video": "mp4", "audio": "mp3"}
CONFIG = {
    "reading": {"yt_args": {}, "timeout": 60, "sampler": None},
    "storage": {"number_sample_per_shard": 100, "oom_shard_count": 5, "captions_are_subtitles": False},
    "distribution": {"processes_count": 1, "thread_count": 1, "subjob_size": 1000, "distributor": "multiprocessing"},
}


def main(clips: list[tuple[str, float]], out: Path, precision: str) -> None:
    """Cut 30 s of each file; then 128 x 128 pixels, 64 frames in 30 s, mono sound at 32 kHz."""
    import pandas as pd
    from video2dataset import video2dataset

    table = {"url": [path for path, _ in clips], "clips": [[[start_s, start_s + 30.0]] for _, start_s in clips]}
    pd.DataFrame(table).to_parquet(out / "list.parquet")
    words = {"output_format": "webdataset", "encode_formats": FORMATS}
    cut = {"ClippingSubsampler": {"args": {"precision": precision}}}
    video2dataset(
        url_list=str(out / "list.parquet"),
        output_folder=str(out / "cut"),
        input_format="parquet",
        clip_col="clips",
        stage="download",
        config=CONFIG | {"subsampling": cut},
        **words,
    )
    small = {
        "ResolutionSubsampler": {"args": {"width": 128, "height": 128, "resize_mode": ["scale"]}},
        "FrameSubsampler": {"args": {"frame_rate": 64 / 30}},
        "AudioRateSubsampler": {"args": {"sample_rate": 32_000, "encode_format": "mp3", "n_audio_channels": 1}},
    }
    video2dataset(
        url_list=str(out / "cut" / "{00000..00000}.tar"),
        output_folder=str(out / "small"),
        input_format="webdataset",
        stage="subset",
        config=CONFIG | {"subsampling": small},
        **words,
    )
    told = json.loads((out / "small" / "00000_stats.json").read_text())
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps({"successes": told["successes"], "cpu_s": sum(one.ru_utime + one.ru_stime for one in used)}))


if __name__ == "__main__":  # its workers are spawned, and import this file
    main(json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
