"""The workflow itself: it runs anywhere, a mistake ends it before any job, and what it prints can be followed."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from studies import ROOT, planned_jobs, snakemake, study, two_models, write

from agd import explain, verify
from agd.settings.versions import VERSIONS


def test_gives_the_comparison_and_its_pictures(finished):
    record = json.loads((finished / "results/tiny/fid.json").read_text())
    assert {name: row["nfe"] for name, row in record["methods"].items()} == {
        "none": 3,
        "cfg": 6,
        "cfg-half": 4,
        "agd": 3,
    }
    assert record["seeds"] == [0]
    assert record["num_samples"] == 12
    assert record["features"] == "digits-classifier"
    assert set(record["methods"]["agd"]["per_seed"]) == {"0"}
    assert 0 < record["adapter"]["fraction_of_base"] < 1
    for name in ("samples.png", "fidelity.png", "training.png"):
        with Image.open(finished / "results/tiny" / name) as picture:
            assert min(picture.size) > 100
    table = (finished / "results/tiny/fid.txt").read_text()
    assert "agd: 3 evaluations per image, cfg 6; " in table
    timed = json.loads((finished / "results/tiny/seed0/speed/agd.json").read_text())["methods"]["adapter"]
    assert record["methods"]["agd"]["speedup_over_cfg"] == timed["speedup_over_cfg"]
    assert f"agd {timed['speedup_over_cfg']['lowest']:.2f} to" in table
    assert not [file for file in finished.rglob("*.part")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"base_model": "nowhere/model"},
            "agd: error: models.tiny.base_model: 'nowhere/model' is neither a folder here",
        ),
        ({"reference": None}, "agd: error: models.tiny.reference: not set; give a folder"),
        ({"reference": "no/such/folder"}, "agd: error: models.tiny.reference: no/such/folder is not there"),
        ({"train__stepz": 1}, "agd: error: models.tiny.train.stepz: unknown key"),
    ],
)
def test_a_mistake_ends_before_any_job(base, classifier, tmp_path, change, message):
    folder = tmp_path / "study"
    folder.mkdir()
    words = ["--cores", "1", "--configfile", write(folder, study(base, classifier, **change))]
    done = snakemake(folder, *words, check=False)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "rror" in line]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in done.stdout + done.stderr
    assert not (folder / "results").exists()


def test_the_real_model_names_what_it_lacks(tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    done = snakemake(folder, "--cores", "1", targets=("results/dit/fid.json",), check=False)
    assert done.returncode != 0
    assert "agd: error: models.dit.base_model: 'facebook/DiT-XL-2-256' is neither" in done.stderr


def test_a_curve_is_drawn_from_what_is_there_and_what_it_lacks(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "study")
    file = write(tmp_path, {**two_models(), "curve_evaluations": [6]})
    words = ("--cores", "2", "--configfile", file)
    done = snakemake(tmp_path / "study", *words, targets=("results/tiny/curve.png",))
    assert done.stderr.count("localrule sample:") == 4  # cfg has its 3 steps; none and agd lack 6, in two chunks
    curve = json.loads((tmp_path / "study/results/tiny/curve.json").read_text())
    assert {name: [p["evaluations"] for p in points] for name, points in curve["methods"].items()} == {
        "none": [6], "cfg": [6], "agd": [6]
    }  # fmt: skip
    with Image.open(tmp_path / "study/results/tiny/curve.png") as picture:
        assert min(picture.size) > 100


def test_explain_says_why_and_what_with(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    given = [finished / "results/text/seed0/adapters/agd", "--configfile", finished / "study.yaml"]
    explain.main(list(map(str, given)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{given[0]}: is up to date"
    assert f"  made by train, version {VERSIONS['train']}" in lines
    assert any(line.startswith("  base: base, revision none, ") for line in lines)
    given[2] = write(tmp_path, two_models(text__train__steps=5))
    explain.main(list(map(str, given)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{given[0]}: would be made again, because"
    assert lines[1].endswith("setting steps was 4 and is now 5")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["results/nothing.json"], "No rule to produce results/nothing.json"),
        (["results/tiny/fid.json", "--configfile", "no.yaml"], "No such file or directory: 'no.yaml'"),
        (["results/tiny/fid.json", "--config", "models=3"], "models: 3 is not allowed; must be object"),
        (["results/tiny/fid.json", "--bogus"], "unrecognized arguments: --bogus"),
    ],
)
def test_explain_says_why_it_cannot(words, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(SystemExit) as end:
        explain.main(words)
    assert end.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"agd.explain: error: {words[0]}: Snakemake can't plan it (")
    assert line in said
    assert said.endswith("); mend that first")


def test_jobs_depend_on_small_records_not_on_large_files(finished):
    """Snakemake reads every input whole, once per output: of a study's own files, only small ones are inputs."""
    read = set()
    for file in (finished / ".snakemake/metadata").rglob("*"):
        read |= set(json.loads(file.read_text())["input_checksums"] or {}) if file.is_file() else set()
    assert {"results/tiny/seed0/trajectories/guided/000006.zarr.json", "results/tiny/reference.json"} <= read
    large = re.compile(r"results/(?!digits/)(?!\w+/base/).*\.(zip|npz|safetensors)")
    assert [name for name in sorted(read) if large.fullmatch(name)] == []


