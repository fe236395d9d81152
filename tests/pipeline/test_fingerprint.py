from __future__ import annotations

import shutil

import imageio_ffmpeg
import numpy as np
import pytest

from pipeline import fingerprint as fp
from pipeline import matching, media, slices
from pipeline.audio import BASE_RATE_HZ
from pipeline.clips import ClipSpan
from pipeline.errors import UserError
from pipeline.fingerprint import PICTURE, SOUND, audio_fingerprint, frame_hashes
from pipeline.matching import OWN_LAGS, FingerprintIndex
from pipeline.slices import Kind
from tests.conftest import run_ffmpeg

RATE_HZ = 11_025  # Chromaprint's own


def melody(seed: int, seconds: float = 30) -> np.ndarray:
    """A random tune over random chords, each note with five partials that decay."""
    rng = np.random.default_rng(seed)
    sound = np.zeros(round((seconds + 2) * RATE_HZ), np.float32)
    t_s = np.arange(2 * RATE_HZ) / RATE_HZ
    for start_s in np.arange(0, seconds, 0.3):
        note_hz = 110 * 2 ** (rng.integers(0, 36) / 12)
        note = sum(np.sin(2 * np.pi * note_hz * k * t_s) / k for k in range(1, 6)) * np.exp(-2 * t_s)
        first = round(start_s * RATE_HZ)
        sound[first : first + len(t_s)] += note * rng.uniform(0.05, 0.15)
    return sound[: round(seconds * RATE_HZ)]


def shots(seed: int, count: int = 12, frames: int = 64) -> np.ndarray:
    """Shots of random length over soft random scenes that pan: uint8 (64, 128, 128, 3)."""
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.choice(np.arange(1, frames), count - 1, replace=False))
    shown = []
    for number, length in enumerate(np.diff([0, *cuts, frames])):
        scene = np.kron(np.random.default_rng((seed, number)).uniform(0, 255, (9, 12, 3)), np.ones((16, 16, 1)))
        shown += [scene[:128, step % 48 :][:, :128] for step in range(length)]
    return np.stack(shown).astype(np.uint8)


@pytest.fixture(scope="module")
def tunes() -> dict[str, np.ndarray]:
    return {f"tune {seed}": melody(seed) for seed in range(6)}


@pytest.fixture(scope="module")
def songs(tunes) -> FingerprintIndex:
    return FingerprintIndex(((key, audio_fingerprint(tune, RATE_HZ)) for key, tune in tunes.items()), SOUND)


@pytest.fixture(scope="module")
def films() -> FingerprintIndex:
    return FingerprintIndex(((f"film {seed}", frame_hashes(shots(seed))) for seed in range(12)), PICTURE)


def test_a_clip_matches_itself_and_no_other(tunes, songs, films):
    for key, tune in tunes.items():
        (match,) = songs.matches(audio_fingerprint(tune, RATE_HZ))
        assert (match.key, match.difference, match.overlap) == (key, 0.0, 221)
    for seed in range(12):
        (match,) = films.matches(frame_hashes(shots(seed)))
        assert (match.key, match.difference, match.overlap) == (f"film {seed}", 0.0, 64)


def test_an_unknown_song_and_an_unknown_film_match_nothing(songs, films):
    assert all(songs.match(audio_fingerprint(melody(seed), RATE_HZ)) is None for seed in range(50, 56))
    assert all(films.match(frame_hashes(shots(seed))) is None for seed in range(50, 60))


@pytest.mark.parametrize("begin_s", [-20.03, -10.3, -0.06, 7.7, 15.05, 20.0])
def test_another_part_of_a_recording_that_shares_ten_seconds_matches(songs, tunes, begin_s):
    shift = round(abs(begin_s) * RATE_HZ)
    other = melody(99)[:shift]
    tune = tunes["tune 3"]
    part = np.concatenate([tune[shift:], other] if begin_s > 0 else [other, tune[:-shift]])
    match = songs.match(audio_fingerprint(part, RATE_HZ))
    assert match is not None
    assert match.key == "tune 3"
    assert match.overlap == pytest.approx(221 - abs(begin_s) / 0.1238, abs=1)


