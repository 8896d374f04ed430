"""A study of two tables on a tiny model: what it makes, and that an addition makes only what is new."""

import json

import pytest
from PIL import Image
from studies import planned_jobs, snakemake, two_models, write

from agd import verify
from agd.artifacts.sealed_json import read_sealed, write_sealed
from agd.settings.versions import VERSIONS

ALL = ("results/tables/small/all",)


def with_tables(**changes) -> dict:
    """The configuration of the tiny models, with a study of two tables. changes: of the first table's only runs."""
    main = {"model": "tiny", "methods": ["none", "cfg", "agd"], "steps": [3]} | changes
    fidelity = {"model": "tiny", "methods": ["cfg", "agd", "half"], "guidance_scales": [1.5, 2]}
    tables = {
        "main": {
            "title": "One pass and two",
            "runs": [main],
            "columns": ["fid", "recall", "nfe", "parameters"],
            "figure": {"x": "nfe", "y": ["fid", "recall"]},
            "compare": {"measure": "fid", "of": "agd", "at": "nfe"},
            "grid": {"columns": 4},
        },
        "fidelity": {
            "title": "Fidelity",
            "runs": [fidelity],
            "columns": ["unexplained", "captured", "divergence_images"],
            "figure": {"x": "timestep", "y": ["unexplained"]},
        },
    }
    return {**two_models(tiny__methods={"half": {"guided_share": 0.5}}), "tables": {"small": tables}}


def jobs(folder, configuration) -> set[str]:
    """The jobs that Snakemake would run: rule and what tells it from its siblings, but for chunks."""
    told = ("study", "table", "seed", "method", "adapter", "scale", "steps")
    planned = planned_jobs(folder, configuration, ALL)
    return {" ".join([rule, *(wildcards[name] for name in told if name in wildcards)]) for rule, wildcards in planned}


def tabulated_again(*tables) -> set[str]:
    return {f"{stage} small {table}" for table in tables for stage in ("tabulate_runs", "draw_runs")} | {
        "index_tables small"
    }


def measured(*runs) -> set[str]:
    """A job of sampling and one of metrics for each run: seed, method, scale and steps."""
    return {f"{stage} {run}" for run in runs for stage in ("sample", "calculate_metrics")}


@pytest.fixture(scope="module")
def tabulated(finished):
    """The tiny models' study, with its tables."""
    file = write(finished, with_tables())
    snakemake(finished, "--cores", "2", "--configfile", file, targets=ALL)
    return finished


def test_gives_tables_figures_a_grid_and_a_page(tabulated):
    folder = tabulated / "results/tables/small"
    names = {
        f"{table}.{suffix}"
        for table in ("main", "fidelity")
        for suffix in ["json", "csv", "md", "tex", "html", "svg", "png"]
    }
    assert {file.name for file in folder.iterdir()} == names | {"main-grid.png", "index.md", "index.json", "all"}
    record = json.loads((folder / "main.json").read_text())
    measured = json.loads((tabulated / "results/tiny/seed0/metrics/agd/w1.5/n3.json").read_text())
    assert [row["values"]["nfe"]["mean"] for row in record["rows"]] == [3, 6, 3]
    assert record["rows"][2]["values"]["fid"]["per_seed"] == {"0": measured["fid"]}
    fidelity = json.loads((folder / "fidelity.json").read_text())
    assert [row["values"]["captured"]["mean"] is None for row in fidelity["rows"]] == [True] * 2 + [False] * 4
    page = (folder / "index.md").read_text()
    assert page.index("## Fidelity") < page.index("## One pass and two")  # `write` sorts
    assert "At equal evaluations (of others up to a seventh more), agd has a smaller distance than none in " in page
    assert " steps." not in (folder / "fidelity.md").read_text()  # nothing was sampled
    assert (folder / "main.md").read_text().strip() in page
    with Image.open(folder / "main-grid.png") as picture:
        assert picture.width > 4 * 64
        assert picture.height > 3 * 64
    assert verify.bad(tabulated / "results")[1] == {}
    assert jobs(tabulated, with_tables()) == set()


GRID = {"draw_grid small main"}
ADDITIONS = {
    "steps": ({"steps": [3, 2]}, measured("0 none 1 2", "0 agd 1.5 2") | GRID),  # cfg with 2 steps is there
    "method": ({"methods": ["none", "cfg", "agd", "offset"]}, measured("0 offset 1.5 3") | {"train 0 offset"} | GRID),
    "w": ({"guidance_scales": [1.5, 2]}, measured("0 cfg 2 3", "0 agd 2 3") | GRID),
    "seed": (
        {"seeds": [0, 1]},
        measured("1 none 1 3", "1 cfg 1.5 3", "1 agd 1.5 3") | {"sample_trajectories 1", "train 1 agd"},
    ),
}


