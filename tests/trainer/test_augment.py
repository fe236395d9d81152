"""What is drawn for a clip is drawn once for all its pathways, and is the same for the same seed, step and keys."""

import zlib

import librosa
import numpy as np
import pytest
import torch

from trainer import augment
from trainer.augment import augmented, draws, mask_sound, mixed, vary_frames
from trainer.finetune import Config
from trainer.inputs import Inputs
from trainer.loader import Loader
from trainer.models.inputs import AudioInput, hz_to_mel
from trainer.models.presets import build_encoder, network_config
from trainer.order import Order
from trainer.shards import ShardSet

CPU = torch.device("cpu")
RATES_HZ = {"high": 32_000, "middle": 22_050, "low": 8_000}
SPECS = {role: AudioInput.of_clip(rate_hz) for role, rate_hz in RATES_HZ.items()}


@pytest.mark.parametrize("rate_hz", RATES_HZ.values())
def test_bands_and_columns_lie_where_librosa_has_them(rate_hz):
    spec = AudioInput.of_clip(rate_hz)
    centres_hz = librosa.mel_frequencies(n_mels=130, fmin=0, fmax=rate_hz / 2)[1:-1]
    np.testing.assert_allclose(spec.centres_mel, librosa.hz_to_mel(centres_hz))
    assert [hz_to_mel(hz) for hz in (0.0, 999.0, 1000.0, 7000.0)] == pytest.approx(
        librosa.hz_to_mel(np.array([0.0, 999.0, 1000.0, 7000.0])).tolist()
    )
    np.testing.assert_allclose(spec.times_s, librosa.frames_to_time(np.arange(spec.num_frames), sr=rate_hz))


def test_masks_cover_the_same_seconds_and_hertz_of_every_pathway(monkeypatch):
    spans_s, bands_hz = [(3.0, 5.5), (20.0, 20.3)], [(800.0, 1200.0), (5000.0, 9000.0)]
    bands_mel = librosa.hz_to_mel(np.array(bands_hz))
    monkeypatch.setattr(augment, "_draw_masks", lambda rng, **_: (np.array(spans_s), bands_mel))
    inputs = {role: torch.ones(1, *spec.shape) for role, spec in SPECS.items()}
    masked = mask_sound(inputs, SPECS, [np.random.default_rng(0)], num_masks=2)
    for role, rate_hz in RATES_HZ.items():
        centres_hz = librosa.mel_frequencies(n_mels=130, fmin=0, fmax=rate_hz / 2)[1:-1]
        for band, centre_hz in enumerate(centres_hz):
            for column in range(0, SPECS[role].num_frames, 3):
                time_s = column * 512 / rate_hz
                hidden = any(a <= time_s < b for a, b in spans_s) or any(a <= centre_hz < b for a, b in bands_hz)
                assert masked[role][0, :, band, column].tolist() == [0.0 if hidden else 1.0] * 2
    assert all(x.min() == 1 for x in inputs.values())  # the batch is left as it was


def test_masks_are_no_wider_than_told_and_lie_within_the_clip():
    for seed in range(200):
        spans, bands = augment._draw_masks(np.random.default_rng(seed), num_masks=3, top_mel=50.0)
        assert spans.shape == bands.shape == (3, 2)
        for masks, whole, widest in ((spans, 30, 3.0), (bands, 50.0, 10.0)):
            assert (masks[:, 0] >= 0).all()
            assert (masks[:, 1] <= whole).all()
            assert (np.diff(masks)[:, 0] <= widest).all()


def test_a_clip_is_cropped_flipped_and_recoloured_alike_in_all_its_frames():
    rng = np.random.default_rng(0)
    still = torch.from_numpy(rng.integers(0, 256, size=(1, 128, 128, 3), dtype=np.uint8)).expand(64, -1, -1, -1)
    clips = torch.stack([still, still])
    varied = vary_frames(clips, [draws(0, 0, [key], 1) for key in "ab"])
    assert varied.shape == clips.shape
    assert varied.dtype == torch.uint8
    for clip in varied:
        assert all(torch.equal(frame, clip[0]) for frame in clip)
    assert not torch.equal(varied[0], varied[1])
    assert not torch.equal(varied[0], clips[0])


def test_a_left_half_of_light_comes_out_on_the_right_as_often_as_not():
    left = torch.zeros(1, 2, 128, 128, 3, dtype=torch.uint8)
    left[:, :, :, :64] = 200
    sides = []
    for step in range(60):
        clip = vary_frames(left, [draws(0, step, ["a"], 1)])[0].float()
        sides.append((clip[:, :, :64].mean() < clip[:, :, 64:].mean()).item())
    assert 15 < sum(sides) < 45