@pytest.mark.parametrize("codec", ["libmp3lame -b:a 64k x.mp3", "aac -b:a 48k x.m4a", "libopus -b:a 24k x.webm"])
def test_another_codec_and_bit_rate_is_the_same_recording(tmp_path, songs, tunes, codec):
    *settings, name = codec.split()
    tunes["tune 1"].astype("<f4").tofile(tmp_path / "raw")
    raw = ["-f", "f32le", "-ar", str(RATE_HZ), "-ac", "1", "-i", str(tmp_path / "raw")]
    run_ffmpeg(*raw, "-c:a", *settings, str(tmp_path / name))
    found = media.probe(tmp_path / name)
    heard = media.decode_clip(tmp_path / name, ClipSpan(start_s=0), found, modality="audio").audio
    match = songs.match(audio_fingerprint(heard, BASE_RATE_HZ))
    assert match is not None
    assert match.key == "tune 1"
    assert 0 < match.difference < 0.3


@pytest.mark.parametrize("gain", [0.02, 0.3, 3.0])
def test_volume_is_of_no_matter(songs, tunes, gain):
    match = songs.match(audio_fingerprint(gain * tunes["tune 2"], RATE_HZ))
    assert match is not None
    assert match.key == "tune 2"


def monotone(kind: str) -> np.ndarray:
    t_s = np.arange(30 * RATE_HZ) / RATE_HZ
    noise = np.random.default_rng(0).standard_normal(len(t_s))
    return {
        "silence": 0 * t_s,
        "dither": 1e-5 * noise,
        "noise": 0.1 * noise,
        "tone": 0.3 * np.sin(2 * np.pi * 440 * t_s),
        "tone in noise": 0.3 * np.sin(2 * np.pi * 440 * t_s) + 0.01 * noise,
        "chord": 0.1 * np.sin(2 * np.pi * np.outer([220, 277, 330], t_s)).sum(axis=0),
        "beeps": 0.3 * np.sin(2 * np.pi * 1000 * t_s) * (t_s % 1 < 0.3),
    }[kind]


def test_steady_sound_matches_nothing_not_even_its_own_kind():
    kinds = ["silence", "dither", "tone", "tone in noise", "chord", "beeps"]
    steady = {kind: audio_fingerprint(monotone(kind), RATE_HZ) for kind in kinds}
    index = FingerprintIndex(steady.items(), SOUND)
    assert [index.match(fingerprint) for fingerprint in steady.values()] == [None] * len(kinds)


def test_two_noises_are_not_the_same_noise():
    index = FingerprintIndex([("noise", audio_fingerprint(monotone("noise"), RATE_HZ))], SOUND)
    other = 0.1 * np.random.default_rng(1).standard_normal(30 * RATE_HZ)
    assert index.match(audio_fingerprint(other, RATE_HZ)) is None


def test_silence_in_both_makes_no_match_of_two_songs(tunes):
    half = 15 * RATE_HZ
    halves = {key: np.concatenate([tune[:half], np.zeros(half)]) for key, tune in tunes.items()}
    prints = {key: audio_fingerprint(sound, RATE_HZ) for key, sound in halves.items()}
    index = FingerprintIndex(prints.items(), SOUND)
    assert all([match.key for match in index.matches(prints[key])] == [key] for key in prints)


def letterboxed(frames: np.ndarray) -> np.ndarray:
    boxed = np.zeros_like(frames)
    boxed[:, 16:112] = frames[:, np.linspace(0, 127, 96).round().astype(int)]
    return boxed


def cropped(frames: np.ndarray) -> np.ndarray:
    rows = np.linspace(4, 123, 128).round().astype(int)  # 7% less
    return frames[:, rows][:, :, rows]


def test_a_changed_picture_is_the_same_video(films):
    film = shots(5)
    noise = np.random.default_rng(0).normal(0, 8, film.shape)
    changed = {
        "mirrored": film[:, :, ::-1],
        "letterboxed": letterboxed(film),
        "cropped": cropped(film),
        "noisy": np.clip(film + noise, 0, 255).astype(np.uint8),
        "darker": (film * 0.6).astype(np.uint8),
        "ends early": film[:24],
        "begins later": np.concatenate([film[40:], shots(99)[:40]]),
    }
    found = {name: films.match(frame_hashes(frames)) for name, frames in changed.items()}
    assert {name: match.key if match else None for name, match in found.items()} == dict.fromkeys(changed, "film 5")


