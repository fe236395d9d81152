"""What a file holds, and one clip of it decoded in one pass; ffmpeg is called here, in ``windows`` and ``playable``.

Media are untrusted. ffmpeg and PyAV get a whitelist of containers beside one of protocols (with protocols alone, a
playlist named .mp4 decodes another local file), ``file:`` before the path, a limit on pixels and one on time.
"""

from __future__ import annotations

import contextlib
import functools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import ffmpeg
import numpy as np

from pipeline.clips import MIN_CLIP_S, ClipSpan
from pipeline.errors import RejectedError, UserError, raise_if_disk_full
from pipeline.schema import CLIP_S, FRAME_SIZE_PX, NUM_FRAMES, SAMPLE_RATES_HZ, Modality

PICTURE_SUFFIXES = ".mp4 .m4v .mkv .webm .mov .avi .flv .wmv .mpg .mpeg .ts .m2ts .3gp .ogv"
SOUND_SUFFIXES = ".mp3 .m4a .aac .flac .wav .aiff .ogg .opus .mka .wma"
MEDIA_SUFFIXES = frozenset(f"{PICTURE_SUFFIXES} {SOUND_SUFFIXES}".split())

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,asf,mpeg,mpegts,mpegvideo,h264,hevc,ogg,mp3,aac,flac,wav,aiff"
)
"""Demuxers that read one file and nothing beside it: no playlists, no image sequences, no concatenations."""

MAX_PIXELS = 7680 * 4320
DECODE_TIMEOUT_S = 300.0  # a 30-s clip takes 0.3 to 3 s; a 4K one perhaps 30
LEADS_S = (1.0, 15.0, 60.0)  # decoded before the clip's start, tried in turn; else from the very beginning
SMALL_RATE_HZ = 5
SMALL_HEIGHT_PX, SMALL_WIDTH_PX = 36, 64
TAIL_S = 1.0  # for which the last frame is held, so that it is there at the next grid point
MAX_AMPLITUDE = 1000.0  # full scale is 1; float files go beyond, but not so far
DAMAGE_S = 1.5  # a file that yields so much less than it promises is damaged

GUARDS = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
_REMOTE_GUARDS = {"protocol_whitelist": "http,tcp,crypto", "format_whitelist": f"{CONTAINERS},hls"}
REMOTE_GUARDS = tuple(word for name, value in _REMOTE_GUARDS.items() for word in (f"-{name}", value))
"""Words for an ffmpeg that reads from the crawl's proxy."""
_AUDIO_RATE_HZ = SAMPLE_RATES_HZ["mel_32k"]
_CHROMAPRINT = {"format": "chromaprint", "fp_format": "raw"}
SCALE_FLAGS = "bilinear+accurate_rnd+full_chroma_int+bitexact"  # the same pixels whatever instructions there are


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a file says it holds; None where it has no such stream, or does not say."""

    start_s: float
    """First time in the file; that of a section is not 0."""
    container_s: float | None
    video_s: float | None
    audio_s: float | None
    video_stream: int | None
    audio_stream: int | None
    fps: float | None
    width_px: int | None
    height_px: int | None
    aspect: float | None
    """Width over height as it is shown; pixels need not be square. A phone's rotation is not told by the container."""
    container: str
    """ffmpeg's name of the demuxer, such as ``matroska,webm``."""
    video_codec: str | None
    audio_codec: str | None
    pixel_format: str | None

    def duration_s(self, modality: Modality) -> float:
        """Seconds for which all that the modality needs is there; 0 where the file does not say."""
        lengths_s = [self.container_s]
        if modality != "audio":
            lengths_s.append(self.video_s)
        if modality != "video":
            lengths_s.append(self.audio_s)
        return min((length_s for length_s in lengths_s if length_s), default=0.0)


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One decoded span, sound and picture on one timeline."""

    frames_THWC: np.ndarray | None
    """uint8 (n, 128, 128, 3), RGB; n is 64, or less where the picture ends early."""
    audio: np.ndarray | None
    """float32 mono at 32 kHz, at most 30 s."""
    small_THW: np.ndarray | None = None
    """uint8 (n, 36, 64), grey, five a second: what the filters look at; n is 150, or less where it ends early."""
    sound_print: bytes | None = None
    """Chromaprint of the sound, as ``chromaprint`` gives it; none where this ffmpeg knows no Chromaprint."""


@functools.cache
def ffmpeg_exe() -> str:
    """Path of the ffmpeg in use: the system's, else the one that comes with imageio-ffmpeg."""
    if system := shutil.which("ffmpeg"):
        return system
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise UserError(f"no ffmpeg on PATH and none in imageio-ffmpeg ({error}); run `make setup`") from error


