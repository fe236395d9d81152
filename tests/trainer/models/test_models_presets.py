"""Presets, stored configurations, and what a bad one says."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.models.autoencoder import Autoencoder
from trainer.models.counting import forward_macs, keras_count
from trainer.models.music_video import MUSIC_VIDEO_BLOCKS, MusicVideoConfig, MusicVideoEncoder
from trainer.models.presets import Network, Preset, build_encoder, config_from_dict, main, network_config
from trainer.models.slow_fast import FAST_BLOCKS, SLOW_BLOCKS, SlowFastConfig, SlowFastEncoder

NETWORKS: tuple[Network, ...] = ("slow-fast", "music-video")
PRESETS: tuple[Preset, ...] = ("paper", "small", "tiny")


def macs(network: Network, preset: Preset, **overrides: Any) -> int:
    with torch.device("meta"):
        return forward_macs(build_encoder(network_config(network, preset, **overrides)))


@pytest.mark.parametrize("network", NETWORKS)
def test_small_costs_at_most_a_gigamac_and_tiny_a_tenth_of_that(network: Network) -> None:
    assert macs(network, "small") <= 1e9
    assert macs(network, "tiny") <= 1e8


def test_the_papers_networks_cost_what_was_recovered() -> None:
    assert macs("slow-fast", "paper") == pytest.approx(12.0e9, rel=0.01)
    assert macs("music-video", "paper") == pytest.approx(241e9, rel=0.01)
    assert macs("slow-fast", "paper", swap_video_branches=True, swap_audio_branches=False) == pytest.approx(
        24.5e9, rel=0.01
    )


def test_counting_macs_moves_no_statistic() -> None:
    encoder = build_encoder(network_config("slow-fast", "tiny"))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    forward_macs(encoder)
    assert encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_the_paper_preset_is_the_default_configuration() -> None:
    assert network_config("slow-fast", "paper") == network_config("slow-fast") == SlowFastConfig()
    assert network_config("music-video", "paper") == MusicVideoConfig()


def test_a_config_builds_its_network() -> None:
    assert isinstance(build_encoder(network_config("slow-fast", "tiny")), SlowFastEncoder)
    assert isinstance(build_encoder(network_config("music-video", "tiny")), MusicVideoEncoder)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_config_survives_the_journey_through_json(network: Network, preset: Preset) -> None:
    config = network_config(network, preset, mmtm="concat", modality="audio", phase="cos-sin")
    assert config_from_dict(asdict(config)) == config
    assert config_from_dict(json.loads(json.dumps(asdict(config)))) == config


@pytest.mark.parametrize("network", NETWORKS)
def test_a_stored_state_fits_the_rebuilt_network(network: Network) -> None:
    encoder = build_encoder(network_config(network, "tiny"))
    rebuilt = build_encoder(config_from_dict(asdict(encoder.config)))
    rebuilt.load_state_dict(encoder.state_dict())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"mmtm": "max"}, "--mmtm max: choose one of sum, concat, none"),
        ({"convolution": "depthwise"}, "--convolution depthwise: choose one of full"),
        ({"modality": "text"}, "--modality text: choose one of both"),
        ({"phase": "real"}, "--phase real: choose one of projected"),
        ({"pool": 3}, "--pool 3: give a divisor of 128"),
        ({"pool": 0}, "--pool 0"),
        ({"mmtm_ratio": 3}, "--mmtm-ratio 3 does not divide"),
        ({"mmtm_ratio": 0}, "--mmtm-ratio 0"),
        ({"fast": FAST_BLOCKS[:2]}, "--slow has 5 blocks and --fast 2"),
    ],
)
def test_a_bad_config_names_the_flag_and_the_mend(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network_config("slow-fast", "paper", **overrides)


def test_a_music_video_network_needs_two_blocks() -> None:
    with pytest.raises(ValueError, match="--blocks has 1: give at least two"):
        MusicVideoConfig(blocks=MUSIC_VIDEO_BLOCKS[:1])


def test_an_indivisible_width_is_fine_without_mmtm() -> None:
    assert SlowFastConfig(slow=SLOW_BLOCKS, mmtm="none", mmtm_ratio=3).mmtm == "none"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="--network fast: choose one of slow-fast, music-video"):
        network_config("fast")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="--preset huge: choose one of paper, small, tiny"):
        network_config("slow-fast", "huge")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="--network None"):
        config_from_dict({})


@pytest.mark.parametrize("network", NETWORKS)
def test_a_tiny_step_takes_well_under_a_second(network: Network, make_inputs: Callable[..., dict[str, Tensor]]) -> None:
    autoencoder = Autoencoder(build_encoder(network_config(network, "tiny")))
    inputs = make_inputs(autoencoder.encoder)

    def step() -> float:
        start_s = time.perf_counter()
        outputs = autoencoder(inputs)
        torch.stack([output.square().mean() for role in outputs for output in outputs[role]]).sum().backward()
        return time.perf_counter() - start_s

    assert min(step() for _ in range(3)) < 0.8


def test_the_table_lists_every_preset_of_both_networks(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(NETWORKS) * len(PRESETS)
    assert lines[1].split() == ["slow-fast", "paper", "1", "17,118,864", "23,779,708", "11.976"]
    assert lines[4].split() == ["music-video", "paper", "1", "23,078,854", "24,872,647", "241.400"]


def test_the_documentation_shows_the_table_as_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    assert capsys.readouterr().out in (Path(__file__).parents[3] / "docs/model.md").read_text()


def test_keras_counts_running_statistics_but_not_the_batch_counter() -> None:
    assert keras_count(torch.nn.BatchNorm2d(10)) == 40