def test_black_flat_and_still_pictures_match_nothing():
    black = np.zeros((64, 128, 128, 3), np.uint8)
    still = np.repeat(shots(7)[:1], 64, axis=0)
    hashes = {"black": frame_hashes(black), "grey": frame_hashes(black + 90), "still": frame_hashes(still)}
    assert not hashes["black"].any()
    assert not hashes["grey"].any()
    assert hashes["still"].all()
    index = FingerprintIndex(hashes.items(), PICTURE)
    assert [index.match(of) for of in hashes.values()] == [None] * 3


def test_black_beginnings_make_no_match_of_two_films():
    dark = np.zeros((30, 128, 128, 3), np.uint8)
    hashes = {str(seed): frame_hashes(np.concatenate([dark, shots(seed)[:34]])) for seed in range(8)}
    index = FingerprintIndex(hashes.items(), PICTURE)
    assert all([match.key for match in index.matches(of)] == [key] for key, of in hashes.items())


def test_fingerprints_keep_their_bytes_and_are_small(tunes):
    for made, kind, size in (
        (audio_fingerprint(tunes["tune 0"], RATE_HZ), SOUND, 884),
        (frame_hashes(shots(0)), PICTURE, 512),
    ):
        raw = fp.to_bytes(made)
        assert len(raw) == size
        assert fp.to_bytes(made.astype(made.dtype.newbyteorder(">"))) == raw
        np.testing.assert_array_equal(fp.from_bytes(raw, kind), made)
    assert len(fp.from_bytes(None, SOUND)) == 0


def test_an_empty_index_and_an_empty_fingerprint_match_nothing(songs, films, tunes):
    assert FingerprintIndex([], SOUND).match(audio_fingerprint(tunes["tune 0"], RATE_HZ)) is None
    assert FingerprintIndex([], PICTURE).match(frame_hashes(shots(0))) is None
    assert songs.match(audio_fingerprint(np.zeros(0, np.float32), RATE_HZ)) is None
    assert songs.match(audio_fingerprint(tunes["tune 0"][:RATE_HZ], RATE_HZ)) is None
    assert films.match(frame_hashes(np.zeros((0, 128, 128, 3), np.uint8))) is None
    with_gaps = FingerprintIndex([("none", np.zeros(0, np.uint32)), ("some", fp.from_bytes(b"", SOUND))], SOUND)
    assert with_gaps.match(audio_fingerprint(tunes["tune 0"], RATE_HZ)) is None


def changing(rng: np.random.Generator, kind: Kind, num_items: int) -> np.ndarray:
    """A fingerprint that changes as music and pictures do: three of eight bits from item to item."""
    one, two, three = rng.integers(1, 2**kind.bits, (3, num_items), dtype=kind.dtype, endpoint=False)
    return np.bitwise_xor.accumulate(one & (two | three))


def disturbed(rng: np.random.Generator, kind: Kind, fingerprint: np.ndarray, share: float) -> np.ndarray:
    """The same from another encoder: that share of its bits differs, in three of five items."""
    flips = (rng.random((len(fingerprint), kind.bits)) < share) & (rng.random((len(fingerprint), 1)) < 0.6)
    return fingerprint ^ np.packbits(flips, axis=1, bitorder="little").view(kind.dtype).ravel()