def test_large_files_can_be_deleted_once_they_were_used(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "study", symlinks=True)
    words = ("--configfile", folder / "study.yaml")
    for path in [
        *folder.glob("results/*/seed0/trajectories/*/*.zip"),
        *folder.glob("results/*/seed0/samples/**/*.zip"),
    ]:
        path.unlink()
    assert "Nothing to be done" in snakemake(folder, "-n", *words).stdout
    assert verify.bad(folder / "results")[1] == {}
    target = "results/tiny/seed0/adapters/agd/config.json"
    (folder / target).unlink()
    done = snakemake(folder, "--cores", "2", *words, targets=(target,), check=False)
    missing = "results/tiny/seed0/trajectories/guided/000000.zarr.zip: missing, while 000000.zarr.json tells of it, and so are"
    assert missing in done.stdout + done.stderr
    for path in folder.glob("results/*/seed0/trajectories/*/*.json"):
        path.unlink()
    (folder / "results/tiny/seed0/adapters/agd/checkpoint.safetensors").unlink()
    snakemake(folder, "--cores", "2", *words, targets=(target,))
    assert (folder / target).read_bytes() == (finished / target).read_bytes()


def test_what_a_failed_run_lost_is_made_by_the_next(finished, tmp_path):
    """A failed job's old files are gone; the finished results that were made of them are not up to date."""
    folder = Path(shutil.copytree(finished, tmp_path / "study", symlinks=True))
    shard = folder / "results/tiny/seed0/trajectories/guided/000006.zarr.zip"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    words = ("--configfile", write(tmp_path, two_models(tiny__train__steps=5)))
    snakemake(folder, "--cores", "2", *words, check=False)
    assert not (folder / "results/tiny/seed0/adapters/agd/config.json").exists()
    shard.write_bytes(whole)
    planned = {name for name, _ in planned_jobs(folder, two_models(tiny__train__steps=5))}
    assert planned == {"train", "sample", "calculate_metrics", "measure_fidelity", "measure_speed", "tabulate"}
    planned = {name for name, _ in planned_jobs(folder, two_models())}  # and with the settings of before
    assert "train" in planned
    snakemake(folder, "--cores", "2", *words)
    assert "Nothing to be done" in snakemake(folder, "-n", *words).stdout
    described = json.loads((folder / "results/tiny/seed0/adapters/agd/config.json").read_text())
    assert described["provenance"]["settings"]["steps"] == 5


def test_what_verify_names_is_mended_by_what_it_says(finished, monkeypatch):
    monkeypatch.chdir(finished)
    shard = finished / "results/tiny/seed0/trajectories/guided/000006.zarr.zip"
    whole = shard.read_bytes()
    assert verify.bad(finished / "results")[1] == {}
    shard.write_bytes(whole[:-1])
    (line,) = verify.bad(finished / "results")[1].values()
    words = shlex.split(re.search("; delete it, then run: snakemake (.*)", line)[1])
    shard.unlink()
    snakemake(finished, "--configfile", finished / "study.yaml", targets=words)
    assert shard.read_bytes() == whole
    assert verify.bad(finished / "results")[1] == {}
    assert "Nothing to be done" in snakemake(finished, "-n", "--configfile", finished / "study.yaml").stdout


