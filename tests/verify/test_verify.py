"""Nothing damaged is read in silence: every kind of artifact, every fault, by `agd.verify` and by the stage that reads it."""

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import command

from agd import train, verify
from agd.artifacts.prompts import read_file
from agd.artifacts.sealed_json import read_json, read_sealed, sealed_json, write_sealed
from agd.runtime.errors import UserError
from agd.settings import configuration

MODEL, OTHER = Path("results/tiny"), Path("results/other")
SEED = MODEL / "seed0"
TABLES = Path("results/tables/small")
N3 = "w2/n3"
CLASSIFIER = "results/digits/classifier.safetensors"
WEIGHTS = ("--features", "digits-classifier", "--features-weights", CLASSIFIER, "--device", "cpu")
TRAIN = ("--steps", 4, "--hidden-size", 8, "--batch-size", 8, "--checkpoint-interval", 2)
METHODS = {"none": "w1/n3", "cfg": N3, "agd": N3}


def make(model: Path, seed: int) -> None:
    """A base and all that is made from it, as the rules lay it out."""
    study, base = model / "seed0", model / "base"
    command("train_base", "--output-dir", base, "--vae-steps", 2, "--steps", 2, "--seed", seed, family=None)
    guided = study / "trajectories" / "guided"
    few = ("--base-model", base, "--num-trajectories", 4, "--chunk-size", 2, "--num-inference-steps", 3)
    command("sample_trajectories", *few, "--output-dir", guided)
    command("train", "--dir", study / "adapters" / "agd", "--data-path", guided, "--base-model", base, *TRAIN)
    prepare_reference(model / "reference.npz", "--max-features", 100 + seed)
    for method, place in METHODS.items():
        words = (
            ("--guidance", "adapter", "--dir", study / "adapters" / "agd")
            if method == "agd"
            else ("--guidance", method)
        )
        words += ("--guidance-scale", place[1], "--num-inference-steps", 3, "--base-model", base, "--num-samples", 8)
        # --count, as the rules give it: no picture of the first images
        command("sample", *words, "--count", 8, "--output-dir", study / "samples" / method / place)
        calculate(model, method, study / "metrics" / method / f"{place}.json")
    fidelity(study)
    speed(study)
    tabulate(model, model)


def prepare_reference(output: Path = Path("scratch/reference.npz"), *words) -> None:
    command(
        "prepare_reference",
        "--reference",
        "results/digits/images.zip",
        "--output",
        output,
        *WEIGHTS,
        *words,
        family=None,
    )


def prepare_prompts(folder: Path = Path("scratch")) -> None:
    words = ("--captions", "results/digits/annotations.zip", "--output-dir", folder)
    command("prepare_prompts", *words, "--num-prompts", 5, family=None)


def sample_trajectories() -> None:
    few = ("--num-trajectories", 1, "--num-inference-steps", 1, "--output-dir", "scratch")
    command("sample_trajectories", "--base-model", MODEL / "base", *few)


def train_again(folder: str = "scratch") -> None:
    shards = [SEED / "trajectories" / "guided" / f"{first:06d}.zarr.zip" for first in (0, 2)]
    command("train", "--dir", folder, "--data-path", *shards, "--base-model", MODEL / "base", *TRAIN)


def interrupt(folder: Path) -> None:
    """Train until just before anything but the checkpoint is written."""

    def stop(*words):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "write_table", stop)
        with pytest.raises(SystemExit):
            train_again(str(folder))


def sample() -> None:
    few = ("--num-samples", 1, "--num-inference-steps", 1, "--output-dir", "scratch/s")
    command("sample", "--dir", SEED / "adapters" / "agd", "--base-model", MODEL / "base", *few)


def calculate(model: Path = MODEL, method: str = "agd", output: Path = Path("scratch/metrics.json")) -> None:
    samples = model / "seed0" / "samples" / method / METHODS[method] / "000000.zip"
    own = ("--samples", samples, "--ref", model / "reference.npz", "--output", output)
    command("calculate_metrics", *own, "--max-features", 100, *WEIGHTS)


def fidelity(study: Path) -> None:
    words = ("--dir", study / "adapters" / "agd", "--output", study / "fidelity" / "agd.json")
    command("measure_fidelity", *words, "--num-trajectories", 2, "--num-inference-steps", 2)