def slow_matches(query: np.ndarray, clips: list[np.ndarray], kind: Kind) -> dict[int, tuple[float, int, int]]:
    """By clip: the least difference of all offsets, and its overlap and offset; bit by bit, as it is told."""

    def bits(items: np.ndarray) -> np.ndarray:
        return (items[:, None] >> np.arange(kind.bits, dtype=kind.dtype)) & kind.dtype.type(1)

    def change(items: np.ndarray) -> np.ndarray:
        told = []
        for i in range(len(items)):
            near = [j for lag in OWN_LAGS for j in (i - lag, i + lag) if 0 <= j < len(items)]
            counted = [int(items[i] ^ items[j]).bit_count() for j in near if items[i] and items[j]]
            told.append(round(4 * sum(counted) / max(len(counted), 1)) / 4)
        return np.array(told)

    found = {}
    turned = [query]
    if kind.mirror_bits:
        turned.append(np.where(query == 0, query, query ^ kind.dtype.type(kind.mirror_bits)))
    own, changes = change(query), [change(clip) for clip in clips]
    for n, clip in enumerate(clips):
        best = []
        for items in turned:
            for offset in range(1 - len(items), len(clip)):
                at = np.arange(max(offset, 0), min(offset + len(items), len(clip)))
                told = at[(clip[at] != 0) & (items[at - offset] != 0)]
                changed = min(changes[n][told].sum(), own[told - offset].sum())
                difference = (bits(clip[told]) != bits(items[told - offset])).sum() / max(changed, 1)
                sure = min(changed / kind.sure_change_bits, 1)
                if changed >= kind.min_change_bits and difference <= kind.max_difference * sure:
                    best.append((difference, -len(at), offset))
        if best:
            difference, overlap, offset = min(best)
            found[n] = (difference, -overlap, offset)
    return found


@pytest.mark.parametrize("kind", [SOUND, PICTURE], ids=["sound", "picture"])
def test_the_index_finds_what_comparing_every_pair_at_every_offset_finds(kind):
    rng = np.random.default_rng(3)
    clips = [changing(rng, kind, n) for n in (90, 70, 64, 0, 1, 80, 33, 64)]
    clips[2][20:40] = 0
    queries = [
        disturbed(rng, kind, clips[0], 0.05),
        np.concatenate([disturbed(rng, kind, clips[1], 0.05)[30:], clips[5][:40]]),
        np.concatenate([clips[0][46:], disturbed(rng, kind, clips[2], 0.05)]),
        clips[7] ^ kind.dtype.type(kind.mirror_bits),
        disturbed(rng, kind, clips[6], 0.9),
        changing(rng, kind, 64),
        clips[4],
        clips[3],
        np.repeat(clips[7][:1], 64),
    ]
    index = FingerprintIndex(((str(n), clip) for n, clip in enumerate(clips)), kind)
    found = list(index.matches_of(queries))
    slow = [slow_matches(query, clips, kind) for query in queries]
    assert [{m.key: (m.difference, m.overlap) for m in matches} for matches in found] == [
        {str(n): (difference, overlap) for n, (difference, overlap, _) in by_clip.items()} for by_clip in slow
    ]
    assert [set(by_clip) for by_clip in slow] == [{0}, {1, 5}, {0, 2}, {7}, set(), set(), set(), set(), set()]
    assert [index.matches(query) for query in queries] == found

    together = FingerprintIndex(((str(n), clip) for n, clip in enumerate([*clips, *queries])), kind)
    joined = [row for _, rows in together.join(len(clips)) for row in rows.tolist() if row[1] < len(clips)]
    assert joined == [
        (len(clips) + n, entry, offset, overlap, difference)
        for n, by_clip in enumerate(slow)
        for entry, (difference, overlap, offset) in sorted(by_clip.items())
    ]


def copies(kind: Kind, *, num_films: int, num_copies: int) -> list[np.ndarray]:
    """Copies of some clips, one film after another and then all again, each disturbed and cut in its own way."""
    rng = np.random.default_rng(5)
    films = [changing(rng, kind, 120) for _ in range(num_films)]
    return [
        disturbed(rng, kind, film[(cut := int(rng.integers(0, 30))) : cut + 64], 0.03)
        for _ in range(num_copies)
        for film in films
    ]


def rows_of(index: FingerprintIndex, first: int = 0) -> list[tuple[int, int, int, int, float]]:
    return [row for _, rows in index.join(first) for row in rows.tolist()]


