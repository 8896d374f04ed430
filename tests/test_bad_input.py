"""A user's mistake: one line that names the key or file, the value and what to do; nothing half-written."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import command

SAMPLE = ("--guidance", "cfg", "--num-samples", 4, "--num-inference-steps", 2, "--chunk-size", 4, "--output-dir", "OUT")
TRAJECTORIES = ("--num-trajectories", 10, "--num-inference-steps", 2, "--output-dir", "OUT")

# stage, words, what the line must say. BASE, OUT and TMP stand for the model, the output folder and a folder of bad files.
MISTAKES = [
    ("train", ("--dir", "OUT"), "the following arguments are required: --data-path"),
    ("train", ("--dir", "OUT", "--data-path", "TMP/none", "--steps", "0"), "steps: 0 is not allowed; must be integer, at least 1"),
    ("train", ("--dir", "OUT", "--data-path", "TMP/none", "--steps", "x"), "argument --steps: invalid int value: 'x'"),
    ("train", ("--dir", "OUT", "--data-path", "TMP/none", "--kind", "lora"), "kind: 'lora' is not allowed; must be one of cross_attention, offset"),
    ("train", ("--dir", "OUT", "--data-path", "TMP/none", "--learning-rate", "-1"), "learning_rate: -1 is not allowed; must be number, above 0"),
    ("train", ("--dir", "OUT", "--data-path", "TMP/none", "--learning-rate", "nan"), "argument --learning-rate: invalid number value: 'nan'"),
    ("train", ("--dir", "OUT", "--data-path", "TMP/none", "--dropout", "1"), "dropout: 1 is not allowed; must be number, at least 0, below 1"),
    ("train", ("--dir", "OUT", "--data-path", "TMP/none", "--hidden-size", "7"), "hidden_size: 7 is not allowed"),
    ("train", ("--dir", "OUT", "--data-path", "TMP/none", "--device", "gpu"), "device: 'gpu' is not allowed"),
    ("train", ("--dir", "OUT", "--data-path", "TMP/none"), "TMP/none: no such file or folder; run sample_trajectories first"),
    ("train", ("--dir", "OUT", "--data-path", "TMP/empty"), "TMP/empty: holds no trajectories"),
    ("train", ("--dir", "OUT", "--data-path", "TMP/bad.zarr.zip"), "TMP/bad.zarr.zip: damaged"),
    ("train", ("--dir", "TMP/file/R", "--data-path", "TMP/empty"), "TMP/file/R: can't write here"),
    ("train", ("--dir", "OUT", "--data-path", "TMP/none", "--seed", "-1"), "--seed: -1 must be 0 or more"),
    ("train", ("--dir", "OUT", "--data-path", "TMP/none", "--model", "sd3"), "--model: 'sd3' is unknown; choose one of digits-dit, dit"),
    ("train", ("--dir", "OUT", "--data-path", "TMP/none", "--lerning-rate", "1"), "unrecognized arguments: --lerning-rate 1"),
    ("sample_trajectories", (*TRAJECTORIES, "--guidance-min", "4", "--guidance-max", "2"), "guidance_min: 4 is above guidance_max, 2; swap them"),
    ("sample_trajectories", (*TRAJECTORIES, "--guidance-min", "0.5"), "guidance_min: 0.5 is not allowed; must be number, at least 1"),
    ("sample_trajectories", (*TRAJECTORIES, "--base-model", "BASE", "--class-labels", "3,10"), "class_labels: 10 is out of range; BASE has classes 0 to 9"),
    ("sample_trajectories", (*TRAJECTORIES, "--base-model", "BASE", "--class-labels", "a"), "class_labels: 'a' is not allowed"),
    ("sample_trajectories", (*TRAJECTORIES, "--base-model", "BASE", "--class-labels", "5-3"), "class_labels: '5-3' is reversed; write it as 3-5"),
    ("sample_trajectories", (*TRAJECTORIES, "--base-model", "BASE", "--guided-channels", "3"), "guided_channels: 3 is more than the 2 channels of BASE"),
    ("sample_trajectories", (*TRAJECTORIES, "--base-model", "BASE", "--num-inference-steps", "1001"), "num_inference_steps: 1001 is more than the 1000"),
    ("sample_trajectories", (*TRAJECTORIES, "--base-model", "BASE", "--first", "10"), "--first: 10 is beyond the last trajectory, 9"),
    ("sample_trajectories", (*TRAJECTORIES, "--base-model", "BASE", "--count", "0"), "--count: 0 must be 1 or more"),
    ("sample_trajectories", (*TRAJECTORIES, "--base-model", "BASE", "--device", "cuda:7"), "device: 'cuda:7' is not on this machine"),
    ("sample_trajectories", (*TRAJECTORIES, "--base-model", "TMP/empty"), "--base-model: TMP/empty holds no model_index.json"),
    ("sample_trajectories", (*TRAJECTORIES, "--base-model", "TMP/unet"), "TMP/unet: holds a StableDiffusionPipeline, not a DiTPipeline"),
    ("sample_trajectories", (*TRAJECTORIES, "--base-model", "someone/no-such-model"), "--base-model: 'someone/no-such-model' is neither a folder here nor in the hub's local cache"),
    ("sample_trajectories", (*TRAJECTORIES, "--base-model", "no/such/folder"), "--base-model: 'no/such/folder' is neither a folder here nor a hub id"),
    ("sample", ("--output-dir", "OUT"), "--dir: missing; give the folder of a trained adapter"),
    ("sample", ("--dir", "TMP/none"), "TMP/none/config.json: no such file"),
    ("sample", ("--dir", "TMP/notadapter"), "TMP/notadapter/config.json: not an agd adapter's configuration"),
    ("sample", SAMPLE, "--base-model: missing; --guidance cfg has no adapter to take it from"),
    ("sample", ("--guidance", "both"), "argument --guidance: invalid choice: 'both'"),
    ("sample", (*SAMPLE, "--base-model", "BASE", "--guidance-scale", "0.9"), "guidance_scale: 0.9 is not allowed; must be number, at least 1"),
    ("calculate_metrics", ("--ref", "TMP/images"), "--dir: missing; give the folder of an adapter with samples"),
    ("calculate_metrics", ("--ref", "TMP/images", "--dir", "TMP/empty"), "TMP/empty/samples: holds no samples"),
    ("calculate_metrics", ("--ref", "TMP/none", "--samples", "TMP/s.zip", "--output", "OUT/m.json"), "TMP/none: no such folder or file of images"),
    ("calculate_metrics", ("--ref", "TMP/empty", "--samples", "TMP/s.zip", "--output", "OUT/m.json"), "TMP/empty: holds no images"),
    ("calculate_metrics", ("--ref", "TMP/none.npz", "--samples", "TMP/s.zip", "--output", "OUT/m.json", "--features-weights", "W"), "TMP/none.npz: not an .npz of statistics"),
    ("calculate_metrics", ("--ref", "TMP/images", "--samples", "TMP/s.zip", "--output", "OUT/m.json", "--features-weights", "W"), "TMP/images/corrupt.png: not an image that can be read"),
    ("calculate_metrics", ("--ref", "TMP/images", "--samples", "TMP/s.zip", "--output", "OUT/m.json", "--features-weights", "TMP/file"), "features_weights: TMP/file doesn't hold the digits classifier"),
    ("calculate_metrics", ("--ref", "TMP/images", "--samples", "TMP/s.zip", "--output", "OUT/m.json", "--features", "inception-v3", "--features-weights", "TMP/file"), "features_weights: TMP/file is not inception-2015-12-05.pt"),
    ("calculate_metrics", ("--ref", "TMP/images", "--samples", "TMP/s.zip", "--output", "OUT/m.json", "--features", "dinov2", "--features-weights", "TMP/none"), "features_weights: TMP/none is not a file"),
]  # fmt: skip


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("classifier") / "classifier.safetensors"
    command("train_classifier", "--output", file, "--steps", 2, family=None)
    return file


@pytest.fixture
def bad(tmp_path) -> Path:
    folder = tmp_path / "bad"
    for name in ("empty", "unet", "notadapter", "images"):
        (folder / name).mkdir(parents=True)
    (folder / "file").write_text("no folder")
    (folder / "bad.zarr.zip").write_bytes(b"no zip" * 50)
    (folder / "unet" / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    (folder / "notadapter" / "config.json").write_text("{}")
    for i in range(4):
        (folder / "images" / "corrupt.png").with_stem("corrupt" if i == 3 else f"x{i}").write_bytes(b"no image")
    return folder


@pytest.mark.parametrize(("stage", "words", "message"), MISTAKES, ids=[f"{m[0]}: {m[2][:50]}" for m in MISTAKES])
def test_one_clear_line(stage, words, message, bad, base, classifier, tmp_path, capsys):
    def fill(word) -> str:
        names = {"TMP": str(bad), "OUT": str(tmp_path / "out"), "BASE": base}
        text = str(word)
        for name, path in names.items():
            text = text.replace(name, path)
        return str(classifier) if text == "W" else text

    with pytest.raises(SystemExit) as stop:
        command(stage, *map(fill, words))
    assert stop.value.code == 2
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if " (0%) " not in line]
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"agd.dit.{stage}: error: ")
    assert fill(message) in lines[0]
    left = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert left == []


def test_an_adapter_for_another_base(base, tmp_path, capsys):
    from conftest import save_pipeline

    folder = tmp_path / "T"
    command(
        "sample_trajectories",
        *("--base-model", base, "--num-trajectories", 10, "--num-inference-steps", 2, "--output-dir", folder),
    )
    command("train", *("--dir", tmp_path / "R", "--data-path", folder, "--steps", 1))
    capsys.readouterr()
    deeper = save_pipeline(tmp_path / "deeper", layers=3)
    with pytest.raises(SystemExit) as stop:
        command("sample", "--dir", tmp_path / "R", "--base-model", deeper, "--num-samples", 4)
    assert stop.value.code == 2
    assert "made for a base of another shape (2 attentions of width 16" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "R" / "samples")
    (tmp_path / "R" / "adapter.safetensors").write_bytes(b"broken")
    with pytest.raises(SystemExit):
        command("sample", "--dir", tmp_path / "R", "--num-samples", 4)
    assert "adapter.safetensors: damaged" in capsys.readouterr().err