@functools.cache
def ffmpeg_version() -> str:
    """First words of ``ffmpeg -version``, such as ``5.1.9-0+deb12u1``."""
    return _version_of(ffmpeg_exe())


@functools.cache
def chromaprint_version() -> str:
    """The same of the ffmpeg that takes fingerprints of sound, or ``none``."""
    try:
        return _version_of(_chromaprint_exe())
    except UserError:
        return "none"


def _version_of(exe: str) -> str:
    return subprocess.run([exe, "-version"], capture_output=True, text=True, check=True).stdout.split()[2]


@functools.cache
def knows_chromaprint(exe: str) -> bool:
    """Tell whether an ffmpeg can take fingerprints of sound: Debian's can, not each that people build."""
    told = subprocess.run([exe, "-hide_banner", "-h", "muxer=chromaprint"], capture_output=True, check=False).stdout
    return b"Muxer chromaprint" in told


@functools.cache
def _chromaprint_exe() -> str:
    """Path of an ffmpeg with Chromaprint: imageio-ffmpeg's, which starts in half the time, else the system's."""
    found = []
    try:
        import imageio_ffmpeg

        found.append(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        pass
    found += [system] if (system := shutil.which("ffmpeg")) else []
    for exe in filter(knows_chromaprint, found):
        return str(exe)
    raise UserError("no ffmpeg here knows Chromaprint, which tells songs apart; run `apt-get install ffmpeg`")


def chromaprint(sound: np.ndarray, rate_hz: int) -> bytes:
    """Take the fingerprint of a sound that is decoded already, as ``decode_clip`` does of one that it decodes.

    Parameters
    ----------
    sound
        float (n,), mono, between -1 and 1.

    Returns
    -------
    bytes
        Little-endian uint32, one item every 0.124 s; ``fingerprint.py`` reads them.

    Raises
    ------
    UserError
        If neither imageio-ffmpeg's ffmpeg nor the one on PATH knows Chromaprint.
    """
    source = ffmpeg.input("pipe:0", format="f32le", ar=rate_hz, ac=1, threads=1)
    words = source.output("pipe:1", **_CHROMAPRINT).global_args("-nostdin", "-hide_banner", "-loglevel", "error")
    # In a group of its own, as in run: Ctrl-C is for the flow to answer.
    done = subprocess.run(
        words.compile(cmd=_chromaprint_exe()),
        input=sound.astype("<f4").tobytes(),
        capture_output=True,
        timeout=DECODE_TIMEOUT_S,
        check=True,
        process_group=0,
    )
    return done.stdout


@contextlib.contextmanager
def encodable(path: Path) -> Iterator[Path]:
    """Yield a path that is text, as ffmpeg-python needs: this one, or a link to a file whose name is mere bytes."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory(prefix="named-") as folder:
            link = Path(folder) / "file"
            link.symlink_to(path.absolute())
            yield link
    else:
        yield path


def probe(path: Path) -> Probe:
    """Read a file's streams and durations without decoding.

    Raises
    ------
    RejectedError
        ``undecodable`` if no known container opens it, ``too-large`` beyond the limit on pixels.
    """
    return _probe(f"file:{path}", GUARDS)


def probe_remote(url: str, *, proxy: str) -> float:
    """Seconds that a remote file or HLS playlist says it lasts, read from its head through the crawl's proxy.

    Raises
    ------
    RejectedError
        ``undecodable`` if no known container opens it, or if it does not say.
    """
    found = _probe(url, _REMOTE_GUARDS | {"http_proxy": proxy})
    if not found.container_s:
        raise RejectedError("undecodable", "neither page nor media say how long it is")
    return found.container_s


def _probe(name: str, options: dict[str, str]) -> Probe:
    try:
        with av.open(name, options=options, metadata_errors="replace") as container:
            pictures = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
            video = pictures[0] if pictures else None
            audio = container.streams.audio[0] if container.streams.audio else None
            rate = (video.average_rate or video.guessed_rate) if video else None
            start_s = (container.start_time or 0) / av.time_base
            before_s = start_s if "matroska" in container.format.name else 0.0  # which tells ends for lengths
            found = Probe(
                start_s=start_s,
                container_s=container.duration / av.time_base - before_s if container.duration else None,
                video_s=_stream_s(video, before_s),
                audio_s=_stream_s(audio, before_s),
                video_stream=video.index if video else None,
                audio_stream=audio.index if audio else None,
                fps=float(rate) if rate else None,
                width_px=video.width if video else None,
                height_px=video.height if video else None,
                aspect=_aspect(video),
                container=container.format.name,
                video_codec=_codec(video),
                audio_codec=_codec(audio),
                pixel_format=video.pix_fmt if video else None,
            )
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RejectedError("undecodable", f"no known container opens it: {reason}") from error
    if (found.width_px or 0) * (found.height_px or 0) > MAX_PIXELS:
        raise RejectedError("too-large", f"{found.width_px} x {found.height_px} pixels a frame, {MAX_PIXELS} at most")
    return found


def lasts_longer(path: Path, most_s: float) -> bool:
    """Tell by its packets whether a file's sound or picture goes on for longer: for one whose head does not say.

    A file that is damaged counts as far as it can be read.
    """
    try:
        with av.open(f"file:{path}", options=GUARDS, metadata_errors="replace") as container:
            end_s = most_s + (container.start_time or 0) / av.time_base
            packets = container.demux(*container.streams.video, *container.streams.audio)
            return any(packet.pts is not None and packet.pts * packet.time_base > end_s for packet in packets)
    except (av.FFmpegError, ValueError):
        return False


def require_streams(found: Probe, modality: Modality) -> None:
    """Reject a file that lacks what the modality needs: ``no-video`` or ``no-audio``."""
    if modality != "audio" and found.video_stream is None:
        raise RejectedError("no-video", "the file holds no moving picture")
    if modality != "video" and found.audio_stream is None:
        raise RejectedError("no-audio", "the file holds no sound")


def _aspect(video: av.VideoStream | None) -> float | None:
    """Width over height as it is shown; pixels are square where the file does not say."""
    if video is None or not video.height:
        return None
    return float(video.display_aspect_ratio or video.width / video.height)


def _codec(stream: av.stream.Stream | None) -> str | None:
    """Name of a codec, not of what decodes it here; None where this ffmpeg knows none."""
    context = stream.codec_context if stream else None
    return str(context.codec.canonical_name) if context else None


def _stream_s(stream: av.stream.Stream | None, before_s: float) -> float | None:
    if stream is None:
        return None
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base) - before_s
    if told := re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", "")):  # Matroska's tag
        hours, minutes, seconds = map(float, told.groups())
        return 3600 * hours + 60 * minutes + seconds - before_s
    return None


def decode_clip(
    path: Path,
    span: ClipSpan,
    found: Probe,
    *,
    modality: Modality = "both",
    with_small: bool = True,
    with_print: bool = True,
) -> Clip:
    """Decode one span in one ffmpeg process: 64 frames by timestamp, small ones five a second, the sound at 32 kHz.

    Frame i is the last one on show at ``start + i * 30/64 s``: what ffmpeg's ``fps`` filter gives when it rounds input
    times up to its grid. It stands before ``scale``, so that only 64 frames are scaled. Frames are scaled to 128 x 128
    with no regard to their aspect ratio. The small frames are a second branch of the same decode, by the same rule, but
    none is held beyond the picture's end; they are left out unless ``with_small``. Sound is mixed to mono; gaps in it
    become silence, so that it stays in step; its fingerprint is a second output of it, unless not ``with_print``.

    Raises
    ------
    RejectedError
        ``no-audio`` or ``no-video`` where the modality needs it, ``undecodable``, ``timeout``.
    OSError
        If the disk is full.
    """
    require_streams(found, modality)
    lead_s = _lead_s(path, span.start_s, found.video_stream if modality != "audio" else None)
    options = {"threads": 1, "max_pixels": MAX_PIXELS, **GUARDS}
    if lead_s < span.start_s:
        # Not "accurate": that would drop the frame on show at the point sought, if it began before.
        options |= {"ss": f"{span.start_s - lead_s:.3f}", "noaccurate_seek": None}
    source = ffmpeg.input(f"file:{path}", **options)
    with tempfile.TemporaryDirectory(prefix="clip-") as scratch:
        frames_file, small_file, audio_file, print_file = (
            Path(scratch, name) for name in ("frames.rgb", "small.grey", "audio.f32", "sound.print")
        )
        outputs = []
        if modality != "audio":
            video = source[str(found.video_stream)]
            branches = video.filter_multi_output("split") if with_small else [video]
            outputs.append(_frames_output(branches[0], lead_s, frames_file))
            if with_small:
                outputs.append(_small_output(branches[1], lead_s, small_file))
        if modality != "video":
            sound = _sound(source[str(found.audio_stream)], lead_s, span.length_s)
            with_print = with_print and knows_chromaprint(ffmpeg_exe())
            copies = sound.filter_multi_output("asplit") if with_print else [sound]
            outputs.append(copies[0].output(str(audio_file), format="f32le"))
            if with_print:
                outputs.append(copies[1].output(str(print_file), **_CHROMAPRINT))
        command = ffmpeg.merge_outputs(*outputs).global_args(
            "-nostdin", "-hide_banner", "-loglevel", "error", "-filter_complex_threads", "1"
        )
        run(command.compile(cmd=ffmpeg_exe()), timeout_s=DECODE_TIMEOUT_S)
        return Clip(
            frames_THWC=_read_frames(frames_file, (FRAME_SIZE_PX, FRAME_SIZE_PX, 3)),
            audio=_read_audio(audio_file),
            small_THW=_read_frames(small_file, (SMALL_HEIGHT_PX, SMALL_WIDTH_PX)),
            sound_print=print_file.read_bytes() if print_file.exists() else None,
        )


def _lead_s(path: Path, start_s: float, video_stream: int | None) -> float:
    """Seconds before the clip from which decoding must begin, so that the frame on show at its start is decoded.

    A seek in a container without an index (.ts, .flv) may land behind the keyframe wanted: it is tried here first.
    """
    for lead_s in LEADS_S:
        if lead_s >= start_s:
            break
        if video_stream is None:
            return lead_s
        with av.open(f"file:{path}", options=GUARDS, metadata_errors="replace") as container:
            origin_s = (container.start_time or 0) / av.time_base
            stream = container.streams[video_stream]
            container.seek(int((start_s - lead_s + origin_s) * av.time_base))
            for packet in container.demux(stream):
                if packet.is_keyframe and packet.pts is not None:
                    if float(packet.pts * packet.time_base) - origin_s <= start_s - lead_s:
                        return lead_s
                    break
    return start_s


def valid_s(clip: Clip, *, promised_s: float, fps: float | None) -> float:
    """Seconds of a decoded clip for which both sound and picture are there, at most what its source promised.

    Raises
    ------
    RejectedError
        ``undecodable`` if much less was decoded than promised, ``too-short`` if it is less than a clip needs.
    """
    got_s = decoded_s(clip)
    shown_s = 1 / fps if fps else 0.0  # for which the last frame stays on show, beyond what was decoded
    if got_s < promised_s - DAMAGE_S - shown_s:
        raise RejectedError("undecodable", f"{got_s:.1f} s could be decoded of {promised_s:.1f} s promised")
    if got_s < MIN_CLIP_S - TAIL_S / 2:
        raise RejectedError("too-short", f"{got_s:.1f} s of sound and picture, {MIN_CLIP_S:g} s are needed")
    return round(min(got_s, promised_s), 3)


def within(span: ClipSpan, section: Probe) -> ClipSpan:
    """Where a span of a whole video lies in a file that holds a section of it, with the times of the whole."""
    return replace(span, start_s=max(0.0, round(span.start_s - section.start_s, 3)))


def verify_section(path: Path, span: ClipSpan, *, duration_s: float, modality: Modality) -> None:
    """Decode the last 30 s of a fetched section for a test; ``duration_s`` is that of the whole video.

    Raises
    ------
    RejectedError
        If it could not become a sample.
    """
    found = probe(path)
    before_s = max(0.0, round(min(span.length_s, duration_s - span.start_s) - CLIP_S, 3))
    span = ClipSpan(start_s=span.start_s + before_s, length_s=span.length_s - before_s)
    clip = decode_clip(path, within(span, found), found, modality=modality, with_small=False, with_print=False)
    valid_s(clip, promised_s=min(duration_s - span.start_s, span.length_s), fps=found.fps)


def decoded_s(clip: Clip) -> float:
    """Seconds for which both sound and picture were decoded, up to half a second for the picture."""
    lengths_s = []
    if clip.frames_THWC is not None:
        lengths_s.append(
            CLIP_S if len(clip.frames_THWC) == NUM_FRAMES else len(clip.frames_THWC) * CLIP_S / NUM_FRAMES - TAIL_S
        )
    if clip.audio is not None:
        lengths_s.append(len(clip.audio) / _AUDIO_RATE_HZ)
    return max(0.0, min(lengths_s))


def frames_at(
    video: ffmpeg.nodes.Stream, *, rate: Fraction, start_s: float = 0.0, num_frames: int | None = None
) -> ffmpeg.nodes.Stream:
    """Take the frame on show at each point of a grid, at most so many, scaled as samples have them."""
    held = video.filter("tpad", stop_mode="clone", stop_duration=TAIL_S)
    chosen = held.filter("fps", fps=str(rate), round="up", start_time=f"{start_s:.3f}")
    if num_frames is not None:
        # A filter that ends, not a limit on frames written: ffmpeg reads on until every filter has ended.
        chosen = chosen.filter("trim", end_frame=num_frames)
    return chosen.filter("scale", FRAME_SIZE_PX, FRAME_SIZE_PX, flags=SCALE_FLAGS).filter("format", "rgb24")


def mono_at_base_rate(audio: ffmpeg.nodes.Stream) -> ffmpeg.nodes.Stream:
    """Mix a sound to mono at 32 kHz, on the file's timeline: gaps in it become silence."""
    resampled = audio.filter("aresample", _AUDIO_RATE_HZ, **{"async": 1, "first_pts": 0})
    return resampled.filter("aformat", sample_fmts="flt", channel_layouts="mono")


def _frames_output(video: ffmpeg.nodes.Stream, lead_s: float, target: Path) -> ffmpeg.nodes.Stream:
    frames = frames_at(video, rate=Fraction(NUM_FRAMES, CLIP_S), start_s=lead_s, num_frames=NUM_FRAMES)
    return frames.output(str(target), format="rawvideo", fps_mode="passthrough")


def _small_output(video: ffmpeg.nodes.Stream, lead_s: float, target: Path) -> ffmpeg.nodes.Stream:
    return (
        video.filter("fps", fps=SMALL_RATE_HZ, round="up", start_time=f"{lead_s:.3f}")
        .filter("trim", end_frame=CLIP_S * SMALL_RATE_HZ)
        .filter("scale", SMALL_WIDTH_PX, SMALL_HEIGHT_PX, flags=SCALE_FLAGS)
        .filter("format", "gray")
        .output(str(target), format="rawvideo", fps_mode="passthrough")
    )


def _sound(audio: ffmpeg.nodes.Stream, lead_s: float, length_s: float) -> ffmpeg.nodes.Stream:
    first = round(lead_s * _AUDIO_RATE_HZ)
    last = first + round(length_s * _AUDIO_RATE_HZ)
    return mono_at_base_rate(audio).filter("atrim", start_sample=first, end_sample=last)


def run(command: list[str], *, timeout_s: float) -> None:
    """Run an ffmpeg that writes files.

    Raises
    ------
    RejectedError
        ``undecodable`` with the last thing it said, or ``timeout``.
    OSError
        If the disk is full.
    """
    try:
        # In a group of its own: Ctrl-C is for the flow to answer, and must not make a good clip look damaged.
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False, process_group=0)
    except subprocess.TimeoutExpired as error:
        raise RejectedError("timeout", f"decoding took more than {timeout_s:g} s") from error
    if done.returncode < 0:
        raise RuntimeError(f"ffmpeg was stopped by signal {-done.returncode}")
    raise_if_disk_full(done.stderr.decode(errors="replace"))  # it may still say 0
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise RejectedError("undecodable", f"ffmpeg: {lines[-1]}")


def _read_frames(file: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    if not file.exists():
        return None
    return np.fromfile(file, np.uint8).reshape(-1, *shape)


def _read_audio(file: Path) -> np.ndarray | None:
    if not file.exists():
        return None
    return plausible(np.fromfile(file, np.float32))


def plausible(audio: np.ndarray) -> np.ndarray:
    """Return a sound as it is, unless it cannot be one.

    Raises
    ------
    RejectedError
        ``undecodable``.
    """
    if not (np.abs(audio) < MAX_AMPLITUDE).all():
        raise RejectedError("undecodable", "its sound is no number, or louder than any sound")
    return audio
