"""What is derived of a stored angle, against signals whose phase is known; and which sets serve which phase."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.schema import HOP, SAMPLE_RATES_HZ, num_columns
from pipeline.spectrogram import mel_and_phase
from trainer.errors import UserError
from trainer.inputs import Inputs, moments_read
from trainer.models.inputs import CHANNEL_NAMES, AudioInput
from trainer.models.preprocess import with_phase, wrapped
from trainer.phase import choose_phase

RATE_HZ = 8_000
TONE_HZ = 1_000.0
INSIDE = slice(4, -4)  # the ends are mirrored, and their angles are other ones
ROUNDING = 0.004  # float16 near pi has steps of 1/512; a difference has two roundings


def stored_tone(frequency_hz, rate_hz=RATE_HZ, phase="angle"):
    """What a set stores of a tone, (1, 2, 128, T), and the band it sounds loudest in."""
    t_s = np.arange(30 * rate_hz) / rate_hz
    mel = mel_and_phase(np.cos(2 * np.pi * frequency_hz * t_s).astype(np.float32), sample_rate_hz=rate_hz, phase=phase)
    return torch.from_numpy(mel)[None], int(mel[0].astype(np.float32).mean(1).argmax())


def turned(angle):
    """The same angle in (-pi, pi], the slow way."""
    return np.angle(np.exp(1j * np.asarray(angle, dtype=np.float64)))


@pytest.mark.parametrize("name", SAMPLE_RATES_HZ)
@pytest.mark.parametrize("frequency_hz", [1_000.0, 440.0, 1_003.0])
def test_a_tones_instantaneous_frequency_is_how_far_its_angle_turns_in_a_hop(name, frequency_hz):
    rate_hz = SAMPLE_RATES_HZ[name]
    stored, band = stored_tone(frequency_hz, rate_hz)
    derived = with_phase(stored.float(), "inst-freq")
    assert derived.shape == (1, 2, 128, num_columns(rate_hz))
    expected = turned(2 * np.pi * frequency_hz * HOP / rate_hz)
    turns = derived[0, 1, band].numpy()
    assert np.abs(turned(turns[INSIDE] - expected)).max() < ROUNDING
    assert turns[0] == turns[1]  # nothing is before the first column
    assert torch.equal(derived[:, 0], stored[:, 0].float())


def test_a_tones_cosine_and_sine_lie_on_the_circle_at_its_known_phase():
    stored, band = stored_tone(TONE_HZ)
    level, cosine, sine = with_phase(stored.float(), "cos-sin")[0, :, band].numpy()
    # A column is centred on its time and the transform's frame begins half a window, 128 ms, before that.
    column_s = np.arange(num_columns(RATE_HZ)) * HOP / RATE_HZ
    expected = 2 * np.pi * TONE_HZ * (column_s - 0.128)
    assert np.abs(cosine - np.cos(expected))[INSIDE].max() < 2 * ROUNDING
    assert np.abs(sine - np.sin(expected))[INSIDE].max() < 2 * ROUNDING
    assert np.abs(np.hypot(cosine, sine) - 1).max() < 1e-6
    assert np.array_equal(level, stored[0, 0, band].float().numpy())


def test_no_phase_is_the_log_mel_and_a_stored_phase_is_as_it_is_stored():
    stored = stored_tone(TONE_HZ)[0].float()
    assert torch.equal(with_phase(stored, "none"), stored[:, :1])
    assert torch.equal(with_phase(stored, "angle"), stored)
    assert torch.equal(with_phase(stored, "projected"), stored)


@given(st.floats(-20, 20))
def test_a_wrapped_angle_is_the_same_angle_within_half_a_turn(angle):
    got = wrapped(torch.tensor(angle, dtype=torch.float64)).item()
    assert -math.pi <= got < math.pi
    assert abs(turned(got - angle)) < 1e-9


@pytest.mark.parametrize("phase", CHANNEL_NAMES)
def test_an_angle_that_is_anywhere_equally_often_comes_out_standardised(phase):
    generator = torch.Generator().manual_seed(0)
    level = torch.randn(2, 1, 128, 469, generator=generator) * 8 - 40
    angle = (torch.rand(2, 1, 128, 469, generator=generator) * 2 - 1) * math.pi
    specs = {"audio": AudioInput.of_clip(RATE_HZ, phase)}
    stored = {"mel_8k": {"mean": [-40.0, 0.0], "std": [8.0, math.pi / math.sqrt(3)]}}
    to_inputs = Inputs(specs, moments_read(specs, stored), torch.device("cpu"))
    inputs = to_inputs({"mel_8k": torch.cat([level, angle], 1).half()})["audio"]
    assert inputs.shape == (2, *specs["audio"].shape)
    assert inputs.mean((0, 2, 3)).abs().max() < 0.01
    assert (inputs.std((0, 2, 3)) - 1).abs().max() < 0.01
    assert to_inputs.channel_names == {"audio": CHANNEL_NAMES[phase]}


def test_joint_normalisation_is_that_of_all_values_together():
    generator = torch.Generator().manual_seed(7)
    stored = torch.randn(3, 2, 128, 469, generator=generator) * torch.tensor([8.0, 0.05]).view(1, 2, 1, 1)
    stored[:, 0] -= 40
    moments = {
        "mel_8k": {
            "mean": stored.double().mean((0, 2, 3)).tolist(),
            "std": stored.double().std((0, 2, 3), correction=0).tolist(),
        }
    }
    specs = {"audio": AudioInput.of_clip(RATE_HZ)}
    joint = moments_read(specs, moments, "joint")
    assert joint["mel_8k"]["mean"] == pytest.approx([stored.mean().item()] * 2, rel=1e-5)
    assert joint["mel_8k"]["std"] == pytest.approx([stored.std(correction=0).item()] * 2, rel=1e-5)
    inputs = Inputs(specs, joint, torch.device("cpu"))({"mel_8k": stored})["audio"]
    assert inputs.mean().item() == pytest.approx(0, abs=1e-4)
    assert inputs[:, 1].std().item() < 0.01  # the phase next to nothing, as the authors had it


def test_a_set_of_the_wrong_recipe_is_refused_with_the_mend():
    assert choose_phase(None, {"phase": "angle"}, address="set") == "angle"
    assert choose_phase(None, {}, address="set") == "projected"
    for stored in ("projected", "angle"):
        assert choose_phase("none", {"phase": stored}, address="set") == "none"
    for derived in ("angle", "cos-sin", "inst-freq"):
        assert choose_phase(derived, {"phase": "angle"}, address="set") == derived
        with pytest.raises(
            UserError,
            match=f"--phase {derived}, but set was built with phase projected; build it with "
            "--phase angle, or train with --phase projected or none",
        ):
            choose_phase(derived, {"phase": "projected"}, address="set")
    with pytest.raises(UserError, match="build it with --phase projected, or train with --phase angle or none"):
        choose_phase("projected", {"phase": "angle"}, address="set")
    with pytest.raises(UserError, match="phase whatever, which is none of projected, angle"):
        choose_phase(None, {"phase": "whatever"}, address="set")
