"""Both transfer modules against their definitions, computed slowly."""

import math

import pytest
import torch
from torch import Tensor

from trainer.models.counting import keras_count
from trainer.models.mmtm import ConcatMMTM, SumMMTM

AXES = {"video": 3, "audio": 2}
CHANNELS = 8


def make_maps() -> dict[str, Tensor]:
    return {"video": torch.randn(2, CHANNELS, 3, 4, 5), "audio": torch.randn(2, CHANNELS, 6, 7)}


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def product(matrix: Tensor, vector: list[float]) -> list[float]:
    return [sum(float(w) * v for w, v in zip(row, vector, strict=True)) for row in matrix]


def test_the_summed_module_adds_a_channel_gate_of_the_joint_squeeze_and_a_spatial_gate_of_each_stream() -> None:
    mmtm, maps = SumMMTM(AXES, channels=CHANNELS, ratio=4), make_maps()
    gated = mmtm(maps)
    weights = mmtm.state_dict()
    for clip in range(2):
        squeezed = [sum(float(maps[role][clip, c].mean()) for role in AXES) for c in range(CHANNELS)]
        for role in AXES:
            hidden = [max(0.0, v) for v in product(weights[f"gates.{role}.channel.0.weight"], squeezed)]
            channel_gate = [sigmoid(v) for v in product(weights[f"gates.{role}.channel.2.weight"], hidden)]
            positions = maps[role][clip].flatten(1)  # (C, N)
            spatial_weights = weights[f"gates.{role}.spatial.weight"].flatten()
            for n in range(positions.shape[1]):
                spatial_gate = sigmoid(float(spatial_weights @ positions[:, n]))
                for c in range(CHANNELS):
                    expected = float(positions[c, n]) * (channel_gate[c] + spatial_gate)
                    assert gated[role][clip].flatten(1)[c, n].item() == pytest.approx(expected, abs=1e-5)


def test_the_official_module_multiplies_by_gates_excited_from_concatenated_squeezes() -> None:
    mmtm, maps = ConcatMMTM(AXES, channels=CHANNELS, ratio=4), make_maps()
    gated = mmtm(maps)
    squeezed = torch.cat([maps["video"].mean((2, 3, 4)), maps["audio"].mean((2, 3))], 1)
    assert mmtm.squeeze.out_features == int(2 * (2 * CHANNELS) / 4)
    shared = (squeezed @ mmtm.squeeze.weight.T + mmtm.squeeze.bias).clamp(min=0)
    weights = dict(mmtm.named_parameters())
    for role, ones in (("video", (1, 1, 1)), ("audio", (1, 1))):
        gate = torch.sigmoid(shared @ weights[f"excite.{role}.weight"].T + weights[f"excite.{role}.bias"])
        torch.testing.assert_close(gated[role], maps[role] * gate.reshape(2, CHANNELS, *ones))


@pytest.mark.parametrize(
    ("channels", "published"),
    [(8, 48), (16, 160), (32, 576), (64, 2_176), (128, 8_448), (256, 33_280), (512, 132_096)],
)
def test_a_summed_module_of_ratio_8_has_the_recovered_parameter_count(channels: int, published: int) -> None:
    assert keras_count(SumMMTM(AXES, channels=channels, ratio=8)) == published


def test_the_summed_module_has_no_bias_and_the_official_one_has() -> None:
    assert not any("bias" in name for name, _ in SumMMTM(AXES, channels=8, ratio=8).named_parameters())
    official = [name for name, _ in ConcatMMTM(AXES, channels=8, ratio=8).named_parameters() if "bias" in name]
    assert official == ["squeeze.bias", "excite.video.bias", "excite.audio.bias"]


@pytest.mark.parametrize("mmtm_type", [SumMMTM, ConcatMMTM])
def test_an_absent_stream_adds_nothing_to_the_squeeze(mmtm_type: type[SumMMTM | ConcatMMTM]) -> None:
    mmtm, maps = mmtm_type(AXES, channels=CHANNELS, ratio=4), make_maps()
    alone = mmtm({"audio": maps["audio"]})
    assert list(alone) == ["audio"]
    beside_zeros = mmtm({"video": torch.zeros_like(maps["video"]), "audio": maps["audio"]})
    torch.testing.assert_close(alone["audio"], beside_zeros["audio"])


@pytest.mark.parametrize("mmtm_type", [SumMMTM, ConcatMMTM])
def test_each_stream_hears_of_the_other(mmtm_type: type[SumMMTM | ConcatMMTM]) -> None:
    mmtm, maps = mmtm_type(AXES, channels=CHANNELS, ratio=2), make_maps()
    before = mmtm(maps)["audio"]
    after = mmtm({"video": maps["video"] + 1, "audio": maps["audio"]})["audio"]
    assert (before - after).abs().max() > 1e-3
