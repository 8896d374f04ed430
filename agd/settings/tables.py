"""The tables of studies: which runs they compare, and which files hold the scores. Snakemake and the stages both read it.

A definition is one table's section of the configuration. `definition` fills in the defaults; the other functions then need
no configuration.
"""

import dataclasses
import json
import math
from collections.abc import Iterator

from agd.runtime.errors import UserError
from agd.settings import configuration, guides, written_values
from agd.settings.columns import AXES, BY_TIMESTEP, COLUMNS
from agd.settings.results import BUILT_IN, scale_name
from agd.settings.schema import of_cfg

# Kind of file -> its path below results/{model}/seed{seed}. `adapter` and `cost` are those of a method that is an adapter.
PATHS = {
    "metrics": "metrics/{method}/w{scale}/n{steps}.json",
    "fidelity": "fidelity/{method}.json",
    "adapter": "adapters/{method}/config.json",
    "cost": "adapters/{method}/cost.json",
    "samples": "samples/{method}/w{scale}/n{steps}/000000.zip",
}


@dataclasses.dataclass(frozen=True)
class Run:
    """A row of a table: samples of one method, and its seeds. scale: guidance scale as paths spell it."""

    model: str
    method: str
    scale: str
    steps: int
    seeds: tuple[int, ...] = dataclasses.field(compare=False)


def check(config: dict) -> None:
    """Raise UserError if a table can't be made: one line with the key, the value, and what to do."""
    for study, tables in config.get("tables", {}).items():
        for name, given in tables.items():
            where = f"tables.{study}.{name}"
            _check_items(config, given["runs"], where)
            complete = definition(config, study, name)
            _check_runs(runs(complete), where)
            _check_steps(complete, where)
            _check_shown(given, runs(complete), where)
            _check_scales(config, complete, where)


def _check_items(config: dict, items: list[dict], where: str) -> None:
    for number, item in enumerate(items):
        key, model = f"{where}.runs.{number}", item["model"]
        if model not in config["models"]:
            raise UserError(f"{key}.model: {model!r} is not in models; known are {', '.join(config['models'])}")
        section = config["models"][model]
        known = [*BUILT_IN, *section.get("methods", {}), *section["adapters"]]
        for method in item["methods"]:
            if guides.split(method)[0] not in known:
                raise UserError(f"{key}.methods: {method!r} is no method of {model}; known are {', '.join(known)}")
            guides.of(config, model, method)
        for w in item.get("guidance_scales", []):
            if not math.isfinite(w):
                raise UserError(f"{key}.guidance_scales: {w} is no guidance scale; give a number from 1")


def _check_runs(listed: list[Run], where: str) -> None:
    seen = set()
    for run in listed:
        if run in seen:
            said = f"{run.method} of {run.model} at w = {run.scale} in {run.steps} steps"
            raise UserError(f"{where}.runs: {said} is there twice; name it in one item, with all of its seeds")
        seen.add(run)


def _check_steps(complete: dict, where: str) -> None:
    """Raise UserError if a table of fidelity and costs alone, which have no number of steps, asks for several."""
    if any(COLUMNS[name].source == "metrics" for name in measures(complete)):
        return
    for number, item in enumerate(complete["runs"]):
        if len(item["steps"]) > 1:
            raise UserError(f"{where}.runs.{number}.steps: no column of this table depends on them; leave them out")


def _check_shown(given: dict, listed: list[Run], where: str) -> None:
    """Check the measures of the figure and of the comparison."""
    figure = given.get("figure", {"x": "nfe", "y": []})
    for name in figure["y"]:
        if figure["x"] == "timestep" and name not in BY_TIMESTEP:
            raise UserError(f"{where}.figure.y: {name} has no timestep; choose from {', '.join(BY_TIMESTEP)}")
        if figure["x"] != "timestep" and name not in given["columns"]:
            raise UserError(f"{where}.figure.y: {name} is not among the columns; add it there")
    seeds = {run.seeds[0] for run in listed}
    if "grid" in given and len(seeds) > 1:
        raise UserError(
            f"{where}.grid: the runs' first seeds differ ({', '.join(map(str, sorted(seeds)))}); begin with the same one"
        )
    if "compare" in given:
        measure, method = given["compare"]["measure"], given["compare"]["of"]
        if not COLUMNS[measure].better:
            raise UserError(f"{where}.compare.measure: no {measure} is the best; choose another measure")
        if method not in {run.method for run in listed}:
            raise UserError(f"{where}.compare.of: {method!r} is no method of this table; add it to runs")


def _check_scales(config: dict, complete: dict, where: str) -> None:
    """Check that fidelity is measured at the scales of the runs."""
    names = [name for name in measures(complete) if COLUMNS[name].source == "fidelity"]
    for run in runs(complete) if names else []:
        measured = fidelity_scales(config, run.model, run.method)
        if _is_measured(run.method) and f"{float(run.scale):g}" not in measured:
            raise UserError(
                f"{where}.runs: {names[0]} of {run.model} is not measured at w = {run.scale}, but at {', '.join(measured)}; "
                f"add it to models.{run.model}.measure_fidelity.guidance_scales"
            )


def _is_measured(method: str) -> bool:
    """Return whether the fidelity of a method is measured: not without guidance, of guidance itself, or with a guide."""
    name, guide = guides.split(method)
    return name not in BUILT_IN and guide is None


