"""Sound and picture compared: the loss by hand, and that neither embedding knows of the other."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainer.contrast import Embeddings, contrast, padded
from trainer.models.autoencoder import Autoencoder
from trainer.models.contrastive import ContrastiveAutoencoder
from trainer.models.presets import build_encoder, network_config

ROOT = Path(__file__).parents[2]


def unit(*rows):
    return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float32), dim=1)


def pair(audio, video, groups):
    return Embeddings(audio, video, torch.tensor(groups), torch.ones(len(groups), dtype=torch.bool))


def slow_info_nce(audio, video, groups, scale):
    """One clip, one candidate at a time."""
    losses = []
    for mine, others in ((audio, video), (video, audio)):
        for i in range(len(mine)):
            weights = [math.exp(scale * float(mine[i] @ others[j])) for j in range(len(others))]
            allowed = [j for j in range(len(others)) if j == i or groups[j] != groups[i]]
            losses.append(-math.log(weights[i] / sum(weights[j] for j in allowed)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("groups", [[1, 2, 3, 4], [1, 1, 2, 3], [5, 5, 5, 5]])
def test_contrast_is_symmetric_info_nce_without_negatives_of_the_same_source_group(groups):
    torch.manual_seed(0)
    audio, video = (torch.nn.functional.normalize(torch.randn(4, 6), dim=1) for _ in range(2))
    own = pair(audio, video, groups)
    measured = contrast(own, own, torch.tensor(5.0))
    assert measured["contrast"].item() == pytest.approx(slow_info_nce(audio, video, groups, 5.0), abs=1e-5)


def test_a_clip_that_finds_its_own_partner_is_counted():
    own = pair(unit([1, 0], [0, 1]), unit([1, 0.1], [0.1, 1]), [1, 2])
    swapped = pair(unit([1, 0], [0, 1]), unit([0.1, 1], [1, 0.1]), [1, 2])
    assert contrast(own, own, torch.tensor(10.0))["contrast/found"] == 1
    assert contrast(swapped, swapped, torch.tensor(10.0))["contrast/found"] == 0


def test_rows_that_fill_up_a_short_batch_count_for_nothing():
    torch.manual_seed(0)
    audio, video = (torch.nn.functional.normalize(torch.randn(3, 6), dim=1) for _ in range(2))
    own = pair(audio, video, [1, 2, 3])
    filled = padded(own, 5)
    scale = torch.tensor(5.0)
    torch.testing.assert_close(contrast(filled, filled, scale), contrast(own, own, scale))


def test_a_batch_that_counts_nothing_costs_nothing_and_is_no_negative():
    torch.manual_seed(0)
    audio, video = (torch.nn.functional.normalize(torch.randn(4, 6), dim=1) for _ in range(2))
    everyone, scale = pair(audio, video, [1, 2, 3, 4]), torch.tensor(5.0)
    everyone.real_B[2:] = False
    filler = Embeddings(*(x[2:] for x in everyone))
    assert contrast(filler, everyone, scale, first=2)["contrast"].item() == 0
    first = Embeddings(*(x[:2] for x in everyone))
    torch.testing.assert_close(contrast(first, everyone, scale), contrast(first, first, scale))


def test_a_rank_compares_its_clips_with_those_of_all_ranks():
    torch.manual_seed(0)
    audio, video = (torch.nn.functional.normalize(torch.randn(6, 4), dim=1) for _ in range(2))
    everyone, scale = pair(audio, video, [1, 2, 3, 4, 5, 6]), torch.tensor(3.0)
    halves = [Embeddings(*(x[i : i + 3] for x in everyone)) for i in (0, 3)]
    losses = [contrast(half, everyone, scale, first=i)["contrast"] for half, i in zip(halves, (0, 3), strict=True)]
    torch.testing.assert_close(sum(losses) / 2, contrast(everyone, everyone, scale)["contrast"])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ContrastiveAutoencoder(build_encoder(network_config("slow-fast", "tiny")))


def inputs_of(model, seed):
    generator = torch.Generator().manual_seed(seed)
    return {role: torch.randn(3, *spec.shape, generator=generator) for role, spec in model.encoder.inputs.items()}


def test_changing_the_video_leaves_the_embedding_of_the_sound_as_it_was_and_the_other_way_round(model):
    first, second = inputs_of(model, 0), inputs_of(model, 1)
    for kept, changed in (("audio", "video"), ("video", "audio")):
        mixed = {role: (second if role.startswith(changed) else first)[role] for role in first}
        _, before, _ = model(first, contrast=True)
        _, after, _ = model(mixed, contrast=True)
        assert torch.equal(before[kept], after[kept])
        assert not torch.allclose(before[changed], after[changed])
        fused = model.encoder(first), model.encoder(mixed)
        assert not torch.allclose(*(maps[f"{kept}_slow"] for maps in fused))  # with MMTMs they do know of each other
        torch.testing.assert_close(before[kept].norm(dim=1), torch.ones(3))


def test_the_temperature_starts_at_clips_and_stays_above_a_hundredth(model):
    assert 1 / model.scale.item() == pytest.approx(0.07)
    with torch.no_grad():
        model.log_scale.fill_(50.0)
    assert 1 / model.scale.item() == pytest.approx(0.01)


def test_encoder_and_decoders_are_named_as_in_an_autoencoder(model):
    plain = Autoencoder(build_encoder(network_config("slow-fast", "tiny")))
    own = {name for name in model.state_dict() if not name.startswith(("encoder.", "decoders."))}
    assert own == {"log_scale", "projections.audio.weight", "projections.video.weight"}
    assert set(model.state_dict()) - own == set(plain.state_dict())


def test_one_batch_of_pairs_can_be_learned():
    torch.manual_seed(0)
    model = ContrastiveAutoencoder(build_encoder(network_config("slow-fast", "tiny")))
    inputs = inputs_of(model, 0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        embedded = model.compare(inputs)
        own = pair(embedded["audio"], embedded["video"], [1, 2, 3])
        loss = contrast(own, own, model.scale)["contrast"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 < losses[0]


@pytest.mark.slow
def test_two_ranks_together_have_the_gradient_of_one_large_batch(tmp_path):
    torch.manual_seed(0)
    audio, video = torch.randn(5, 4), torch.randn(5, 4)  # the second rank's batch is short
    groups, scale = [1, 2, 2, 3, 4], torch.tensor(3.0)
    script = tmp_path / "ranks.py"
    script.write_text(_RANKS)
    torch.save({"audio": audio, "video": video, "groups": torch.tensor(groups)}, tmp_path / "clips.pt")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=120
    )
    assert done.returncode == 0
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]

    weight = torch.eye(4, requires_grad=True)
    own = pair(*(torch.nn.functional.normalize(x @ weight, dim=1) for x in (audio, video)), groups)
    losses = [
        contrast(Embeddings(*(x[rows] for x in own)), own, scale, first=first)["contrast"]
        for rows, first in ((slice(0, 3), 0), (slice(3, 5), 3))
    ]
    (sum(losses) / 2).backward()
    for rank, loss in zip(ranks, losses, strict=True):
        torch.testing.assert_close(rank["loss"], loss.detach())
        torch.testing.assert_close(rank["gradient"], weight.grad)  # which data parallelism has averaged


_RANKS = """
import sys
from pathlib import Path

import torch
from lightning.fabric import Fabric

from trainer.contrast import Embeddings, contrast, of_all_ranks

folder = Path(sys.argv[1])
fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
fabric.launch()
clips = torch.load(folder / "clips.pt")
linear = torch.nn.Linear(4, 4, bias=False)
torch.nn.init.eye_(linear.weight)
model = fabric.setup(linear)
rows = slice(0, 3) if fabric.global_rank == 0 else slice(3, 5)
both = torch.cat([clips["audio"][rows], clips["video"][rows]])
embedded = torch.nn.functional.normalize(model(both), dim=1)
half = len(both) // 2
own = Embeddings(embedded[:half], embedded[half:], clips["groups"][rows], torch.ones(half, dtype=torch.bool))
own, everyone, first = of_all_ranks(own, fabric, batch_size=3)
loss = contrast(own, everyone, torch.tensor(3.0), first=first)["contrast"]
fabric.backward(loss)
torch.save({"loss": loss.detach(), "gradient": linear.weight.grad.T}, folder / f"{fabric.global_rank}.pt")
"""
