# Input functions and params of a study's tables. No rules.
import json


@checked
def complete(wildcards):
    """Return a table's definition with its defaults filled in."""
    return tables.definition(config, wildcards.study, wildcards.table)


def definition(wildcards):
    """A param: a table's definition as JSON."""
    return json.dumps(complete(wildcards), sort_keys=True)


def grid_definition(wildcards):
    """A param: as JSON, the part of a table's definition that its grid is made of."""
    return json.dumps(tables.grid_definition(complete(wildcards)), sort_keys=True)


def table_scores(wildcards):
    return list(dict.fromkeys(f"results/{path}" for path in tables.scores(complete(wildcards))))


@checked
def values_from_elsewhere(wildcards):
    """Return the user's file of values from elsewhere, if the table has one."""
    path = complete(wildcards).get("elsewhere")
    key = f"tables.{wildcards.study}.{wildcards.table}.elsewhere"
    return user_files.given(key, path, "a CSV file of values from elsewhere") if path else []


def shown_sample_records(wildcards):
    return [f"results/{path.removesuffix('.zip')}.json" for path in tables.shown_samples(complete(wildcards))]


def tables_of(wildcards, section, suffixes):
    """Return files of a study's tables, in order. section: leave out the tables without it."""
    chosen = config.get("tables", {}).get(wildcards.study)
    if chosen is None:
        stop(f"tables.{wildcards.study}: is not there; add it to the configuration")
    names = [name for name, given in chosen.items() if section is None or section in given]
    return expand("results/tables/{study}/{table}{suffix}", study=wildcards.study, table=names, suffix=suffixes)


def records(wildcards):
    return tables_of(wildcards, None, ".json")


def figures(wildcards):
    return tables_of(wildcards, "figure", [".svg", ".png"])


def grids(wildcards):
    return tables_of(wildcards, "grid", "-grid.png")
