"""Tables from small files of scores, written here by hand: numbers, texts, figures, and what is refused."""

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import command
from PIL import Image
from studies import ROOT

from agd.artifacts import table_text
from agd.artifacts.images import write_images
from agd.artifacts.scores import Scores, read_elsewhere
from agd.artifacts.sealed_json import read_sealed, write_sealed
from agd.artifacts.table_text import read_table
from agd.draw_runs import lines, panel_rows
from agd.index_tables import sentence
from agd.runtime.errors import UserError
from agd.settings import configuration, tables
from agd.settings.columns import COLUMNS
from agd.tabulate_runs import mark_best, summary

BASE = {"fingerprint": "b"}
MAIN = {
    "title": "Costs & 100% of_it",
    "runs": [{"model": "digits-dit", "methods": ["none", "cfg", "agd"], "steps": [4, 8], "seeds": [0, 1]}],
    "columns": ["fid", "recall", "nfe", "parameters", "unexplained", "training_seconds", "fits_24gb"],
    "figure": {"x": "nfe", "y": ["fid", "recall"]},
    "compare": {"measure": "fid", "of": "agd", "at": "nfe"},
    "grid": {"columns": 3},
}


def configured(**changes) -> dict:
    """The shipped configuration with one table."""
    return {**configuration.shipped(), "tables": {"small": {"main": {**MAIN, **changes}}}}


def complete(**changes) -> dict:
    config = configured(**changes)
    configuration.check(config)
    tables.check(config)
    return tables.definition(config, "small", "main")


def made(stage: str, version: int, **more) -> dict:
    return {"stage": stage, "stage_version": version, "settings": {}, **more}


def metrics_of(run, seed: int) -> dict:
    adapted = run.method not in ("none", "cfg")
    samples = made("sample", 2, guidance="adapter" if adapted else run.method, seed=seed, base=BASE)
    samples["settings"] = {"guidance_scale": float(run.scale), "num_inference_steps": run.steps}
    samples |= {"adapter": adapter_of(run, seed)["provenance"]} if adapted else {}
    distance = {"none": 9, "cfg": 3, "agd": 2}.get(run.method, 5) + 8 / run.steps + seed
    return {
        **{"fid": distance, "kid": distance / 10, "precision": 0.9, "recall": 0.5, "seconds_per_image": 0.1},
        **{"nfe": run.steps * (1 + (run.method == "cfg")), "num_samples": 200, "features": "digits-classifier"},
        "reference": {"source": "digits", "images": 1797},
        "provenance": made("calculate_metrics", 1, samples=samples),
    }


def adapter_of(run, seed: int) -> dict:
    provenance = made("train", 2, seed=seed, base=BASE, name=run.method)
    return {"size": {"parameters": 1234, "fraction_of_base": 0.03}, "provenance": provenance}


def fidelity_of(run, seed: int) -> dict:
    at = {
        "unexplained": 0.2,
        "captured": 0.8,
        "divergence": {"latents": 0.3, "images": 0.4},
        "timesteps": [900.0, 100.0],
    }
    at |= {
        "unexplained_by_timestep": [0.1, 0.2 + seed],
        "captured_by_timestep": [0.9, 0.7],
        "divergence_by_timestep": [0.1, 0.3],
    }
    adapter = adapter_of(run, seed)["provenance"]
    return {
        "by_guidance_scale": {"1.5": at},
        "num_trajectories": 10,
        "provenance": made("measure_fidelity", 2, seed=seed, adapter=adapter, guidance="adapter", base=BASE),
    }


def cost_of(run, seed: int) -> dict:
    return {"seconds_per_step": 0.5, "steps": 100, "peak_gpu_bytes": None, "device": "cpu"}


SCORES = {"metrics": metrics_of, "adapter": adapter_of, "fidelity": fidelity_of, "cost": cost_of}


def write_scores(folder: Path, definition: dict) -> Path:
    """Write every score file of a table into a folder of results."""
    for run in tables.runs(definition):
        for seed in run.seeds:
            for source, record in SCORES.items():
                if place := tables.path(definition, run, seed, source):
                    (folder / place).parent.mkdir(parents=True, exist_ok=True)
                    write_sealed(folder / place, record(run, seed))
    return folder


def write_samples(folder: Path, definition: dict) -> None:
    for place in tables.shown_samples(definition):
        names, images = [f"{i:06d}" for i in range(4)], np.zeros((4, 1, 8, 8), np.uint8)
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        write_images(folder / place, images, names, {"provenance": {}, "subjects": dict.fromkeys(names, 1)})


