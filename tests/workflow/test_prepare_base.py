"""A base model that was not trained here: read once, and fetched first if it is on the hub. Later jobs see its record alone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub import NAME, Hub
from safetensors.torch import load_file
from studies import ROOT, planned_jobs, snakemake, snakemake_command, study, write

from agd import verify
from agd.artifacts.files import sha256
from agd.artifacts.images import read_images
from agd.artifacts.sealed_json import read_sealed
from agd.verify import wanted

IMAGES, RECORD = "results/tiny/seed0/samples/none/w1/n3/000000.zip", "results/tiny/base.json"


@pytest.fixture
def revisions(base, other_base, tmp_path):
    """Two revisions of a model, folders."""
    return [shutil.copytree(folder, tmp_path / f"revision{i}") for i, folder in enumerate((base, other_base))]


def run(folder, home, hub, configuration, *words, target=IMAGES) -> subprocess.CompletedProcess:
    """Run Snakemake as one who has internet, or whose internet is this hub."""
    command, environment = snakemake_command(
        folder, "--cores", "1", "--configfile", write(folder, configuration), *words, targets=(target,)
    )
    del environment["HF_HUB_OFFLINE"]
    environment |= hub.environment(home)
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=300)


def test_a_study_fetches_its_base_once_and_then_never_connects(revisions, classifier, tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    with Hub(*revisions) as hub:
        first = next(iter(hub.folders))
        pinned = study(f"{NAME}@{first}", classifier)
        done = run(folder, tmp_path / "home", hub, pinned, target=RECORD)
        assert done.returncode == 0, done.stderr
        record = read_sealed(folder / RECORD)
        assert record["revision"] == first
        assert {"model_index.json", "transformer/diffusion_pytorch_model.safetensors"} <= set(record["weights"])
    # From here on nobody answers.
    done = run(folder, tmp_path / "home", hub, pinned)
    assert done.returncode == 0, done.stderr
    assert read_images(folder / IMAGES)[1]["provenance"]["base"]["revision"] == first
    assert verify.bad(folder / "results", wanted.of_files([write(folder, pinned)]))[1] == {}
    assert "Nothing to be done" in run(folder, tmp_path / "home", hub, pinned).stderr
    other = study(NAME, classifier)
    lines = verify.bad(folder / "results", wanted.of_files([write(folder, other)]))[1]
    assert f"made with base_model '{NAME}@{first}'" in lines[str(folder / RECORD)]


def test_without_a_revision_it_is_the_newest(revisions, classifier, tmp_path):
    with Hub(*revisions) as hub:
        done = run(tmp_path, tmp_path / "home", hub, study(NAME, classifier), target=RECORD)
        assert done.returncode == 0, done.stderr
        assert read_sealed(tmp_path / RECORD)["revision"] == hub.commit()
        planned = run(
            tmp_path, tmp_path / "home", hub, study(f"{NAME}@{hub.commit()}", classifier), "-n", target=RECORD
        )
        assert "rule prepare_base" in planned.stdout


def test_a_hub_that_moves_on_changes_no_study(revisions, classifier, tmp_path):
    folder, home, given = tmp_path / "study", tmp_path / "home", study(NAME, classifier)
    folder.mkdir()
    with Hub(revisions[0]) as hub:
        assert run(folder, home, hub, given, target=RECORD).returncode == 0
        first = hub.commit()
    with Hub(*revisions) as hub:  # somebody fetches the newer one into the same cache
        words = ["-m", "agd.prepare_base", "--base-model", NAME, "--output", tmp_path / "newer.json"]
        environment = os.environ | hub.environment(home) | {"PYTHONPATH": str(ROOT)}
        environment.pop("HF_HUB_OFFLINE", None)
        subprocess.run([sys.executable, *words], check=True, env=environment, cwd=tmp_path)
        assert read_sealed(tmp_path / "newer.json")["revision"] == hub.commit() != first
    done = run(folder, home, hub, given)
    assert done.returncode == 0, done.stderr
    base = read_images(folder / IMAGES)[1]["provenance"]["base"]
    assert (base["name"], base["revision"]) == (f"{NAME}@{first}", first)


@pytest.mark.parametrize(
    "broken", ["scheduler/scheduler_config.json", "transformer/diffusion_pytorch_model.safetensors"]
)
def test_damage_on_the_way_is_named(revisions, classifier, tmp_path, broken):
    with Hub(*revisions) as hub:
        hub.broken = broken
        done = run(tmp_path, tmp_path / "home", hub, study(NAME, classifier), target=RECORD)
    assert done.returncode != 0
    assert "damaged (its bytes don't match its checksum); delete " in done.stdout + done.stderr
    assert not (tmp_path / RECORD).exists()


def pickled(folder: Path, content=lambda weights: weights) -> Path:
    """Put pickles in the place of a base's safetensors: of the transformer in two parts, with an index."""
    for file in list(folder.rglob("*.safetensors")):
        weights, stem = load_file(file), "diffusion_pytorch_model"
        file.unlink()
        if file.parent.name == "vae":
            torch.save(content(weights), file.with_name(f"{stem}.bin"), _use_new_zipfile_serialization=False)
            continue
        names = [f"{stem}-00001-of-00002.bin", f"{stem}-00002-of-00002.bin"]
        place = {key: names[i % 2] for i, key in enumerate(weights)}
        for name in names:
            torch.save({key: weights[key] for key in weights if place[key] == name}, file.with_name(name))
        index = {"metadata": {"total_size": 1}, "weight_map": place}
        file.with_name(f"{stem}.bin.index.json").write_text(json.dumps(index))
    return folder