def test_a_printed_command_can_be_pasted(finished):
    """The log of a job's command, run alone, gives the same file."""
    done = snakemake(finished, "-n", "-p", "-F", "--configfile", finished / "study.yaml")
    line = next(line for line in (done.stdout + done.stderr).splitlines() if "agd.dit.sample_trajectories" in line)
    output = finished / re.search(r"dirname ([^ )]+)", line)[1]
    before = output.read_bytes()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(
        ["bash", "-c", line.removeprefix("Shell command: ").split(" 2>&1")[0]],
        cwd=finished,
        check=True,
        env=environment,
        capture_output=True,
    )
    assert output.read_bytes() == before


def test_training_takes_as_many_processes_as_are_set(finished, tmp_path):
    """`train.gpu`, which on a CPU is a number of processes."""
    folder = shutil.copytree(finished, tmp_path / "study")
    adapter = Path("results/tiny/seed0/adapters/agd/adapter.safetensors")
    one = load_file(finished / adapter)
    shutil.rmtree(folder / adapter.parent)
    configuration = write(folder, two_models(tiny__train__gpu=2))
    done = snakemake(folder, "--cores", "2", "--configfile", configuration, targets=(adapter,))
    assert (
        "python -m torch.distributed.run --standalone --nproc-per-node 2 -m agd.dit.train" in done.stdout + done.stderr
    )
    two = load_file(folder / adapter)
    for name in one:
        assert torch.allclose(one[name], two[name], atol=1e-4), name


def test_a_job_on_a_gpu_has_its_own(base, classifier, tmp_path):
    """tests/runtime/test_gpus.py runs what starts such a job's command."""
    configuration = write(tmp_path, study(base, classifier, sample__device="auto", train__gpu=2, train__device="cuda"))
    done = snakemake(tmp_path, "-n", "--configfile", configuration)
    started = re.findall(
        r"^Shell command: (python -m agd.runtime.gpus \d )?python -m .*?agd\.\w+\.(\w+) --", done.stdout, re.MULTILINE
    )
    by_stage = {stage: before for before, stage in started}
    assert by_stage["sample"] == "python -m agd.runtime.gpus 1 "
    assert by_stage["train"] == "python -m agd.runtime.gpus 2 "
    assert by_stage["calculate_metrics"] == ""
    configuration = write(tmp_path, study(base, classifier, sample__device="cuda:1"))
    assert "agd.runtime.gpus" not in snakemake(tmp_path, "-n", "--configfile", configuration).stdout


def test_lints():
    done = subprocess.run([sys.executable, "-m", "snakemake", "--lint"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for tool in (
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["snakefmt", "--check", "Snakefile", "rules"],
    ):
        program = Path(sys.executable).parent / tool[0]
        done = subprocess.run([program, *tool[1:]], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
@pytest.mark.timeout(1800)  # forty processes, on whatever else the machine does
def test_the_rehearsal_walks_the_real_path(tmp_path):
    """sd21, sdxl and dit by their own rules and settings, on models made on the spot."""
    models = ("sd21", "sdxl", "dit")
    targets = tuple(f"results/{model}/fid.json" for model in models)
    more = ("--configfile", ROOT / "config" / "rehearsal.yaml", "--cores", 2, "--resources", "gpu=2")
    done = snakemake(tmp_path, *more, targets=targets)
    for model in models:
        record = json.loads((tmp_path / "results" / model / "fid.json").read_text())
        nfe = {name: row["nfe"] for name, row in record["methods"].items()}
        assert nfe == {"none": 4, "cfg": 8, "cfg-half": 4, "agd": 4}
        assert record["provenance"]["adapter"]["settings"]["dtype"] == "bfloat16"
    assert (tmp_path / "results" / "sdxl" / "prompts" / "trajectories.txt").is_file()
    again = snakemake(tmp_path, *more, "--dry-run", targets=targets)
    assert "Nothing to be done" in again.stdout + again.stderr, done.stderr