def tabulate(folder: Path, definition: dict) -> dict:
    words = ("--table", "main", "--definition", json.dumps(definition), "--results", folder)
    command("tabulate_runs", *words, "--output-dir", folder / "tables/small", family=None)
    return read_table(folder / "tables/small/main.json")


@pytest.fixture
def written(tmp_path) -> Path:
    """A folder of results with the scores of the table MAIN."""
    return write_scores(tmp_path, complete())


def test_runs_are_products_and_none_has_no_scale():
    items = [{"model": "digits-dit", "methods": ["none", "agd"], "guidance_scales": [1.5, 2.0], "steps": [4, 8]}]
    found = [
        (run.method, run.scale, run.steps)
        for run in tables.runs(complete(runs=items, columns=["fid"], figure=MAIN["figure"] | {"y": ["fid"]}))
    ]
    assert found == [("none", "1", 4), ("none", "1", 8)] + [("agd", w, n) for w in ("1.5", "2") for n in (4, 8)]


def test_columns_decide_which_files_are_read():
    def sources(*columns):
        only = {"title": "t", "runs": MAIN["runs"], "columns": list(columns)}
        config = {**configuration.shipped(), "tables": {"small": {"main": only}}}
        return {
            re.split(r"[/.]", path)[2] + Path(path).name[:4]
            for path in tables.scores(tables.definition(config, "small", "main"))
        }

    assert sources("captured") == {"fidelityagd."}
    assert sources("parameters", "peak_gpu_gb") == {"adaptersconf", "adapterscost"}
    assert sources("kid") == {"metricsn4.j", "metricsn8.j"}


def test_an_adapter_trained_for_another_model_is_found_there():
    config = configured(runs=[{"model": "digits-sd", "methods": ["there"]}], columns=["parameters"])
    config["models"]["digits-sd"]["adapters"]["there"] = {"trained_as": "digits-dit/agd"}
    found = list(tables.scores(tables.definition(config, "small", "main")))
    assert "digits-dit/seed0/adapters/agd/config.json" in found
    assert "digits-sd/seed0/metrics/there/w1.5/n8.json" in found


def test_means_and_standard_deviations_are_over_the_seeds(written):
    record = tabulate(written, complete())
    rows = {(row["method"], row["steps"]): row["values"] for row in record["rows"]}
    of_seeds = [2 + 1, 2 + 1 + 1]
    assert rows["agd", 8]["fid"] == {
        "mean": statistics.mean(of_seeds), "std": statistics.stdev(of_seeds), "per_seed": {"0": 3, "1": 4}
    }  # fmt: skip
    assert rows["agd", 8]["training_seconds"]["mean"] == 50
    assert rows["agd", 8]["fits_24gb"] == {
        "mean": None,
        "std": None,
        "per_seed": {"0": None, "1": None},
    }  # never guessed
    assert rows["cfg", 4]["unexplained"]["mean"] is rows["cfg", 4]["parameters"]["mean"] is None
    assert record["versions"] == {"calculate_metrics": 1, "sample": 2, "train": 2, "measure_fidelity": 2}
    assert record["shared"]["digits-dit"]["num_samples"] == 200
    assert summary({"0": 3.0}) == {"mean": 3.0, "std": None, "per_seed": {"0": 3.0}}


def row(method: str, fid: float, std: float | None, nfe: float = 8, model: str = "m", **more) -> dict:
    values = {
        "fid": {"mean": fid, "std": std},
        "nfe": {"mean": nfe, "std": 0},
        "recall": {"mean": fid and -fid, "std": std},
    }
    return {
        "model": model,
        "method": method,
        "w": 1.5,
        "steps": 8,
        "seeds": [0, 1],
        "elsewhere": False,
        "values": values,
    } | more


def test_the_best_is_bold_with_those_within_its_standard_deviation():
    rows = [
        row("best", 2, 0.5), row("near", 2.5, 9), row("far", 2.6, 9), row("dearer", 1, 0.1, nfe=16), row("unknown", None, None),
        row("elsewhere", 0, None, elsewhere=True), row("other model", 1, None, model="n"), row("its other", 1.1, None, model="n"),
    ]  # fmt: skip
    mark_best(rows, ["fid", "nfe", "recall"])
    assert {one["method"] for one in rows if "fid" in one["best"]} == {"best", "near", "other model"}
    assert {one["method"] for one in rows if "recall" in one["best"]} == {"best", "near", "other model"}
    assert not any("nfe" in one["best"] for one in rows)