def speed(study: Path) -> None:
    words = ("--dir", study / "adapters" / "agd", "--output", study / "speed" / "agd.json")
    command(
        "measure_speed", *words, "--batch-size", 2, "--rounds", 1, "--num-inference-steps", 3, "--guidance-scale", 2
    )


def tabulate(model: Path = MODEL, output: Path = Path("scratch")) -> None:
    study = model / "seed0"
    metrics = [study / "metrics" / method / f"{place}.json" for method, place in METHODS.items()]
    samples = [study / "samples" / method / place / "000000.zip" for method, place in METHODS.items()]
    adapter = study / "adapters" / "agd"
    words = ("--name", model.name, "--metrics", *metrics, "--samples", *samples, "--training", adapter / "training.csv")
    words += ("--fidelity", study / "fidelity" / "agd.json", "--speed", study / "speed" / "agd.json")
    command("tabulate", *words, "--adapter", adapter, "--columns", 4, "--output-dir", output, family=None)
    command("draw_curve", *words[:6], "--adapter", adapter, "--output-dir", output, family=None)


def make_tables(folder: Path) -> None:
    """A study with one table of the model's runs, its figure, its grid and its page."""
    items = [{"model": MODEL.name, "methods": list(METHODS), "guidance_scales": [2], "steps": [3], "seeds": [0]}]
    definition = {"title": "Small", "runs": items, "columns": ["fid", "nfe"], "figure": {"x": "nfe", "y": ["fid"]}}
    definition |= {"grid": {"columns": 2}, "styles": dict.fromkeys(METHODS, 0)}
    definition["adapters"] = {MODEL.name: {"agd": f"{MODEL.name}/agd"}}
    words = ("--table", "main", "--definition", json.dumps(definition), "--output-dir", folder)
    command("tabulate_runs", *words, family=None)
    command("draw_grid", *words, family=None)
    draw_table(folder)
    command("index_tables", "--tables", folder / "main.json", "--output-dir", folder, family=None)


def draw_table(folder: Path = Path("scratch")) -> None:
    command("draw_runs", "--table", TABLES / "main.json", "--output-dir", folder, family=None)


def read_prompts() -> None:
    read_file(str(MODEL / "prompts" / "trajectories.txt"))


