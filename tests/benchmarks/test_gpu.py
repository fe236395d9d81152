from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu, gpu_bundle
from benchmarks.gpu_roofline import heavy_operations, roofline_s
from benchmarks.gpu_speed import operations_of, size_for, work_of
from trainer.errors import UserError

ROOT = Path(gpu.__file__).parents[1]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ROW = "train/slow-fast/classifier/fp32"


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def results(tmp_path) -> Path:
    """Results of this machine in which nothing but the limits is measured."""
    told = gpu.begun(tmp_path / "none.json", DEVICE, size_for(DEVICE, None))
    told["rows"]["limits"] = {"matmul_fp32_tflops": 1.0, "matmul_bf16_tflops": 2.0, "copy_gbs": 100.0}
    gpu.write(tmp_path / "gpu.json", told)
    return tmp_path / "gpu.json"


@pytest.mark.slow
def test_a_slice_that_was_killed_is_gone_on_with_and_measures_nothing_twice(tmp_path):
    path = tmp_path / "gpu.json"
    words = ["--results", str(path), "--only", ROW]
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.gpu", "run", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline().startswith("gpu: limits: ")
        first.send_signal(signal.SIGKILL)
    before = json.loads(path.read_text())
    assert list(before["rows"]) == ["limits"]

    assert gpu.run(gpu.Run(results=path, only=ROW)) == 0
    after = json.loads(path.read_text())
    assert after["rows"]["limits"] == before["rows"]["limits"]
    assert after["rows"][ROW]["samples_per_s"] > 0
    assert after["tries"]["limits"] == 1
    assert after["tries"][ROW] in (1, 2)  # the kill came before or after it was begun

    assert gpu.run(gpu.Run(results=path, only=ROW)) == 0
    assert json.loads(path.read_text()) == after


def test_a_row_in_whose_midst_the_run_ended_twice_is_left_out(results, capsys):
    told = json.loads(results.read_text())
    told["tries"][ROW] = gpu.MAX_TRIES
    gpu.write(results, told)
    assert gpu.run(gpu.Run(results=results, only=ROW)) == 0
    assert "ended in its midst 2 times" in json.loads(results.read_text())["rows"][ROW]["error"]
    assert "| slow-fast classifier | fp32 | the run ended in its midst 2 times |" in capsys.readouterr().out


def test_a_slice_ends_before_a_row_for_which_too_little_time_is_left(results, capsys):
    before = results.read_text()
    assert gpu.run(gpu.Run(results=results, only=ROW, minutes=0.9)) == gpu.MORE_TO_DO
    assert f"too few for {ROW}; call it again" in capsys.readouterr().out
    assert gpu.run(gpu.Run(results=results, only=f"{ROW[:-4]}bf16+compile", minutes=3)) == gpu.MORE_TO_DO
    assert results.read_text() == before


@pytest.mark.parametrize(("batch_size", "words"), [(3, "its batch size is 2, here it is 3"), (0, "give at least 1")])
def test_what_cannot_be_measured_is_refused_in_one_line(batch_size, words, results, capsys):
    told = json.loads(results.read_text())
    told["batch_size"] = 2
    gpu.write(results, told)
    assert gpu.main(gpu.Run(results=results, batch_size=batch_size)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --")
    assert words in line


def trained(samples_per_s: float, **others: float) -> dict[str, float | None]:
    return {
        "samples_per_s": samples_per_s,
        "tflops": 0.5,
        "share_of_roofline": 0.25,
        "peak_gib": None,
        "first_step_s": 1.0,
        **others,
    }


def test_the_table_compares_each_network_with_itself_in_fp32(results):
    told = json.loads(results.read_text())
    told["rows"] |= {
        "train/slow-fast/classifier/fp32": trained(10.0),
        "train/slow-fast/classifier/bf16+compile": trained(45.0, peak_gib=7.125),
        "train/r2plus1d-18/classifier/bf16": trained(30.0),
        "train/music-video/classifier/fp32": {"error": "OutOfMemoryError: no"},
        "load/2": {"loader_samples_per_s": 80.0, "training_samples_per_s": 40.0, "waiting_share": 0.031},
    }
    lines = gpu.table(told).splitlines()
    assert "| matmul fp32 | 1.00 TFLOP/s |" in lines
    assert "| copy | 100 GB/s |" in lines
    assert "| slow-fast classifier | fp32 | 10.0 | 1.00x | 0.50 | 25.0% | - | 1.0 |" in lines
    assert "| slow-fast classifier | bf16+compile | 45.0 | 4.50x | 0.50 | 25.0% | 7.12 | 1.0 |" in lines
    assert "| r2plus1d-18 classifier | bf16 | 30.0 | - | 0.50 | 25.0% | - | 1.0 |" in lines
    assert "| music-video classifier | fp32 | OutOfMemoryError: no |  |  |  |  |  |" in lines
    assert "| 2 | 80.0 | 40.0 | 3.1% |" in lines


def test_the_roofline_takes_the_longer_of_arithmetic_and_traffic_of_each_operation():
    found = {"matmul_fp32_tflops": 1.0, "conv3d_fp32_tflops": 2.0, "matmul_bf16_tflops": 8.0, "copy_gbs": 100.0}
    heavy, light = (4 * 10**12, 10**9), (10**9, 10**10)
    assert roofline_s([heavy], found, "fp32") == pytest.approx(2.0)  # 4 TFLOP at the best rate, 2 TFLOP/s
    assert roofline_s([light], found, "fp32") == pytest.approx(0.4)  # 40 GB at 100 GB/s
    assert roofline_s([heavy, light], found, "fp32") == pytest.approx(2.4)
    assert roofline_s([heavy, light], found, "bf16") == pytest.approx(0.5 + 0.2)  # half the bytes


def test_a_product_moves_its_factors_and_its_result():
    layer = nn.Linear(5, 7, bias=False)
    batch = torch.ones(3, 5, requires_grad=True)
    assert heavy_operations(lambda: layer(batch).sum()) == [(2 * 3 * 5 * 7, 3 * 5 + 5 * 7 + 3 * 7)] * 3


@pytest.mark.parametrize("network", ["slow-fast", "music-video"])
def test_operations_counted_without_computing_are_those_that_torch_counts(network):
    size = size_for(torch.device("cpu"), 2)
    work = work_of(network, "autoencoder", size.preset)
    inputs = {role: torch.zeros(2, *shape) for role, shape in work.inputs.items()}
    with FlopCounterMode(display=False) as counter:
        work.loss(work.module, inputs).backward()
    counted = operations_of(network, "autoencoder", size)
    assert sum(flops for flops, _ in counted) == counter.get_total_flops()
    assert all(moved > 0 for _, moved in counted)


def test_a_bundle_that_is_too_large_is_refused_in_one_line(tmp_path):
    with (tmp_path / "large.whl").open("wb") as file:
        file.truncate(gpu_bundle.MAX_BYTES)
    assert gpu_bundle.size_bytes(tmp_path) == gpu_bundle.MAX_BYTES
    (tmp_path / "more.tar").write_bytes(b"0")
    with pytest.raises(UserError, match=r"holds 64\.0 MiB, more than 64; take fewer with --clips") as refused:
        gpu_bundle.size_bytes(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_bundle_without_a_wheel_that_is_needed_does_not_pass_its_check(tmp_path):
    (tmp_path / "wheels").mkdir()
    there = {"torch", "torchvision", *gpu_bundle.NEEDED} - {"tyro"}
    with pytest.raises(UserError, match="does not suffice: ModuleNotFoundError: No module named 'tyro'"):
        gpu_bundle.check(tmp_path, sorted(there))