def test_the_texts_show_what_the_table_holds(written):
    tabulate(written, complete())
    folder = written / "tables/small"
    shown = (folder / "main.md").read_text()
    assert shown.splitlines()[0].startswith(
        "| method | steps | distance ↓ | recall ↑ | evaluations per image | trained parameters |"
    )
    assert "| agd | 8 | **3.50 ± 0.71** | **0.500** | 8 | 1,234 | 0.200 | 50 |  |" in shown
    for part in (
        "over 2 seeds",
        "w = 1.5.",
        "200 images",
        "the Fréchet distance of digits-classifier",
        "calculate\\_metrics 1",
        "Not measured: fits in 24 GB.",
    ):
        assert part in shown
    text = (folder / "main.tex").read_text()
    assert r"\textbf{3.50 $\pm$ 0.71}" in text
    assert r"Costs \& 100\% of\_it" in text
    assert r"distance $\downarrow$" in text
    assert "<b>3.50 ± 0.71</b>" in (folder / "main.html").read_text()
    first, *rest = (folder / "main.csv").read_text().splitlines()
    assert first.startswith("model,method,w,steps,seeds,elsewhere,fid,fid_std,recall,recall_std,nfe,nfe_std")
    assert rest[-1].startswith("digits-dit,agd,1.5,8,2,False,3.5,0.707")
    assert table_text.escape_markdown("$x^2$ ~~&lt;~~ a_b") == r"\$x^2\$ \~\~\&lt;\~\~ a\_b"
    assert table_text.escape_tex(r"a_b\{~^&") == r"a\_b\textbackslash{}\{\textasciitilde{}\textasciicircum{}\&"


def test_values_from_elsewhere_stand_beside_ours_and_are_marked(written):
    file = written / "theirs.csv"
    file.write_text("model,method,w,steps,fid,recall\ndigits-dit,adapted,1.5,,0.5,\n")
    record = tabulate(written, complete(elsewhere=str(file)))
    assert record["rows"][-1]["best"] == []
    assert "\ndigits-dit,agd,1.5,8,2,False," in (written / "tables/small/main.csv").read_text()
    assert "| adapted (elsewhere) |  | 0.50 |  |  |" in (written / "tables/small/main.md").read_text()
    command("draw_runs", "--table", written / "tables/small/main.json", "--output-dir", written, family=None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model,method,w\n", "has no column steps; add it"),
        ("model,method,w,steps,fdi\n", "column 'fdi' is unknown; choose from model, method, w, steps, fid"),
        ("model,method,w,steps,fid\na,b,1,4,low\n", "line 2: fid is 'low', no number; mend it"),
        ("model,method,w,steps,fid\na,b,1,4,nan\n", "line 2: fid is 'nan', no number"),
        ("model,method,w,steps,fid\na,b,1\n", "line 2 has not as many values"),
        ("model,method,w,steps,fid\na,b,1,4,5,6\n", "line 2 has not as many values"),
        (
            "model,method,w,steps,fid\na,b,1,4,5\na,c,1,4,5\na,b,1.0,4,7\n",
            "lines 2 and 4 are of the same run; make one",
        ),
        ("model,method,w,steps,fid\na,b,1,4,-5\n", "line 2: fid is '-5', and can only be 0 to 1e+12; mend it"),
        ("model,method,w,steps,fid\na,b,0.5,4,5\n", "line 2: w is '0.5', and can only be 1 to"),
        ("model,method,w,steps,recall\na,b,1,4,59\n", "line 2: recall is '59', and can only be 0 to 1;"),
        ("model,method,w,steps,fid\n", "has no rows; add some, or leave elsewhere out"),
        ("model,method,w,steps,fid\na,b\x07,1,4,5\n", "line 2: method is 'b\\x07', which can't be printed"),
        ("model,method,w,steps,fid\na,b,1,4.5,5\n", "line 2: steps is '4.5', no whole number"),
        ("model,method,w,steps,fid\na, ,1,4,5\n", "line 2: method is empty; fill it in"),
    ],
)
def test_bad_values_from_elsewhere_are_named(tmp_path, text, said):
    file = tmp_path / "theirs.csv"
    file.write_text(text)
    with pytest.raises(UserError, match=re.escape(f"{file}: {said}")):
        read_elsewhere(file)
    with pytest.raises(UserError, match="no such file; give a CSV file"):
        read_elsewhere(tmp_path / "nothing.csv")


