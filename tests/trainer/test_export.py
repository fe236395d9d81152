"""What is given away: it says what the network says, opens without our training code, and nothing in it is run."""

import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from trainer import evaluate, export, forms
from trainer.calibration import Sigmoids
from trainer.inputs import Inputs
from trainer.loader import Loader
from trainer.metrics import predict
from trainer.models.classifier import Classifier
from trainer.models.emotion import EmotionModel, Sigmoid
from trainer.models.folder import FolderError, open_folder
from trainer.models.preprocess import source_of
from trainer.models.presets import build_encoder, network_config
from trainer.order import Order
from trainer.shards import ShardSet
from trainer.trained import open_trained

CPU = torch.device("cpu")

BLOCKED = """
import importlib.abc, importlib.machinery, sys
class Block(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):  # torch's compiler looks for packages that it does not import
        return importlib.machinery.ModuleSpec(name, self) if name.split(".")[0] in {names!r} else None
    def create_module(self, spec):
        raise ModuleNotFoundError(f"No module named {{spec.name!r}} (blocked)", name=spec.name)
    def exec_module(self, module):
        raise NotImplementedError
sys.meta_path.insert(0, Block())
"""
TRAINING = ["lightning", "torchvision", "torchmetrics", "sklearn", "webdataset", "pyarrow", "pipeline"]


def random_model(network="slow-fast", *, scale=1.0, why_not_alone=None, **overrides):
    """A network that nobody trained, whose statistics and weights are of an order as if."""
    draw = torch.Generator().manual_seed(0)
    classifier = Classifier(build_encoder(network_config(network, "tiny", **overrides)), 4)
    for name, tensor in classifier.state_dict().items():
        if name.endswith(("running_mean", "mean_embedding", "bias")):
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=draw))
        elif name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=draw))
    specs = classifier.encoder.inputs.values()
    normalization = {
        source_of(spec).member: {"mean": [100.0, 110, 120], "std": [70.0, 60, 50]}
        if spec.modality == "video"
        else {"mean": [-40.0, 0.1, 0.2][: spec.channels], "std": [15.0, 0.7, 0.6][: spec.channels]}
        for spec in specs
    }
    model = EmotionModel(
        classifier,
        labels=["a", "b", "c", "d"],
        normalization=normalization,
        sigmoids={
            "both": Sigmoid(0.8, [0.1, -0.2, 0.3, 0.0]),
            "audio": Sigmoid(0.6, [0.2, -0.1, 0.0, 0.1]),
            "video": Sigmoid(0.4, [0.0, 0.5, 0.3, -0.1]),
        },
        why_not_alone=why_not_alone,
    )
    with torch.no_grad():  # logits of about 1, so that probabilities tell samples apart
        logits = classifier(model.preprocess(forms.random_samples(model, 2, seed=9)))
        factor = scale / logits.std()
        classifier.head.weight *= factor
        classifier.head.bias.copy_(factor * (classifier.head.bias - logits.mean(0)))
    return model


@pytest.fixture(scope="module")
def run(runs, sets, tmp_path_factory):
    """A run that was evaluated."""
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(runs / "finetuned", folder)
    evaluate.main(["--run", str(folder), "--shards", str(sets / "mved"), "--bootstrap", "100"])
    return folder


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """Its export in the forms that are quick to open."""
    out = tmp_path_factory.mktemp("exports") / "two"
    export.main(["--run", str(run), "--out", str(out), "--formats", "onnx", "pretrained"])
    return out


@pytest.fixture(scope="module")
def complete(run, tmp_path_factory):
    """Its export as it is by default, in all forms."""
    out = tmp_path_factory.mktemp("exports") / "all"
    export.main(["--run", str(run), "--out", str(out)])
    return out