def test_pickles_on_the_hub_become_safetensors_once(base, revisions, classifier, tmp_path):
    folder, home, given = tmp_path / "study", tmp_path / "home", study(NAME, classifier)
    folder.mkdir()
    with Hub(pickled(revisions[0])) as hub:
        commit = hub.commit()
        words = ["sample", "--base-model", NAME, "--guidance", "none", "--output-dir", "out", "--num-samples", "2"]
        environment = {**os.environ, **hub.environment(home), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "0"}
        asked = [sys.executable, "-m", f"agd.dit.{words[0]}", *words[1:]]
        refused = subprocess.run(asked, capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert f"`python -m agd.prepare_base --base-model {NAME} --output base.json` converts them" in refused.stderr
        done = run(folder, home, hub, given, target=RECORD)
        assert done.returncode == 0, done.stderr
    assert "vae/diffusion_pytorch_model.bin: pickles, now safetensors in " in done.stdout + done.stderr
    names = {name.split("/")[-1] for name in read_sealed(folder / RECORD)["weights"]}
    assert {"diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model.safetensors"} <= names
    assert not any(".bin" in name for name in names)
    done = run(folder, home, hub, given)  # nobody answers now
    assert done.returncode == 0, done.stderr
    images, manifest = read_images(folder / IMAGES)
    found = manifest["provenance"]["base"]
    assert (found["name"], found["revision"]) == (f"{NAME}@{commit}", commit)
    assert verify.bad(folder / "results", wanted.of_files([write(folder, given)]))[1] == {}
    plain = tmp_path / "plain"
    snakemake(
        folder,
        "--cores",
        "1",
        "--directory",
        plain,
        "--configfile",
        write(folder, study(base, classifier)),
        targets=(IMAGES,),
    )
    assert images == read_images(plain / IMAGES)[0]


def prepare(hub, home, folder) -> subprocess.CompletedProcess:
    """Run the stage by itself."""
    words = ["-m", "agd.prepare_base", "--base-model", NAME, "--output", folder / "base.json"]
    environment = {**os.environ, **hub.environment(home), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "0"}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment, cwd=folder)


