"""What is hidden: drawn once a sample, the same place in every pathway, and all that a masked loss looks at."""

import librosa
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.masking import BLOCK_S, TOP_HZ, TUBE_S, draw, hide, over_inputs
from trainer.models.autoencoder import Autoencoder
from trainer.models.inputs import AudioInput, VideoInput, hz_to_mel
from trainer.models.presets import build_encoder, network_config
from trainer.objectives import channel_errors, reconstruction

CPU = torch.device("cpu")
SPECS = {
    "few": VideoInput(8),
    "many": VideoInput(64),
    "32k": AudioInput.of_clip(32_000),
    "22k": AudioInput.of_clip(22_050),
    "8k": AudioInput.of_clip(8_000),
}
SHARES = {"video_share": 0.75, "audio_share": 0.6}


def drawn(*keys, seed=0, epoch=0, **shares):
    return draw(keys, seed=seed, epoch=epoch, **(SHARES | shares))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**40), epoch=st.integers(0, 99), key=st.text(max_size=20))
def test_what_is_hidden_depends_on_seed_epoch_and_key_alone(seed, epoch, key):
    alone = drawn(key, seed=seed, epoch=epoch)
    among = drawn("other", key, "third", seed=seed, epoch=epoch)
    assert np.array_equal(alone.video_BTHW[0], among.video_BTHW[1])
    assert np.array_equal(alone.audio_BMT[0], among.audio_BMT[1])
    for other in (drawn(key, seed=seed + 1, epoch=epoch), drawn(key, seed=seed, epoch=epoch + 1)):
        assert not np.array_equal(alone.audio_BMT, other.audio_BMT)


@settings(max_examples=20, deadline=None)
@given(video=st.floats(0, 1), audio=st.floats(0, 1))
def test_the_shares_asked_for_are_hidden_of_every_quarter_and_of_the_sound(video, audio):
    hidden = drawn("a", "b", video_share=video, audio_share=audio)
    assert (hidden.video_BTHW.sum((2, 3)) == round(64 * video)).all()
    assert (hidden.audio_BMT.sum((1, 2)) == round(480 * audio)).all()


def test_the_8_frames_are_hidden_as_the_same_frames_among_the_64():
    masks = over_inputs(drawn("a", "b"), SPECS, CPU)
    assert masks["few"].shape == (2, 1, 8, 128, 128)
    assert torch.equal(masks["few"], masks["many"][:, :, ::8])


@pytest.mark.parametrize("role", ["32k", "22k", "8k"])
def test_a_band_and_column_is_hidden_where_its_pitch_and_time_are_whatever_the_rate(role):
    spec = SPECS[role]
    hidden = drawn("a")
    mask = over_inputs(hidden, SPECS, CPU)[role][0, 0].numpy()
    centres_hz = librosa.mel_frequencies(n_mels=130, fmin=0, fmax=spec.sample_rate_hz / 2)[1:-1]
    top_mel = librosa.hz_to_mel(TOP_HZ)
    for band in range(0, 128, 3):
        row = int(librosa.hz_to_mel(centres_hz[band]) / top_mel * 16 + 1e-9)
        for column in range(0, spec.num_frames, 7):
            second = min(29, int(column * 512 / spec.sample_rate_hz / BLOCK_S))
            assert mask[band, column] == hidden.audio_BMT[0, row, second]


def test_what_8_khz_repeats_of_32_khz_is_hidden_in_both():
    masks = over_inputs(drawn(*"abcdefgh"), SPECS, CPU)
    low, high = masks["8k"][:, 0], masks["32k"][:, 0]
    # 32 kHz has four columns for one of 8 kHz; of its bands, those nearest in pitch.
    mel_low, mel_high = (hz_to_mel(rate_hz / 2) * np.arange(1, 129) / 129 for rate_hz in (8_000, 32_000))
    nearest = torch.from_numpy(np.abs(mel_high[None] - mel_low[:, None]).argmin(1))
    agree = (high[:, :, ::4][:, nearest] == low).float().mean()
    assert agree > 0.95  # but for bands at a block's border, which have no twin
    assert (high[:, :, ::4][:, nearest][:, :, 1:] == low[:, :, :-1]).float().mean() < agree


def test_pitches_are_librosas():
    for frequency_hz in (0.0, 440.0, 999.9, 1_000.0, 4_000.0, 11_025.0, 16_000.0):
        assert hz_to_mel(frequency_hz) == pytest.approx(librosa.hz_to_mel(frequency_hz))


def test_a_tube_lasts_seconds_and_stays_in_its_place():
    mask = over_inputs(drawn("a"), SPECS, CPU)["many"][0, 0]
    frames = round(64 * TUBE_S / 30)
    for start in range(0, 64, frames):
        assert (mask[start : start + frames] == mask[start]).all()
    tubes = mask[:, ::16, ::16]
    assert torch.equal(mask, tubes.repeat_interleave(16, 1).repeat_interleave(16, 2))


def test_what_is_hidden_is_the_training_mean_and_the_rest_is_as_it_was():
    inputs = {role: torch.randn(1, *spec.shape) + 3 for role, spec in SPECS.items()}
    masks = over_inputs(drawn("a"), SPECS, CPU)
    for role, seen in hide(inputs, masks).items():
        everywhere = masks[role].expand_as(seen)
        assert not seen[everywhere].any()
        assert torch.equal(seen[~everywhere], inputs[role][~everywhere])


@pytest.mark.parametrize("network", ["slow-fast", "music-video"])
def test_a_masked_loss_sees_hidden_parts_alone_at_every_size_of_the_outputs(network):
    torch.manual_seed(0)
    model = Autoencoder(build_encoder(network_config(network, "tiny")))
    inputs = {role: torch.randn(2, *spec.shape) for role, spec in model.encoder.inputs.items()}
    masks = over_inputs(drawn("a", "b"), model.encoder.inputs, CPU)
    shares, targets = model.shares(masks), model.targets(inputs)
    outputs = {role: [torch.zeros_like(x) for x in by_level] for role, by_level in targets.items()}
    for role, by_level in shares.items():
        assert [x.shape[2:] for x in by_level] == [x.shape[2:] for x in targets[role]]
        # The share of a cell is the mean of the mask over what its target is the mean of.
        ones = {name: (masks[name] if name == role else masks[name] & False).expand_as(x) for name, x in inputs.items()}
        means = model.targets({name: x.float() for name, x in ones.items()})[role]
        for share, mean in zip(by_level, means, strict=True):
            torch.testing.assert_close(share, mean[:, :1])

    def loss():
        return reconstruction(outputs, targets, aux_weight=1.0, shares=shares).item()

    whole = loss()
    slow = sum(
        (((share * target**2).sum() / (share.sum() * target.shape[1])).item())
        for role in targets
        for share, target in zip(shares[role], targets[role], strict=True)
    )
    assert whole == pytest.approx(slow, rel=1e-4)
    for role, by_level in outputs.items():
        for output, share in zip(by_level, shares[role], strict=True):
            output += 100 * (share == 0)
    assert loss() == whole
    names = {role: [str(i) for i in range(x.shape[1])] for role, x in inputs.items()}
    errors = channel_errors(outputs, targets, names, shares)
    assert all(errors[f"mse/{r}/{c}"] == errors[f"mean/{r}/{c}"] for r in names for c in names[r])