@pytest.fixture
def small(tmp_path):
    """A folder that ``save_pretrained`` wrote."""
    random_model(modality="audio", phase="none").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def header_of(folder):
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def alter(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def rehash(folder):
    alter(folder, sha256=hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest())


# --- what it says --------------------------------------------------------------------------------------------------


def test_the_forms_say_of_stored_samples_what_evaluate_says(run, exported, sets):
    trained, data = open_trained(run), ShardSet.open(str(sets / "mved"))
    to_inputs = Inputs(trained.classifier.encoder.inputs, trained.config.normalization, CPU)
    loader = Loader(data, data.split("test"), members=to_inputs.members, order=Order(batch_size=6, shuffle=False))
    said = predict(trained.classifier, loader.batches(), to_inputs)
    (batch,) = loader.batches()
    samples = {name: batch[name] for name in to_inputs.members}
    with torch.no_grad():
        for form in (forms.read_pretrained(exported), forms.read_onnx(exported / "model.onnx")):
            own = form(samples)
            np.testing.assert_allclose(own["probabilities"].numpy(), said.probabilities, atol=1e-5)
            np.testing.assert_allclose(own["scores"].numpy(), trained.sigmoids["both"](said.probabilities), atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_scores_are_the_sigmoids_of_the_probabilities_however_sure_the_network_is(scale):
    model = random_model(modality="audio", scale=scale)
    samples = forms.random_samples(model, 3, seed=1)
    with torch.no_grad():
        said = model(**samples)
        exact = model.classifier(model.preprocess(samples)).double().softmax(1)
    scores = Sigmoids(**model.sigmoids["audio"]._asdict(), num_samples=0)(exact.numpy())
    np.testing.assert_allclose(said["scores"].numpy(), scores, atol=1e-6)
    np.testing.assert_allclose(said["probabilities"].numpy(), exact.numpy(), atol=1e-6)


def test_what_is_saved_comes_back_bit_for_bit(tmp_path):
    model = random_model(swap_audio_branches=True, phase="cos-sin", mmtm="concat", why_not_alone="so")
    model.about = {"anything": ["told"]}
    model.save_pretrained(tmp_path)
    again = EmotionModel.from_pretrained(str(tmp_path))
    samples = forms.random_samples(model, 2, seed=0)
    with torch.no_grad():
        said, same = model(**samples), again(**samples)
    assert all(torch.equal(said[name], same[name]) for name in said)
    assert (again.labels, again.about, again.why_not_alone) == (model.labels, model.about, "so")
    assert not any(module.training for module in again.modules())


def test_a_modality_is_left_out_whole_or_not_at_all():
    model = random_model()
    samples = forms.random_samples(model, 2, seed=0)
    with torch.no_grad():
        alone = model(frames=samples["frames"])
        inputs = model.preprocess(samples)
        expected = model.classifier({role: x for role, x in inputs.items() if role.startswith("video")}).softmax(1)
    assert torch.equal(alone["probabilities"], expected)
    scores = Sigmoids(**model.sigmoids["video"]._asdict(), num_samples=0)(expected.double().numpy())
    np.testing.assert_allclose(alone["scores"].numpy(), scores, atol=1e-6)
    with pytest.raises(ValueError, match=r"^mel_8k missing: the network reads frames, mel_32k, mel_8k$"):
        model(frames=samples["frames"], mel_32k=samples["mel_32k"])
    with pytest.raises(ValueError, match="missing"):
        model()


def test_a_network_that_always_saw_both_refuses_one_with_the_reason():
    model = random_model(why_not_alone="it never had to")
    samples = forms.random_samples(model, 1, seed=0)
    with pytest.raises(ValueError, match=r"^mel_32k, mel_8k missing: it never had to$"):
        model(frames=samples["frames"])


@pytest.mark.parametrize(
    ("name", "wrong", "told"),
    [
        ("frames", np.zeros((1, 64, 128, 128, 3), np.uint8), "frames is ndarray, no tensor; give torch.from_numpy"),
        ("mel_8k", torch.zeros(1, 2, 128, 469, dtype=torch.int32), "mel_8k is int32 .*; give float16 or float32"),
        ("mel_8k", torch.full((1, 2, 128, 469), torch.nan), "mel_8k holds values that are not finite"),
        ("mel_32k", torch.full((1, 2, 128, 1876), -torch.inf).half(), "mel_32k holds values that are not finite"),
        ("mel_8k", torch.zeros(3, 2, 128, 469), "1 of frames, 1 of mel_32k, 3 of mel_8k; give as many of each"),
        ("frames", torch.zeros(1, 64, 128, 128, 3), r"frames is float32 .*; give uint8 \(B, 64, 128, 128, 3\)"),
        ("frames", torch.zeros(1, 3, 64, 128, 128, dtype=torch.uint8), r"frames is uint8 \(1, 3, 64, 128, 128\)"),
        ("mel_8k", torch.zeros(2, 128, 469), r"mel_8k is float32 \(2, 128, 469\); give float16 or float32 \(B, 2"),
        ("mel_8k", torch.zeros(1, 2, 128, 469, dtype=torch.uint8), "mel_8k is uint8"),
    ],
)
def test_an_array_that_is_not_as_stored_is_refused_by_name(name, wrong, told):
    model = random_model()
    with pytest.raises(ValueError, match=told):
        model(**{**forms.random_samples(model, 1, seed=0), name: wrong})


# --- the folder ----------------------------------------------------------------------------------------------------


def test_the_folder_holds_what_was_asked_for_and_nothing_that_was_underway(exported):
    names = {path.name for path in exported.iterdir()}
    assert names == {"README.md", "config.json", "model.onnx", "model.safetensors"}
    told = json.loads((exported / "config.json").read_text())
    assert told["format_version"] == 1
    assert told["labels"] == ["Calm", "Loud", "Sad"]
    sound = told["about"]["preprocessing"]["members"]["mel_8k"]
    assert (sound["sample_rate_hz"], sound["n_fft_samples"], sound["hop_samples"]) == (8000, 2048, 512)
    assert set(told["normalization"]) == {"frames", "mel_32k", "mel_8k"}


@pytest.mark.parametrize("form", ["pretrained", "onnx"])
def test_the_examples_of_the_card_run_as_they_stand_without_our_training_code(exported, form):
    run_example(exported, form, number=["pretrained", "onnx"].index(form))


@pytest.mark.slow
@pytest.mark.parametrize("form", export.FORMS)
def test_so_do_all_three_of_an_export_as_it_is_by_default(complete, form):
    run_example(complete, form, number=export.FORMS.index(form))


def run_example(folder, form, *, number):
    """Run an example of the card in a process that cannot train, and hold what it prints against the model."""
    snippets = re.findall(r"^```python\n(.*?)^```", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    snippet = snippets[number]
    blocked = BLOCKED.format(names=TRAINING + ([] if form == "pretrained" else ["trainer"]))
    root = str(Path(export.__file__).parents[1])
    code = f"{blocked}\nsys.path.insert(0, {root!r})\n{snippet}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    model = EmotionModel.from_pretrained(folder)
    zeros = {name: torch.zeros_like(sample) for name, sample in forms.random_samples(model, 1, seed=0).items()}
    with torch.no_grad():
        said = model(**zeros)
    told = re.findall(r"^(\w+): (\d\.\d{3}) of all, (\d\.\d{3}) for itself$", done.stdout, re.MULTILINE)
    assert [label for label, _, _ in told] == ["Calm", "Loud", "Sad"]
    assert [float(one) for _, one, _ in told] == pytest.approx(said["probabilities"][0].tolist(), abs=1e-3)
    assert [float(one) for _, _, one in told] == pytest.approx(said["scores"][0].tolist(), abs=1e-3)


def test_the_card_tells_scores_data_limits_and_rights(run, exported):
    scores = json.loads((run / "metrics.json").read_text())
    header, text = header_of(exported), (exported / "README.md").read_text()
    assert header["library_name"] == "music-video-emotion"
    assert header["license"] == "other"
    (result,) = header["model-index"][0]["results"]
    assert {one["name"]: one["value"] for one in result["metrics"]}["accuracy"] == scores["accuracy"]
    assert result["dataset"]["name"] == "mved"
    config = json.loads((run / "config.json").read_text())
    low, high = scores["accuracy_interval"]
    for words in (
        f"| accuracy | {scores['accuracy']:.3f} (95% {low:.3f} to {high:.3f}) |",
        f"fingerprint `{config['data']}`",
        "12 source groups to learn from",
        "Not for judging people",
        "Under which licence the weights may be used was not stated",
        "Do not leave sound or pictures out: the network never had to",
        "mono sound at 32000 Hz, Hann window of 2048 samples, a column every 512",
        "beyond 0.0001 it would not have been written",
    ):
        assert words in text, words
    assert str(run.parent) not in text + (exported / "config.json").read_text()
    assert not re.search(r"\{\{|\{%", text)


def test_a_run_that_nobody_evaluated_says_so_and_the_licence_is_the_owners(runs, tmp_path):
    out = tmp_path / "out"
    words = ["--license", "cc-by-4.0", "--name", 'Mine: "the | best"', "--formats", "pretrained"]
    export.main(["--run", str(runs / "finetuned"), "--out", str(out), *words])
    assert {path.name for path in out.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    text = (out / "README.md").read_text()
    assert "It was not evaluated: no scores lay in the run it was made of." in text
    assert "given under `cc-by-4.0`" in text
    assert "model-index" not in header_of(out)
    assert text.count("```python") == 1


def test_scores_of_another_checkpoint_are_not_taken_for_this_ones(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    scores = json.loads((copy / "metrics.json").read_text())
    (copy / "metrics.json").write_text(json.dumps(scores | {"checkpoint": "best-00000001"}))
    export.main(["--run", str(copy), "--out", str(tmp_path / "out"), "--formats", "pretrained"])
    assert "are of another checkpoint" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (lambda found: {name: found[name] for name in ("checkpoint",)}, "there is no 'accuracy_interval'"),
        (lambda found: {name: value for name, value in found.items() if name != "majority"}, "there is no 'majority'"),
        (lambda found: found | {"per_class": {"Calm": {}}}, "there is no 'n'"),
        (lambda found: found | {"per_class": []}, "has no attribute 'items'"),
        (lambda found: found | {"accuracy": "good"}, "could not convert string to float: 'good'"),
        (lambda found: [], "list indices"),
    ],
)
def test_scores_that_lack_what_the_card_tells_are_refused_before_the_forms_are_made(
    run, tmp_path, refused, changes, told
):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    path = copy / "metrics.json"
    path.write_text(json.dumps(changes(json.loads(path.read_text()))))
    line = refused(export.main, "--run", copy, "--out", tmp_path / "out", "--formats", "pretrained")
    assert line.startswith(f"error: {path} cannot be read (")
    assert told in line
    assert line.endswith("evaluate the run again, or remove it")
    assert not (tmp_path / "out").exists()


# --- whole or not at all -------------------------------------------------------------------------------------------


def test_an_earlier_export_is_replaced_and_anything_else_left_alone(runs, tmp_path, refused):
    out, flags = tmp_path / "out", ["--run", str(runs / "finetuned"), "--formats", "pretrained"]
    export.main([*flags, "--out", str(out)])
    (out / "model.onnx").write_text("of an earlier export")
    (out / "NOTES").write_text("mine")
    export.main([*flags, "--out", str(out), "--license", "mit"])
    assert header_of(out)["license"] == "mit"
    assert {path.name for path in out.iterdir()} == {"README.md", "config.json", "model.safetensors", "NOTES"}
    other = tmp_path / "other"
    other.mkdir()
    (other / "README.md").write_text("a book of mine\nlibrary_name: music-video-emotion in passing\n")
    line = refused(export.main, *flags, "--out", other)
    assert "README.md is not of an earlier trainer.export, and would be lost" in line
    assert [path.name for path in other.iterdir()] == ["README.md"]


def test_weights_may_be_read_by_whom_the_umask_allows(tmp_path):
    before = os.umask(0o027)
    try:
        random_model(modality="audio", phase="none").save_pretrained(tmp_path)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}


def test_a_form_that_says_otherwise_is_not_written(runs, tmp_path, refused, monkeypatch):
    monkeypatch.setattr(forms, "TOLERANCE", -1.0)
    out = tmp_path / "out"
    line = refused(export.main, "--run", runs / "finetuned", "--out", out, "--formats", "pretrained")
    assert "model.safetensors says otherwise than the network" in line
    assert not out.exists()


def test_what_is_missing_for_onnx_is_named_with_the_mend(runs, tmp_path, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    line = refused(export.main, "--run", runs / "finetuned", "--out", tmp_path / "out")
    assert "there is no onnxscript: pip install 'music-video-emotion[export]', or give --formats" in line


def test_a_run_that_cannot_be_given_away_is_refused(runs, tmp_path, refused):
    assert "is a pretrain run" in refused(export.main, "--run", runs / "pretrained", "--out", tmp_path / "out")
    assert "--license" in refused(export.main, "--run", "x", "--out", "y", "--license", "a\nb")
    assert not (tmp_path / "out").exists()


# --- distrust ------------------------------------------------------------------------------------------------------


class Evil:
    """Runs when unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


def test_nothing_is_unpickled(small):
    (small / "model.safetensors").write_bytes(pickle.dumps(Evil()))
    rehash(small)
    with pytest.raises(FolderError, match="damaged or altered"):
        EmotionModel.from_pretrained(small)


def network_of(folder, **changes):
    return json.loads((folder / "config.json").read_text())["network"] | changes


def block(**changes):
    return {"features": 4, "kernels": [3, 3, 3, 3, 3], "out_channels": 8} | changes


def sigmoid(**changes):
    """One as ``config.json`` holds it, altered."""
    return {"slope": 1.0, "offsets": [0.0] * 4} | changes


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (lambda folder: {"format": "llama"}, "is of something else"),
        (lambda folder: {"format_version": 2}, "of format version 2, this software reads 1"),
        (lambda folder: {"labels": ["only"]}, "labels are not 2"),
        (lambda folder: {"labels": ["a", "b", "c", "d", "e"]}, "damaged or altered"),
        (lambda folder: {"sigmoids": {"audio": sigmoid(offsets=[0.0])}}, "1 offsets for 4 classes"),
        (lambda folder: {"sigmoids": {"audio": sigmoid(slope=float("nan"))}}, "config.json holds NaN"),
        (lambda folder: {"sigmoids": {"audio": sigmoid(slope="steep")}}, "damaged or altered"),
        (lambda folder: {"sigmoids": {"video": sigmoid()}}, "there is no sigmoid for audio"),
        (lambda folder: {"sigmoids": [1.0]}, "damaged or altered"),
        (lambda folder: {"normalization": {}}, "it has no 'mel_32k'"),
        (lambda folder: {"normalization": {"mel_32k": {"mean": [0.0] * 9, "std": [1.0] * 9}}}, "of the 1 channels"),
        (lambda folder: {"network": network_of(folder, network="os.system")}, "--network os.system"),
        (lambda folder: {"network": network_of(folder, extra=1)}, "unexpected keyword"),
        (lambda folder: {"network": network_of(folder, mmtm="concat", modality="both")}, "Missing key"),
        (lambda folder: {"network": network_of(folder, slow=[block(features=10**9)] * 3)}, "features is 1000000000"),
        (lambda folder: {"network": network_of(folder, slow=[block(out_channels=4096)] * 3)}, "size mismatch"),
        (
            lambda folder: {"network": network_of(folder, fast=[block(kernels=[10**6 + 1] * 5)] * 3)},
            "kernel is 1000001",
        ),
        (lambda folder: {"network": network_of(folder, slow=[block()] * 10_000)}, "number of blocks is 10000"),
        (lambda folder: {"network": network_of(folder, pool=2.0)}, "pool is 2.0"),
        (lambda folder: {"network": [1]}, "damaged or altered"),
    ],
)
def test_what_others_wrote_into_the_configuration_is_refused_in_one_line(small, changes, told):
    alter(small, **changes(small))
    with pytest.raises(FolderError, match=re.escape(told)) as refusal:
        EmotionModel.from_pretrained(small)
    assert str(refusal.value).startswith(str(small))
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 500 + len(str(small))


def test_damaged_and_foreign_folders_are_named(small, tmp_path):
    def refusal():
        with pytest.raises(FolderError) as found:
            EmotionModel.from_pretrained(small)
        return str(found.value)

    weights, config = (small / "model.safetensors").read_bytes(), (small / "config.json").read_text()
    (small / "model.safetensors").write_bytes(weights[:-1])
    assert "is not the one that config.json was written with" in refusal()
    rehash(small)
    assert "damaged or altered" in refusal()
    (small / "model.safetensors").unlink()
    assert "model.safetensors" in refusal()
    (small / "config.json").write_text(config[: len(config) // 2])
    assert "damaged or altered" in refusal()
    (small / "config.json").write_text("[" * 100_000)
    assert "damaged or altered" in refusal()
    (small / "config.json").write_text(" " * 2_000_000)
    assert "more than 1000000 bytes" in refusal()
    (small / "config.json").unlink()
    assert refusal().endswith("there is no config.json; make one: python -m trainer.export")


def test_what_may_not_be_read_is_not_called_damaged(small):
    user = os.geteuid()
    (small / "model.safetensors").chmod(0)
    try:
        if user == 0:  # who may read everything
            os.seteuid(65534)
        with pytest.raises(FolderError, match=r" cannot be read \(Permission denied\)$"), open_folder(small):
            pass
    finally:
        os.seteuid(user)


def test_tensors_of_another_type_are_refused(small):
    from safetensors.torch import load_file, save_file

    tensors = load_file(small / "model.safetensors")
    save_file({name: tensor.to(torch.float64) for name, tensor in tensors.items()}, small / "model.safetensors")
    rehash(small)
    with pytest.raises(FolderError, match=r"is torch\.float64, not torch\."):
        EmotionModel.from_pretrained(small)


# --- other networks ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "overrides"),
    [
        ("slow-fast", {"mmtm": "concat", "inner_norm": True}),
        ("slow-fast", {"swap_video_branches": True, "swap_audio_branches": True}),
        ("slow-fast", {"modality": "video"}),
        ("slow-fast", {"modality": "audio"}),
        *(("slow-fast", {"modality": "audio", "phase": phase}) for phase in ("angle", "cos-sin", "inst-freq", "none")),
        ("music-video", {}),
        ("music-video", {"convolution": "filter-separable", "mmtm": "none"}),
        ("music-video", {"modality": "audio", "pool": 1}),
        ("music-video", {"modality": "video"}),
    ],
)
def test_onnx_and_torch_export_say_what_every_network_says(network, overrides, tmp_path):
    model = random_model(network, **overrides)
    program = forms.traced(model)
    forms.write_torch_export(program, model, tmp_path / "model.pt2")
    forms.write_onnx(program, model, tmp_path / "model.onnx")
    for read, name in ((forms.read_torch_export, "model.pt2"), (forms.read_onnx, "model.onnx")):
        assert forms.largest_difference(model, read(tmp_path / name), name=name) < 1e-5
    said = [model(**forms.random_samples(model, 1, seed=seed))["probabilities"] for seed in (0, 1)]
    assert not torch.allclose(*said, atol=1e-4)  # of what would say the same of everything nothing would be shown