@pytest.fixture(scope="module", autouse=True)
def finished(tmp_path_factory):
    """Two tiny studies and an interrupted training, in the working directory. Each test puts back what it damaged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("study"))
        zips = ("--output", "results/digits/images.zip", "--annotations", "results/digits/annotations.zip")
        command("prepare_digits", *zips, family=None)
        command("train_classifier", "--output", CLASSIFIER, "--steps", 2, family=None)
        command("train_classifier", "--output", "scratch/classifier.safetensors", "--steps", 3, family=None)
        for seed, model in enumerate((MODEL, OTHER)):
            make(model, seed)
        prepare_prompts(MODEL / "prompts")
        interrupt(SEED / "adapters" / "half")
        make_tables(TABLES)
        yield


# kind: the file, what reads it (None: no stage does), and the file that takes its place (of the other model, where there is
# one).
SAMPLES, ADAPTER, BASE = SEED / "samples/agd" / N3, SEED / "adapters/agd", MODEL / "base"
KINDS = {
    "images": ("results/digits/images.zip", prepare_reference, SAMPLES / "000000.zip"),
    "annotations": ("results/digits/annotations.zip", prepare_prompts, "results/digits/images.zip"),
    "classifier": (CLASSIFIER, prepare_reference, "scratch/classifier.safetensors"),
    "classifier's record": ("results/digits/classifier.json", prepare_reference, "scratch/classifier.json"),
    "denoiser": (BASE / "transformer/diffusion_pytorch_model.safetensors", sample_trajectories, None),
    "autoencoder": (BASE / "vae/diffusion_pytorch_model.safetensors", sample, None),
    "base's index": (BASE / "model_index.json", sample_trajectories, BASE / "vae/config.json"),
    "base's scheduler": (BASE / "scheduler/scheduler_config.json", sample_trajectories, BASE / "vae/config.json"),
    "base's record": (BASE / "provenance.json", sample_trajectories, None),
    "reference": (MODEL / "reference.npz", calculate, None),
    "prompts": (MODEL / "prompts/trajectories.txt", read_prompts, MODEL / "prompts/samples.txt"),
    "prompts' record": (MODEL / "prompts/provenance.json", read_prompts, BASE / "provenance.json"),
    "reference's record": (MODEL / "reference.json", None, None),
    "shard": (SEED / "trajectories/guided/000002.zarr.zip", train_again, None),
    "shard's record": (SEED / "trajectories/guided/000002.zarr.json", train_again, None),
    "adapter": (ADAPTER / "adapter.safetensors", sample, None),
    "adapter's record": (ADAPTER / "config.json", sample, None),
    "training": (ADAPTER / "training.csv", tabulate, None),
    "training's cost": (ADAPTER / "cost.json", None, SAMPLES / "000000.json"),
    "samples": (SAMPLES / "000000.zip", calculate, None),
    "cost": (SAMPLES / "000000.json", calculate, None),
    "metrics": (SEED / "metrics/agd/w2/n3.json", tabulate, None),
    "fidelity": (SEED / "fidelity/agd.json", tabulate, None),
    "speed": (SEED / "speed/agd.json", tabulate, None),
    "comparison": (MODEL / "fid.json", None, None),
    "curve": (MODEL / "curve.json", None, None),
    "comparison's text": (MODEL / "fid.txt", None, None),
    "table": (TABLES / "main.json", draw_table, MODEL / "fid.json"),
    "table's text": (TABLES / "main.md", None, TABLES / "main.tex"),
    "table's figure": (TABLES / "main.svg", None, TABLES / "main.png"),
    "table's grid": (TABLES / "main-grid.png", None, TABLES / "main.png"),
    "page": (TABLES / "index.md", None, TABLES / "main.md"),
    "page's record": (TABLES / "index.json", None, TABLES / "main.json"),
}
# What no stage can tell by itself, and so `verify` does (docs/artifacts.md, "What is checked").
UNSEEN = {
    ("images", "swap"),  # any zip of images may be a reference
    ("reference", "swap"),  # likewise
    ("base's record", "delete"),  # a folder without a record is somebody else's model
    ("prompts' record", "delete"),
    ("shard's record", "delete"),  # a shard without a record is read whole
    ("prompts' record", "swap"),  # a record of other files
}
# Large files, which may be deleted on purpose once they were used: only what needs one says that it is missing.
ON_PURPOSE = {("samples", "delete")}


def damage(path: Path, fault: str, other: Path) -> None:
    whole = path.read_bytes()
    if fault == "flip":
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    elif fault == "truncate":
        path.write_bytes(whole[:-1])
    elif fault == "empty":
        path.write_bytes(b"")
    elif fault == "swap":
        shutil.copy(other, path)
    else:
        path.unlink()


@pytest.fixture
def spoil(capsys):
    """spoil(path, fault, other): damage a file until the test ends; what was printed before is forgotten."""
    damaged = []

    def once(path, fault: str, other=None) -> Path:
        path = Path(path)
        damaged.append((path, path.read_bytes()))
        damage(path, fault, Path(other or str(path).replace(str(MODEL), str(OTHER))))
        capsys.readouterr()
        return path

    yield once
    for path, whole in reversed(damaged):  # a file may be damaged twice
        path.write_bytes(whole)


def said(stage, capsys) -> str:
    """The one line with which a stage ends."""
    try:
        with pytest.raises(SystemExit) as stop:
            stage()
    except UserError as error:
        return str(error)
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("measured", ["fidelity", "speed"])
@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"adapter": {"seed": 7}}, "measured with another adapter than the one in adapters/agd"),
        ({"seed": 7}, "measured for another seed than seed0"),
    ],
)
def test_what_measures_another_adapter_or_seed_is_named(measured, change, line, spoil):
    """A whole record, that of something else: nothing but its place is wrong, and fid.json tells the same figures."""
    path = SEED / measured / "agd.json"
    record = read_sealed(path)
    spoil(path, "truncate")
    write_sealed(path, {**record, "provenance": record["provenance"] | change})
    assert any(line in text for text in verify.bad(Path("results"))[1].values())


@pytest.mark.parametrize("fault", ["flip", "truncate", "delete", "swap", "empty"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_is_named(kind, fault, spoil, capsys):
    file, stage, other = KINDS[kind]
    path = spoil(file, fault, other)
    _, lines = verify.bad(Path("results"))
    # A file and the record that has its checksum are made by one job: naming either mends both.
    named = {line.split(": ")[0] for line in lines.values()}
    if (kind, fault) not in ON_PURPOSE:
        assert str(path) in named or any(name.startswith(f"{path.parent}/") for name in named), lines
    assert all("; run: snakemake " in line or "; delete it, then run: snakemake " in line for line in lines.values())
    if stage and (kind, fault) not in UNSEEN:
        line = said(stage, capsys)
        assert any(str(place) in line for place in (path, path.with_suffix(".json"), *path.parent.glob("*.*"))) or (
            BASE in path.parents and str(BASE) in line
        ), line


def test_a_whole_study_is_said_to_be_whole(capsys):
    with pytest.raises(SystemExit) as stop:
        verify.main(["results"])
    printed = capsys.readouterr()
    assert stop.value.code == 0
    assert printed.out.splitlines()[0].endswith("all whole and consistent")
    assert "verify: " in printed.err


def test_so_is_every_part_of_it():
    folders = {place for path in MODEL.rglob("*") for place in path.parents if MODEL in place.parents}
    assert len(folders) > 15
    assert {folder: lines for folder in folders if (lines := verify.bad(folder)[1])} == {}


def test_trajectories_that_were_deleted_on_purpose(spoil):
    folder = SEED / "trajectories" / "guided"
    shards, records = sorted(folder.glob("*.zip")), sorted(folder.glob("*.json"))
    spoil(shards[0], "delete")
    assert [line for line in verify.bad(MODEL)[1].values() if "missing, while" in line]
    for path in shards[1:]:
        spoil(path, "delete")
    assert verify.bad(MODEL)[1] == {}
    spoil(records[0], "swap", records[1])  # whole, and of another shard
    assert "is the record of 000002.zarr.zip" in verify.bad(MODEL)[1][str(records[0].absolute())]
    for path in records:
        spoil(path, "delete")
    assert verify.bad(MODEL)[1] == {}


def test_a_record_of_other_samples_is_named_without_its_samples(spoil):
    spoil(SAMPLES / "000000.zip", "delete")
    assert verify.bad(MODEL)[1] == {}
    path = SAMPLES / "000000.json"
    record = read_sealed(path)
    spoil(path, "truncate")
    write_sealed(
        path, {**record, "files": {"000004.zip": record["files"]["000000.zip"]}}
    )  # whole, and of another chunk
    assert f"{path}: is the record of something else" in "".join(verify.bad(MODEL)[1].values())


@pytest.mark.parametrize(
    ("file", "fault"),
    [
        (MODEL / "reference.npz", "delete"),
        (SEED / "metrics/agd/w2/n3.json", "truncate"),
        (SEED / "fidelity/agd.json", "truncate"),
        (SEED / "trajectories/guided/000000.zarr.json", "delete"),
        (SEED / "trajectories/guided/000002.zarr.zip", "truncate"),
    ],
)
def test_what_depends_on_a_bad_file_is_not_blamed(file, fault, spoil):
    spoil(file, fault)
    assert [line.split(": ")[0] for line in bad_files().splitlines()] == [str(file)]


def test_what_is_bad_is_printed_and_fails(spoil, capsys):
    path = spoil(SAMPLES / "000000.zip", "flip")
    with pytest.raises(SystemExit) as stop:
        verify.main(["results/tiny"])
    lines = capsys.readouterr().out.splitlines()
    assert stop.value.code == 1
    (line,) = (line for line in lines if line.startswith(f"{path}: damaged"))
    assert line.endswith(f"; delete it, then run: snakemake --cores 1 {path}")
    assert " bad" in lines[-1]


@pytest.mark.parametrize("fault", ["flip", "truncate", "swap", "empty"])
def test_a_bad_checkpoint_begins_anew(fault, spoil, capsys):
    path = spoil(SEED / "adapters/half/checkpoint.safetensors", fault, other=CLASSIFIER if fault == "swap" else None)
    _, lines = verify.bad(MODEL)
    assert [line for line in lines.values() if line.startswith(f"{path}: ")]
    interrupt(path.parent)
    assert f"{path} belongs to another training or is damaged; beginning anew" in capsys.readouterr().out


def test_a_record_notices_every_byte(tmp_path):
    path = tmp_path / "record.json"
    whole = sealed_json({"a": 1e-05, "b": ["é", None]})
    for position in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ (1 << bit)]) + whole[position + 1 :])
            with pytest.raises(UserError, match="record.json: (damaged|not a JSON file)"):
                read_sealed(path)
    path.write_bytes(whole)
    assert read_sealed(path) == {"a": 1e-05, "b": ["é", None]}


def test_figures_that_disagree_are_named(spoil, capsys):
    path = spoil(SEED / "metrics/agd/w2/n3.json", "empty")
    record = {**read_json(OTHER / "seed0/metrics/agd/w2/n3.json")}
    record.pop("sha256")
    path.write_bytes(sealed_json(record))
    _, lines = verify.bad(MODEL)
    assert "holds other figures than fid.json tells of it" in lines[str(path.absolute())]


def test_a_missing_folder_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        verify.main(["nowhere"])
    assert stop.value.code == 2
    assert "nowhere: no such folder" in capsys.readouterr().err


SENTENCES = [
    (
        "Params have changed since last execution: Union of exclusive params before and now across all output: "
        "before: '--steps 4 --learning-rate 0.001',1 now: '--steps 4 --learning-rate 0.5',2",
        ["setting learning_rate was 0.001 and is now 0.5", "the stage's version was 1 and is now 2: its results changed"],
    ),
    ("Missing output files: results/a.json", ["it is missing: results/a.json"]),
    ("Updated input files: a.zip, b.zip", ["contents of input files changed: a.zip, b.zip"]),
    ("Input files updated by another job: a.zip", ["what it is made from will be made again: a.zip"]),
    ("Set of input files has changed since last execution", ["other files go into it than before, such as more chunks"]),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "expected"), SENTENCES, ids=[case[0][:20] for case in SENTENCES])
def test_reasons_become_sentences(reason, expected):
    from agd.explain import sentences

    assert sentences(reason) == expected


FOLDERS = {
    "x": "fid.json", "x/base": "provenance.json", "x/prompts": "provenance.json", "x/seed0/adapters/agd": "config.json",
    "x/seed0/trajectories/guided": "000000.zarr.json", "x/seed0/samples/agd/w2/n8": "000000.json", "tables/digits": "index.json",
}  # fmt: skip


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_file_stands_for_its_folder(folder, monkeypatch):
    from agd import explain

    asked = []
    monkeypatch.setattr(explain, "dry_run", lambda artifact, words: asked.append(artifact) or "")
    explain.explain(f"results/{folder}", [])
    assert asked == [f"results/{folder}/{FOLDERS[folder]}"]


@pytest.mark.parametrize("place", ["seed0/trajectories/guided/000000.zarr.zip", f"seed0/samples/agd/{N3}/000000.json",
                                   "seed0/adapters/agd/config.json", "base/vae/config.json", "fid.json", "reference.npz"])  # fmt: skip
def test_what_an_artifact_was_made_with(place):
    from agd.explain import description, made_with

    lines = description(made_with(MODEL / place))
    assert place == "fid.json" or any(line.startswith("settings: ") for line in lines)
    assert place == "reference.npz" or any(line.startswith("commit: ") for line in lines)


def test_an_adapter_is_compared_with_its_own_trajectories():
    study = OTHER / "seed0"
    strong, adapter = study / "trajectories" / "strong", study / "adapters" / "of-strong"
    few = ("--base-model", OTHER / "base", "--num-trajectories", 4, "--chunk-size", 2, "--num-inference-steps", 3)
    command("sample_trajectories", *few, "--guidance-min", 3, "--output-dir", strong)
    command("train", "--dir", adapter, "--data-path", strong, "--base-model", OTHER / "base", *TRAIN)
    try:
        assert verify.bad(OTHER)[1] == {}
        (strong / "000002.zarr.zip").unlink()
        (strong / "000002.zarr.json").unlink()
        ((file, line),) = verify.bad(OTHER)[1].items()
        assert file == str((strong / "000002.zarr.zip").absolute())
        assert f"missing, while {adapter / 'config.json'} was trained on it" in line
    finally:
        shutil.rmtree(strong)
        shutil.rmtree(adapter)


@pytest.fixture
def exchange():
    """exchange(one, other): let two files or folders change places until the test ends."""
    done = []

    def swap(one: Path, other: Path) -> None:
        aside = one.with_name("aside")
        one.rename(aside)
        other.rename(one)
        aside.rename(other)

    def once(one: Path, other: Path) -> None:
        swap(one, other)
        done.append((one, other))

    yield once
    for one, other in reversed(done):
        swap(one, other)


def bad_files() -> str:
    return "\n".join(verify.bad(Path("results"))[1].values())


def test_methods_that_changed_places_are_named(exchange):
    exchange(SEED / "samples/agd", SEED / "samples/cfg")
    assert "made with --guidance cfg, not as samples/agd is" in bad_files()
    assert "made with --guidance adapter, not as samples/cfg is" in bad_files()


def test_seeds_that_changed_places_are_named(exchange):
    exchange(SEED, OTHER / "seed0")
    assert "sampled from another base model than the one in base/" in bad_files()


def test_a_seed_under_another_name_is_named():
    (OTHER / "seed0").rename(OTHER / "seed5")
    try:
        said = bad_files()
    finally:
        (OTHER / "seed5").rename(OTHER / "seed0")
    assert "seed5/trajectories/guided/000000.zarr.zip: sampled for another seed than seed5" in said
    assert "seed5/adapters/agd/config.json: trained for another seed than seed5" in said


@pytest.mark.parametrize("kind", ["folder", "pipe", "dead link"])
@pytest.mark.parametrize("file", [MODEL / "fid.json", SAMPLES / "000000.json", ADAPTER / "training.csv"], ids=str)
def test_what_is_no_file_is_named(file, kind):
    whole = file.read_bytes()
    file.unlink()
    try:
        if kind == "folder":
            file.mkdir()
        elif kind == "pipe":
            os.mkfifo(file)
        else:
            file.symlink_to("nowhere")
        assert any(line.startswith(f"{file}: ") for line in bad_files().splitlines())
    finally:
        file.rmdir() if kind == "folder" else file.unlink()
        file.write_bytes(whole)


def test_an_adapter_deleted_under_its_comparison_is_named():
    aside = Path("aside")
    ADAPTER.rename(aside)
    try:
        assert f"{ADAPTER}/config.json: missing, and fid.json tells of it" in bad_files()
    finally:
        aside.rename(ADAPTER)


RECORDS = {name: Path(file) for name, (file, *_) in KINDS.items() if str(file).endswith(".json")}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_of_another_kind_is_named(name):
    for other_name, other in RECORDS.items():
        if other_name != name and "base's" not in other_name:
            whole = RECORDS[name].read_bytes()
            shutil.copy(other, RECORDS[name])
            lines = bad_files()
            RECORDS[name].write_bytes(whole)
            place = RECORDS[name].parent
            assert any(line.startswith(f"{place}/") for line in lines.splitlines()), (other_name, lines)


def test_folders_behind_links_are_read_too(spoil, tmp_path):
    elsewhere = tmp_path / "disk"
    shutil.move(SEED / "trajectories", elsewhere)
    (SEED / "trajectories").symlink_to(elsewhere)
    try:
        assert bad_files() == ""
        spoil(SEED / "trajectories/guided/000002.zarr.zip", "truncate")
        assert f"{SEED}/trajectories/guided/000002.zarr.zip: damaged" in bad_files()
    finally:
        (SEED / "trajectories").unlink()
        shutil.move(elsewhere, SEED / "trajectories")


def test_a_folder_without_artifacts_is_no_success(tmp_path, capsys):
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(SystemExit) as stop:
        verify.main([str(tmp_path)])
    assert stop.value.code == 2
    assert (
        "nothing lies where the pipeline would put it (docs/artifacts.md); give a folder results/"
        in capsys.readouterr().err
    )


def tiny(**changed) -> dict:
    """The configuration that the tiny study was made with, but for what is changed: section -> settings."""
    own = {
        "base_model": "results/tiny/base",
        "train_base": {"vae_steps": 2, "steps": 2},
        "sample_trajectories": {"num_trajectories": 4, "chunk_size": 2, "num_inference_steps": 3},
        "train": {"steps": 4, "hidden_size": 8, "batch_size": 8, "checkpoint_interval": 2},
        "prepare_reference": {"max_features": 100},
        "sample": {"num_samples": 8, "guidance_scale": 2, "num_inference_steps": 3},
        "measure_fidelity": {"num_trajectories": 2, "num_inference_steps": 2},
        "measure_speed": {"rounds": 1, "batch_size": 2},
        "adapters": {"agd": {}},
        "methods": {"early": {"guided_share": 0.5}},
    }
    section = configuration.shipped()["models"]["digits-dit"]
    for key in (*own, *changed):
        value = {**own, **changed}[key]
        merged = isinstance(value, dict) and key != "adapters"
        section[key] = {**section.get(key, {}), **own.get(key, {}), **value} if merged else value
    return {"models": {"tiny": section}}


def test_settings_are_compared_with_a_configuration(tmp_path, capsys):
    """As after a job that outlived its Snakemake, or with the results of somebody else."""
    file, seed = tmp_path / "study.yaml", "results/tiny/seed0"
    cases = [
        ({}, ""),
        ({"train": {"steps": 5}}, f"{seed}/adapters/agd/config.json: made with steps 4, and the configuration says 5;"),
        (
            {"sample_trajectories": {"num_inference_steps": 2}},
            f"{seed}/trajectories/guided/000000.zarr.zip: made with num_inference_steps 3, and the configuration says 2;",
        ),
        ({"train_base": {"steps": 3}}, "tiny/base/provenance.json: made with steps 2, and the configuration says 3;"),
        ({"adapters": {"other": {}}, "compared_adapter": "other"}, "'agd' is not in the configuration;"),
        (
            {"sample": {"guidance_scale": 3}},
            "tiny/fid.json: made with guidance_scale 2, and the configuration says 3;",
        ),
        (
            {"sample": {"num_inference_steps": 4}},
            "tiny/fid.json: made with num_inference_steps 3, and the configuration",
        ),
        ({"sample": {"num_samples": 9}}, "agd/w2/n3.json: made with num_samples 8, and the configuration says 9;"),
        (
            {"sample_trajectories": {"num_trajectories": 5}},
            f"{seed}/adapters/agd/config.json: made with num_trajectories 4, and the configuration says 5;",
        ),
        ({"prepare_reference": {"max_features": 20}}, "tiny/reference.npz: made with max_features 100, and the"),
        ({"prepare_reference": {"image_size": 16}}, "tiny/reference.npz: made with image_size 0, and the"),
        ({"reference": "mine.zip"}, "tiny/reference.npz: made with reference 'results/digits/images.zip', and the"),
        ({"compared_methods": ["early"]}, "tiny/fid.json: lacks early, which the configuration asks for;"),
    ]
    for changed, line in cases:
        file.write_text(yaml.safe_dump(tiny(**changed)))
        with pytest.raises(SystemExit) as stop:
            verify.main(["results/tiny", "--configfile", str(file)])
        printed = capsys.readouterr()
        assert stop.value.code == (1 if changed else 0), printed
        # A curve shows none, cfg and the compared adapter alone.
        assert ("curve.json: lacks other, which" in printed.out) == ("compared_adapter" in changed)
        assert line in printed.out
        assert not changed or f" --configfile {file}\n" in printed.out
    file.write_text(yaml.safe_dump({**tiny(), "seeds": [1]}))
    with pytest.raises(SystemExit):
        verify.main(["results/tiny", "--configfile", str(file)])
    assert "tiny/fid.json: made with seeds [0], and the configuration says [1];" in capsys.readouterr().out
    own = {"title": "Other", "runs": [{"model": "tiny", "methods": ["cfg"]}], "columns": ["fid"]}
    file.write_text(yaml.safe_dump({**tiny(), "tables": {"small": {"main": own}}}))
    with pytest.raises(SystemExit):
        verify.main(["results", "--configfile", str(file)])
    printed = capsys.readouterr().out
    assert "digits/classifier.json: made with steps 2, and the configuration says" in printed
    assert "tables/small/main.json: made of another definition than the configuration's;" in printed
    file.write_text("models: {tiny: {family: dit}}")
    with pytest.raises(SystemExit) as stop:
        verify.main(["results/tiny", "--configfile", str(file)])
    assert stop.value.code == 2
    assert "agd.verify: error: models.tiny.base_model: missing; add it to the configuration" in capsys.readouterr().err