def refused(folder: Path, place: str, change) -> str:
    """What is said of a table whose file at `place` holds another record."""
    record = read_sealed(folder / place)
    change(record)
    write_sealed(folder / place, record)
    with pytest.raises(UserError) as error:
        read_all(folder, complete())
    return str(error.value)


def read_all(folder: Path, definition: dict) -> None:
    scores = Scores(definition, folder)
    for run in tables.runs(definition):
        for seed in run.seeds:
            scores.read(run, seed)


AGD = "digits-dit/seed1/metrics/agd/w1.5/n8.json"
SAMPLES = ("provenance", "samples")


def setting(*keys, to):
    """A change of a record: set the value at nested keys."""

    def change(record):
        for name in keys[:-1]:
            record = record[name]
        record[keys[-1]] = to

    return change


@pytest.mark.parametrize(
    ("place", "change", "said"),
    [
        (AGD, setting("provenance", "stage_version", to=2), "the version of calculate_metrics is 2, and 1 in "),
        (AGD, setting(*SAMPLES, "stage_version", to=1), "the version of sample is 1, and 2 in "),
        (AGD, setting("features", to="dinov2"), "features is dinov2, and digits-classifier in "),
        (AGD, setting("reference", "images", to=3), "reference is {"),
        (AGD, setting("num_samples", to=7), "num_samples is 7, and 200 in "),
        (AGD, setting(*SAMPLES, "base", to={"fingerprint": "c"}), "the base model is c, and b in "),
        (
            AGD,
            setting(*SAMPLES, "seed", to=0),
            "measures samples of adapter at w = 1.5 in 8 steps of seed 0, unlike its path",
        ),
        (AGD, setting(*SAMPLES, "settings", "guidance_scale", to=2), "measures samples of adapter at w = 2 in 8 steps"),
        (
            AGD,
            setting(*SAMPLES, "settings", "num_inference_steps", to=9),
            "measures samples of adapter at w = 1.5 in 9 ",
        ),
        (AGD, setting(*SAMPLES, "guidance", to="cfg"), "measures samples of cfg at w = 1.5 in 8 steps of seed 1"),
        (AGD, setting(*SAMPLES, "adapter", "name", to="x"), "is of another adapter than "),
        (
            "digits-dit/seed1/metrics/cfg/w1.5/n8.json",
            setting(*SAMPLES, "settings", "guided_share", to=0.5),
            "guided_share is 0.5, and 1 for cfg in the configuration; delete it and run again",
        ),
        (AGD, dict.clear, "not a file of metrics"),
        (
            "digits-dit/seed0/adapters/agd/config.json",
            setting("provenance", "name", to="x"),
            "is of another adapter than",
        ),
        ("digits-dit/seed0/adapters/agd/config.json", dict.clear, "not an adapter's config.json"),
        ("digits-dit/seed0/adapters/agd/cost.json", dict.clear, "not what train says of its cost"),
        ("digits-dit/seed0/fidelity/agd.json", dict.clear, "not a file of fidelity"),
        (
            "digits-dit/seed0/fidelity/agd.json",
            setting("provenance", "seed", to=3),
            "is of adapter and of seed 3, unlike its path",
        ),
        ("digits-dit/seed0/fidelity/agd.json", setting("by_guidance_scale", to={}), "measures nothing at w = 1.5"),
    ],
)
def test_files_that_do_not_belong_into_one_table_are_named(written, place, change, said):
    line = refused(written, place, change)
    assert line.startswith(f"{written / place}: ")
    assert said in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("place", "change", "said"),
    [
        ("reference", "b" * 64, "the reference's checksum is"),
        ("weights", "c" * 64, "the extractor's checksum is"),
        ("settings", {"neighbours": 9}, "neighbours is 9"),
    ],
)
def test_metrics_of_another_reference_or_extractor_are_named(written, place, change, said):
    """Under the same names: what stands in them decides."""
    assert said in refused(written, AGD, lambda record: record["provenance"].update({place: change}))


def test_samples_of_another_precision_are_named(written):
    def change(record):
        record["provenance"]["samples"]["settings"]["dtype"] = "bfloat16"

    assert "dtype of the samples is bfloat16" in refused(written, AGD, change)