def test_a_conversion_that_lost_or_changed_a_file_is_made_again(revisions, tmp_path):
    with Hub(pickled(revisions[0])) as hub:
        assert prepare(hub, tmp_path / "home", tmp_path).returncode == 0
        first = (tmp_path / "base.json").read_bytes()
        (folder,) = (tmp_path / "home").rglob("safetensors/*/vae")
        weights = folder / "diffusion_pytorch_model.safetensors"
        good, mode = weights.read_bytes(), weights.stat().st_mode & 0o777
        assert mode == 0o666 & ~os.umask(os.umask(0o022))
        for spoil in (weights.unlink, lambda: weights.write_bytes(good[:-1] + b"x")):
            spoil()
            done = prepare(hub, tmp_path / "home", tmp_path)
            assert done.returncode == 0, done.stderr
            assert weights.read_bytes() == good
            assert (tmp_path / "base.json").read_bytes() == first


def only_a_variant(folder: Path) -> None:
    (folder / "vae/diffusion_pytorch_model.bin").rename(folder / "vae/diffusion_pytorch_model.fp16.bin")


def outside(folder: Path) -> None:
    index = folder / "transformer/diffusion_pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "../../outside.bin"}}))


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (
            lambda folder: (folder / "transformer/diffusion_pytorch_model-00002-of-00002.bin").unlink(),
            "which is not beside it",
        ),
        (lambda folder: torch.save({}, folder / "vae/diffusion_pytorch_model.bin"), "holds no tensors"),
        (only_a_variant, "vae: holds no weights that are read"),
        (outside, "names ../../outside.bin, which is not beside it"),
    ],
)
def test_a_base_without_all_of_its_weights_has_no_record(revisions, tmp_path, spoil, line):
    folder = pickled(revisions[0])
    spoil(folder)
    with Hub(folder) as hub:
        done = prepare(hub, tmp_path / "home", tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert line in done.stderr
    assert not (tmp_path / "base.json").exists()


class Code:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("content", [lambda weights: weights | {"code": Code()}, lambda weights: weights | {"step": 3}])
def test_code_in_pickles_is_not_run(revisions, classifier, tmp_path, content):
    with Hub(pickled(revisions[0], content)) as hub:
        done = run(tmp_path, tmp_path / "home", hub, study(NAME, classifier), target=RECORD)
    assert done.returncode != 0
    assert "vae/diffusion_pytorch_model.bin: " in done.stdout + done.stderr
    assert not list(tmp_path.rglob("ran"))
    assert not list(tmp_path.rglob("*.part"))
    assert not (tmp_path / RECORD).exists()


@pytest.mark.parametrize("target", [IMAGES, RECORD])
@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            f"{NAME}@none",
            "models.tiny.base_model: 'someone/model@none' is not on the hub in this revision; check what stands",
        ),
        ("some/other", "models.tiny.base_model: 'some/other' is neither a folder here nor"),
    ],
)
def test_what_the_hub_lacks_is_named_before_any_job(revisions, classifier, tmp_path, target, name, line):
    with Hub(*revisions) as hub:
        done = run(tmp_path, tmp_path / "home", hub, study(name, classifier), target=target)
    assert done.returncode != 0
    (said,) = [said for said in done.stderr.splitlines() if "rror" in said]
    assert said.startswith(f"agd: error: {line}")


def test_a_local_base_is_read_by_one_job_alone(base, classifier, tmp_path):
    given = study("base", classifier)
    shutil.copytree(base, tmp_path / "base")
    snakemake(tmp_path, "--cores", "1", "--configfile", write(tmp_path, given), targets=(RECORD,))
    record = read_sealed(tmp_path / RECORD)
    assert (record["name"], record["revision"]) == ("base", None)
    weights = Path("base/transformer/diffusion_pytorch_model.safetensors")
    assert record["weights"][str(weights.relative_to("base"))] == sha256(tmp_path / weights)
    said = snakemake(tmp_path, "-n", "--configfile", write(tmp_path, given), targets=(IMAGES,)).stdout
    assert "input: results/tiny/base.json\n" in said
    assert str(weights) not in said
    assert [rule for rule, _ in planned_jobs(tmp_path, given, (IMAGES,))] == ["sample"]
    (tmp_path / weights).write_bytes((tmp_path / weights).read_bytes()[:-1] + b"x")
    assert [rule for rule, _ in planned_jobs(tmp_path, given, (IMAGES,))] == ["prepare_base", "sample"]