def fidelity_scales(config: dict, model: str, method: str) -> list[str]:
    """Return the guidance scales that a method's fidelity is measured at, as its record spells them."""
    chosen = configuration.settings(config, model, "measure_fidelity")["guidance_scales"]
    if chosen != "auto":
        return [f"{w:g}" for w in written_values.guidance_scales(chosen)]
    source, trajectories = model, None
    if method in config["models"][model]["adapters"]:
        source, adapter = configuration.trained_as(config, model, method)
        trajectories = configuration.trajectories_of(config, source, adapter)
    highest = configuration.settings(config, source, "sample_trajectories", trajectories)["guidance_max"]
    return [f"{w:g}" for w in written_values.automatic_scales(highest)]


def definition(config: dict, study: str, name: str) -> dict:
    """Return a table's definition with its defaults filled in, and with what the stages need of the configuration.

    adapters: model -> method -> the adapter's folder, as MODEL/ADAPTER. guided: model -> method -> settings of its guidance, if
    it is a kind of cfg. styles: method -> its place in the study, which
    figures make a colour of. Raises UserError if the configuration has no such table.
    """
    tables = config.get("tables", {}).get(study, {})
    if name not in tables:
        raise UserError(f"tables.{study}.{name}: is not there; add it to the configuration")
    given = tables[name]
    items = [_filled(config, item) for item in given["runs"]]
    places = list(dict.fromkeys(m for table in tables.values() for item in table["runs"] for m in item["methods"]))
    adapters, guided = {}, {}
    for model, method in ((item["model"], method) for item in items for method in item["methods"]):
        plain = guides.split(method)[0]
        if plain in config["models"][model]["adapters"]:
            adapters.setdefault(model, {})[method] = "/".join(configuration.trained_as(config, model, plain))
        elif plain != "none":
            guided.setdefault(model, {})[method] = _guidance(config, model, method)
    styles = {method: places.index(method) for item in items for method in item["methods"]}
    return {**given, "runs": items, "adapters": adapters, "guided": guided, "styles": styles}


def _guidance(config: dict, model: str, method: str) -> dict:
    chosen = of_cfg("sample", configuration.settings(config, model, "sample", method))
    return {k: v for k, v in chosen.items() if v != "auto"}  # auto is recorded as what it stands for


def _filled(config: dict, item: dict) -> dict:
    chosen = configuration.settings(config, item["model"], "sample")
    defaults = {
        "steps": [chosen["num_inference_steps"]],
        "guidance_scales": [chosen["guidance_scale"]],
        "seeds": config["seeds"],
    }
    return defaults | item


def grid_definition(complete: dict) -> dict:
    """Return the part of a table's definition that its grid is made of: it shows the first seed of each run."""
    items = [{**item, "seeds": item["seeds"][:1]} for item in complete["runs"]]
    return {
        "runs": items,
        "adapters": complete["adapters"],
        **{name: complete[name] for name in ("grid",) if name in complete},
    }


def read_definition(text: str, *keys: str) -> dict:
    """Read a definition from a command line, with these keys. Raises UserError if it is something else."""
    try:
        complete = json.loads(text)
        whole = {"runs", "adapters", *keys} <= set(complete)
    except (ValueError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise UserError("--definition: not a complete definition of a table; give the one that the rule prints")
    return complete


def runs(complete: dict) -> list[Run]:
    """Return a table's runs, in order: every item is the product of its lists. `none` is at w = 1 alone."""
    return [
        Run(item["model"], method, scale_name(w), steps, tuple(item["seeds"]))
        for item in complete["runs"]
        for method in item["methods"]
        for w in ([1] if guides.split(method)[0] == "none" else item["guidance_scales"])
        for steps in item["steps"]
    ]


def measures(complete: dict) -> list[str]:
    """Return what is read of each run: the columns, and what the figure, the comparison and the bold figures need."""
    names = list(complete["columns"])
    figure, compare = complete.get("figure", {"x": "", "y": []}), complete.get("compare")
    names += [name for name in (figure["x"], *figure["y"]) if name in COLUMNS]
    names += [compare["measure"]] if compare else []
    # Scores are compared at equal evaluations.
    if "metrics" in {COLUMNS[name].source for name in names} or (compare and compare["at"] == "nfe"):
        names.append("nfe")
    return list(dict.fromkeys(names))


def axis_label(name: str) -> str:
    """Return the label of a figure's axis."""
    return AXES[name] if name in AXES else COLUMNS[name].heading


def path(complete: dict, run: Run, seed: int, source: str) -> str | None:
    """Return the path of a run's file below results/. None if the method has no such file."""
    model, method = run.model, run.method
    if source in ("adapter", "cost"):
        if method not in complete["adapters"].get(model, {}):
            return None
        model, method = complete["adapters"][model][method].split("/")
    if source == "fidelity" and not _is_measured(method):
        return None
    return f"{model}/seed{seed}/" + PATHS[source].format(method=method, scale=run.scale, steps=run.steps)


def scores(complete: dict) -> Iterator[str]:
    """Yield the path, below results/, of every score file that a table is made of; one may come twice."""
    sources = dict.fromkeys(COLUMNS[name].source for name in measures(complete))
    for run in runs(complete):
        for seed in run.seeds:
            yield from (found for source in sources if (found := path(complete, run, seed, source)))


def shown_samples(complete: dict) -> list[str]:
    """Return the path, below results/, of each run's first samples, for its first seed."""
    return [path(complete, run, run.seeds[0], "samples") for run in runs(complete)]