@pytest.mark.parametrize("kind", [SOUND, PICTURE], ids=["sound", "picture"])
def test_a_join_finds_every_pair_once_and_does_not_depend_on_what_comes_later_or_is_looked_up_together(
    kind, monkeypatch
):
    clips = copies(kind, num_films=9, num_copies=6)
    keyed = [(str(n), clip) for n, clip in enumerate(clips)]
    index = FingerprintIndex(keyed, kind)
    whole = rows_of(index)
    assert {(query, entry) for query, entry, *_ in whole} == {
        (i, j) for i in range(54) for j in range(i) if i % 9 == j % 9
    }
    assert whole == sorted(whole)
    assert rows_of(index, 20) == [row for row in whole if row[0] >= 20]
    assert rows_of(FingerprintIndex(keyed[:30], kind)) == [row for row in whole if row[0] < 30]
    assert [end for end, _ in index.join(50)][-1:] == [54]
    monkeypatch.setattr(matching, "BLOCK_QUERIES", 4)
    monkeypatch.setattr(matching, "CLOSE_ITEMS", 100)
    monkeypatch.setattr(slices, "BUILD_ITEMS", 100)
    monkeypatch.setattr(slices, "CELLS", 2)
    assert rows_of(FingerprintIndex(keyed, kind)) == whole


@pytest.mark.parametrize("kind", [SOUND, PICTURE], ids=["sound", "picture"])
def test_of_more_copies_than_are_looked_up_the_first_are_found(kind, monkeypatch):
    monkeypatch.setattr(slices, "MAX_SAME", 20)
    monkeypatch.setattr(slices, "MAX_HITS", 400)
    clip = changing(np.random.default_rng(8), kind, 64)
    index = FingerprintIndex(((str(n), clip) for n in range(300)), kind)
    assert [(row[0], row[1]) for row in rows_of(index, 298)] == [(q, n) for q in (298, 299) for n in range(20)]
    assert {match.key for match in index.matches(clip)} == {str(n) for n in range(20)}


def test_a_stretch_of_items_is_as_long_as_the_clip_that_it_was_made_of(tunes):
    assert SOUND.seconds(len(audio_fingerprint(tunes["tune 0"], RATE_HZ))) == pytest.approx(30, abs=0.06)
    assert SOUND.seconds(len(audio_fingerprint(tunes["tune 0"][: 8 * RATE_HZ], RATE_HZ))) == pytest.approx(8, abs=0.12)
    assert PICTURE.seconds(64) == 30


def test_both_ffmpegs_give_the_same_fingerprint(monkeypatch, tunes):
    ours = shutil.which("ffmpeg")
    wheels = imageio_ffmpeg.get_ffmpeg_exe()
    if ours is None or not (media.knows_chromaprint(ours) and media.knows_chromaprint(wheels)):
        pytest.skip("one of them is absent or does not know Chromaprint")
    monkeypatch.setattr(media, "_chromaprint_exe", lambda: ours)
    by_system = audio_fingerprint(tunes["tune 0"], RATE_HZ)
    monkeypatch.setattr(media, "_chromaprint_exe", lambda: wheels)
    np.testing.assert_array_equal(audio_fingerprint(tunes["tune 0"], RATE_HZ), by_system)


@pytest.mark.parametrize(("sound_s", "start_s", "num_items"), [(41, 5, 221), (41, 40, 0), (20, 30, 0)])
def test_the_fingerprint_taken_while_decoding_is_that_of_the_decoded_sound(tmp_path, sound_s, start_s, num_items):
    file = tmp_path / "clip.mkv"
    picture = ["-f", "lavfi", "-i", "testsrc=size=64x36:rate=5:duration=62"]
    run_ffmpeg(*picture, "-f", "lavfi", "-t", str(sound_s), "-i", "sine=440:sample_rate=44100", str(file))
    clip = media.decode_clip(file, ClipSpan(start_s=start_s), media.probe(file))
    assert clip.sound_print == media.chromaprint(clip.audio, BASE_RATE_HZ)
    assert len(fp.from_bytes(clip.sound_print, SOUND)) == num_items


def test_where_no_ffmpeg_knows_chromaprint_the_mend_is_told(monkeypatch):
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: "/bin/true")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="apt-get install ffmpeg"):
        media._chromaprint_exe.__wrapped__()