def test_torchs_own_random_numbers_go_on_undisturbed():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    vary_frames(torch.zeros(1, 2, 128, 128, 3, dtype=torch.uint8), [np.random.default_rng(0)])
    assert torch.equal(torch.rand(2), expected)


def test_one_share_mixes_sound_picture_and_target_of_the_same_pair():
    labels = torch.tensor([0, 2, 1, 2])
    inputs = {"audio": torch.arange(4.0).view(4, 1, 1, 1), "video": 10 * torch.arange(4.0).view(4, 1, 1, 1, 1)}
    mixtures, targets = mixed(inputs, labels, alpha=0.8, num_classes=3, rng=np.random.default_rng(7))
    rng = np.random.default_rng(7)
    share, partner = rng.beta(0.8, 0.8), rng.permutation(4)
    assert 0 < share < 1
    for i, j in enumerate(partner):
        expected = share * i + (1 - share) * j
        assert mixtures["audio"][i].item() == pytest.approx(expected, rel=1e-5)
        assert mixtures["video"][i].item() == pytest.approx(10 * expected, rel=1e-5)
        one_hot = np.zeros(3)
        one_hot[labels[i]] += share
        one_hot[labels[j]] += 1 - share
        np.testing.assert_allclose(targets[i], one_hot, rtol=1e-5)


@pytest.fixture(scope="module")
def training(sets):
    data = ShardSet.open(str(sets / "mved"))
    to_inputs = Inputs(build_encoder(network_config("slow-fast", "tiny")).inputs, data.manifest.normalization, CPU)
    batch = next(
        iter(Loader(data, data.split("train"), members=to_inputs.members, order=Order(batch_size=3)).batches())
    )
    return to_inputs, batch | {"place": 0}


def flags(**values):
    return Config(shards="set", **values)


def test_the_papers_recipe_leaves_inputs_and_labels_as_they_are(training):
    to_inputs, batch = training
    inputs, targets = augmented(batch, to_inputs, flags(), step=0, num_classes=3)
    assert torch.equal(targets, batch["label"])
    assert all(torch.equal(inputs[role], x) for role, x in to_inputs(batch).items())


def test_both_video_pathways_see_the_same_crop_and_flip(training):
    to_inputs, batch = training
    inputs, _ = augmented(batch, to_inputs, flags(augment_video=True), step=4, num_classes=3)
    assert torch.equal(inputs["video_slow"], inputs["video_fast"][:, :, ::8])
    plain = to_inputs(batch)
    assert not torch.equal(inputs["video_slow"], plain["video_slow"])
    assert torch.equal(inputs["audio_slow"], plain["audio_slow"])


def test_the_same_seed_step_and_keys_give_the_same_again_and_others_do_not(training):
    to_inputs, batch = training
    strong = {"augment_video": True, "specaugment": 2, "mixup": 0.4}

    def first(step, seed=0):
        inputs, targets = augmented(batch, to_inputs, flags(seed=seed, **strong), step=step, num_classes=3)
        return [*inputs.values(), targets]

    def same(one, other):
        return [torch.equal(a, b) for a, b in zip(one, other, strict=True)]

    assert all(same(first(5), first(5)))
    assert not any(same(first(5), first(6)))
    assert not any(same(first(5), first(5, seed=1)))


def test_a_batch_loses_sound_or_picture_as_often_as_told(training):
    to_inputs, batch = training
    batch = {name: batch[name] for name in ("keys", "label", "place")}
    lost = []
    for step in range(400):
        inputs, _ = augmented(batch, _Empty(to_inputs.specs), flags(modality_dropout=0.3), step=step, num_classes=3)
        lost.append({"audio", "video"} - {role.split("_")[0] for role in inputs})
    counts = [sum(modality in roles for roles in lost) for modality in ("audio", "video")]
    assert all(40 < count < 80 for count in counts), counts
    assert all(len(roles) <= 1 for roles in lost)


class _Empty:
    """Inputs without numbers: here only the roles matter."""

    device = CPU

    def __init__(self, specs):
        self.specs = specs

    def __call__(self, batch):
        return dict.fromkeys(self.specs, torch.zeros(3, 1))


def test_draws_of_one_purpose_do_not_repeat_those_of_another():
    seen = {draws(0, 1, [key], purpose).random() for key in ("a", "b") for purpose in (1, 2, 3)}
    assert len(seen) == 6
    assert draws(0, 1, ["a"], 1).random() == np.random.default_rng([0, 1, zlib.crc32(b"a"), 1]).random()