def test_models_that_differ_say_so_in_the_caption():
    one = {"num_samples": 20, "features": "x", "reference": {}}
    alike = table_text.by_model({"a": one, "b": dict(one)}, lambda shared: f"{shared['num_samples']} images")
    assert alike == ["20 images."]
    shared = {"a": one, "b": {**one, "num_samples": 30}, "c": one}
    found = table_text.by_model(shared, lambda shared: f"{shared['num_samples']} images")
    assert found == ["20 images (a, c).", "30 images (b)."]


def test_a_note_of_several_paragraphs_is_one_in_latex(written):
    tabulate(written, complete(note="One.\n\nTwo.\r"))
    text = (written / "tables/small/main.tex").read_text()
    assert "One. Two." in text
    assert "\r" not in text


def test_a_broken_or_missing_file_is_named(written, capsys):
    whole = (written / AGD).read_bytes()
    for damage, said in (
        (lambda f: f.unlink(), "no such file"),
        (lambda f: f.write_bytes(whole[:-9] + b"0" + whole[-8:]), "damaged"),
    ):
        damage(written / AGD)
        with pytest.raises(SystemExit):
            tabulate(written, complete())
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{AGD}: {said}" in line or "not a JSON file" in line
        assert not (written / "tables").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"runs": [{"model": "x", "methods": ["cfg"]}]}, "runs.0.model: 'x' is not in models; known are "),
        ({"runs": [{"model": "dit", "methods": ["tgate"]}]}, "runs.0.methods: 'tgate' is no method of dit; known are none, cfg, "),
        ({"runs": [{"model": "dit", "methods": ["cfg"], "overrides": 1}]}, "runs.0.overrides: unknown key; allowed are guidance_scales"),
        ({"runs": MAIN["runs"] * 2}, "runs: none of digits-dit at w = 1 in 4 steps is there twice"),
        ({"runs": [MAIN["runs"][0] | {"guidance_scales": [0.5]}]}, "runs.0.guidance_scales.0: 0.5 is not allowed; must be number, at least 1"),
        ({"runs": [MAIN["runs"][0] | {"guidance_scales": [float("inf")]}]}, "runs.0.guidance_scales.0: inf is not allowed"),
        ({"runs": [MAIN["runs"][0] | {"guidance_scales": [1.7]}]}, "runs: unexplained of digits-dit is not measured at w = 1.7, but at 1.25, 1.5, 2, 3, 4;"),
        ({"columns": ["fdi"]}, "columns.0: 'fdi' is not allowed; must be string, must be one of fid, kid"),
        ({"columns": ["fid"]}, "figure.y: recall is not among the columns; add it there"),
        ({"figure": {"x": "seed", "y": ["fid"]}}, "figure.x: 'seed' is not allowed; must be string, must be one of nfe"),
        ({"figure": {"x": "timestep", "y": ["fid"]}}, "figure.y: fid has no timestep; choose from unexplained, captured, divergence_latents"),
        ({"compare": MAIN["compare"] | {"measure": "nfe"}}, "compare.measure: no nfe is the best"),
        ({"compare": MAIN["compare"] | {"of": "gd"}}, "compare.of: 'gd' is no method of this table"),
        ({"runs": [MAIN["runs"][0], {"model": "digits-sd", "methods": ["cfg"], "seeds": [3]}]}, "grid: the runs' first seeds differ (0, 3)"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_table_is_one_line(changes, said):
    with pytest.raises(UserError) as error:
        complete(**changes)
    assert str(error.value).startswith(f"tables.small.main.{said}")


@pytest.mark.parametrize("name", ["Main", "a_b", "index", "main-grid"])
def test_names_that_cannot_be_files_are_refused(name):
    config = configured()
    config["tables"]["small"] = {name: MAIN}
    with pytest.raises(UserError, match=name):
        configuration.check(config)


def test_figures_draw_a_line_per_method(written):
    definition = complete(figure={"x": "timestep", "y": ["unexplained"]})
    record = tabulate(written, definition)
    (title, rows), *none = panel_rows(record).items()
    assert (title, none) == ("w = 1.5", [])
    (line,) = lines(record, rows, "unexplained")
    assert (line.label, line.x) == ("agd", [900.0, 100.0])
    assert line.spreads == pytest.approx([0, statistics.stdev([0.2, 1.2])])
    record = tabulate(written, complete())
    drawn = lines(record, panel_rows(record)["digits-dit"], "fid")
    assert [(line.label, line.x) for line in drawn] == [("none", [4, 8]), ("cfg", [8, 16]), ("agd", [4, 8])]
    assert len({line.style["color"] for line in drawn}) == 3


def test_equal_tables_give_equal_bytes(written, tmp_path_factory):
    tabulate(written, complete())
    folders = [tmp_path_factory.mktemp("figures") for _ in range(2)]
    for folder in folders:
        command("draw_runs", "--table", written / "tables/small/main.json", "--output-dir", folder, family=None)
    for name in ("main.svg", "main.png"):
        first, second = ((folder / name).read_bytes() for folder in folders)
        assert first == second
    with Image.open(folders[0] / "main.png") as picture:
        assert min(picture.size) > 300


def test_a_table_without_a_figure_or_grid_says_so(written, capsys):
    definition = {name: value for name, value in complete().items() if name not in ("figure", "grid")}
    tabulate(written, definition)
    words = ("--table", "main", "--definition", json.dumps(tables.grid_definition(definition)))
    for stage, given in (("draw_runs", ("--table", written / "tables/small/main.json")), ("draw_grid", words)):
        with pytest.raises(SystemExit):
            command(stage, *given, "--output-dir", written / "drawn", family=None)
        assert "add the section" in capsys.readouterr().err


def test_a_grid_has_a_row_per_run(written):
    definition = tables.grid_definition(complete())
    write_samples(written, definition)
    words = ("--table", "main", "--definition", json.dumps(definition), "--results", written, "--output-dir", written)
    command("draw_grid", *words, family=None)
    with Image.open(written / "main-grid.png") as picture:
        assert picture.height == 6 * (64 + 4) + 4
        assert picture.width > 3 * 64


def test_the_page_says_what_the_numbers_say(written):
    record = tabulate(written, complete())
    # One standard deviation is 0.71. At 8 evaluations, agd has 3.5 and cfg, with 4 steps, 5.5; without guidance 10.5.
    counted = "than none in 2 of 2 comparisons (larger in 0), than cfg in 1 of 1 (larger in 0)"
    expected = f"At equal evaluations (of others up to a seventh more), agd has a smaller distance {counted}, counting differences of more than one standard deviation."
    assert sentence(record) == expected
    record["definition"]["compare"]["at"] = "w"
    assert "than cfg in 2 of 2 comparisons (larger in 0)" in sentence(record)
    del record["definition"]["compare"]
    assert sentence(record) == ""


def test_texts_are_shown_as_they_are():
    assert table_text.paragraph("# 5 | a_b [x]\ny") == "\\# 5 \\| a\\_b \\[x\\] y"
    assert table_text.paragraph("1. Foo") == "1\\. Foo"
    assert table_text.escape_tex("[1] 5 %*") == "{[}1{]} 5 \\%{*}"


def test_steps_without_a_column_of_theirs_are_refused():
    wanted = {"columns": ["unexplained"], "figure": {"x": "w", "y": ["unexplained"]}}
    changes = {**wanted, "compare": {"measure": "unexplained", "of": "agd", "at": "w"}}
    with pytest.raises(
        UserError, match=r"main\.runs\.0\.steps: no column of this table depends on them; leave them out"
    ):
        complete(**changes)


def test_what_was_not_measured_is_not_compared(written):
    record = tabulate(written, complete())
    record["definition"]["compare"] = {"measure": "unexplained", "of": "agd", "at": "w"}
    assert sentence(record).startswith("No other method has runs")


def test_a_scale_of_its_own_is_for_methods_of_one_scale(written):
    record = tabulate(written, complete())
    for row in record["rows"]:
        row["w"] = 2 if row["method"] == "cfg" else row["w"]
    assert "than cfg in 1 of 1" in sentence(record)
    again = {**record["rows"][-1], "w": 4.0}
    record["rows"].append(again)
    assert "than cfg" not in sentence(record)


def test_a_figure_of_nothing_is_refused(written, capsys):
    tabulate(written, complete(columns=["fid", "clip_score"], figure={"x": "nfe", "y": ["clip_score"]}))
    with pytest.raises(SystemExit):
        command("draw_runs", "--table", written / "tables/small/main.json", "--output-dir", written, family=None)
    assert "tables.small/main.figure: no run of digits-dit has both nfe and clip_score" in capsys.readouterr().err


def test_every_measure_has_a_place_and_a_form():
    for name, column in COLUMNS.items():
        assert column.source in tables.PATHS, name
        assert column.better in ("less", "more", ""), name
        assert table_text.cell({"mean": 1.0, "std": None}, column), name


def test_tables_need_no_torch():
    code = "import sys, agd.tabulate_runs, agd.draw_runs, agd.draw_grid, agd.index_tables; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