@pytest.mark.parametrize("added", ADDITIONS)
def test_an_addition_runs_only_what_is_new(tabulated, added):
    change, new = ADDITIONS[added]
    assert jobs(tabulated, with_tables(**change)) == new | tabulated_again("main")


def test_another_table_of_the_same_runs_only_draws(tabulated):
    configuration = with_tables()
    configuration["tables"]["small"]["third"] = {**configuration["tables"]["small"]["main"], "title": "Third"}
    assert jobs(tabulated, configuration) == tabulated_again("third") | {"draw_grid small third"}


VERSIONED = {
    "tabulate_runs": tabulated_again("main", "fidelity"),
    "draw_runs": tabulated_again("main", "fidelity") - {f"tabulate_runs small {name}" for name in ("main", "fidelity")},
    "draw_grid": GRID | {"index_tables small"},
    "index_tables": {"index_tables small"},
}


@pytest.mark.parametrize("stage", VERSIONED)
def test_a_stage_version_reruns_that_stage_and_what_follows(tabulated, monkeypatch, stage):
    monkeypatch.setitem(VERSIONS, stage, VERSIONS[stage] + 1)
    assert jobs(tabulated, with_tables()) == VERSIONED[stage]


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("results/tables/large/all", "agd: error: tables.large: is not there; add it to the configuration"),
        ("results/tables/small/none.md", "agd: error: tables.small.none: is not there; add it to the configuration"),
    ],
)
def test_an_unknown_table_is_one_line(tabulated, target, line):
    file = write(tabulated, with_tables())
    done = snakemake(tabulated, "-n", "--configfile", file, targets=(target,), check=False)
    assert done.returncode != 0
    assert [said for said in done.stderr.splitlines() if "rror" in said] == [line]


def test_a_mistake_in_a_table_ends_before_any_job(finished, tmp_path):
    configuration = with_tables(methods=["none", "tgate"])
    done = snakemake(tmp_path, "--configfile", write(finished, configuration), "--cores", "1", targets=ALL, check=False)
    assert done.returncode != 0
    (line,) = [said for said in done.stderr.splitlines() if "rror" in said]
    assert line.startswith(
        "agd: error: tables.small.main.runs.0.methods: 'tgate' is no method of tiny; known are none, cfg, "
    )
    assert not (tmp_path / "results").exists()


def test_other_figures_than_the_scores_are_seen(tabulated):
    file = tabulated / "results/tables/small/main.json"
    whole, record = file.read_bytes(), read_sealed(file)
    record["rows"][2]["values"]["fid"]["per_seed"]["0"] += 1
    write_sealed(file, record)
    lines = verify.bad(tabulated / "results")[1]
    file.write_bytes(whole)
    assert "holds other figures than the scores of agd at w1.5/n3, seed 0" in lines[str(file)]
    assert verify.bad(tabulated / "results")[1] == {}


def test_the_report_holds_tables_figures_and_grids(tabulated, tmp_path):
    page = tmp_path / "report.html"
    snakemake(tabulated, "--configfile", write(tabulated, with_tables()), "--report", page, targets=ALL)
    text = page.read_text()
    for name in ("main.html", "main.svg", "main-grid.png", "fidelity.html", "fidelity.svg"):
        assert f"results/tables/small/{name}" in text


def test_a_comparison_shows_other_methods_too(tabulated):
    configuration = with_tables()
    configuration["models"]["tiny"]["compared_methods"] = ["half"]
    snakemake(
        tabulated, "--cores", "2", "--configfile", write(tabulated, configuration), targets=("results/tiny/fid.json",)
    )
    record = json.loads((tabulated / "results/tiny/fid.json").read_text())
    assert set(record["methods"]) == {"none", "cfg", "cfg-half", "agd", "half"}
    assert record["compared_adapter"] == "agd"
    measured = json.loads((tabulated / "results/tiny/seed0/metrics/half/w1.5/n3.json").read_text())
    assert record["methods"]["half"]["per_seed"]["0"]["fid"] == measured["fid"]
    assert record["methods"]["half"]["nfe"] == 5  # of three steps, two are guided
    timed = json.loads((tabulated / "results/tiny/seed0/speed/agd.json").read_text())
    assert record["methods"]["half"]["speedup_over_cfg"] == timed["others"]["half"]["speedup_over_cfg"]
    assert timed["provenance"]["others"]["half"]["settings"]["guided_share"] == 0.5
    rows = [line.split()[0] for line in (tabulated / "results/tiny/fid.txt").read_text().splitlines()[2:7]]
    assert rows == ["none", "cfg", "cfg-half", "agd", "half"]
    assert verify.bad(tabulated / "results")[1] == {}
