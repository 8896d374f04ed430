# Names, constraints and params of the rules. Imports nothing heavy, because Snakemake reads this at every start.
import functools
import sys
from pathlib import Path

sys.path.insert(0, str(workflow.basedir))
from agd.runtime.errors import UserError
from agd.settings import configuration, families, guides, results, schema
from agd.settings import tables, validation, written_values, yaml_files
from agd.settings.command_line import flags
from agd.settings.versions import VERSIONS

for file in configuration.files():

    configfile: file


def stop(error):
    """End the run before any job, with one line that says what is wrong."""
    sys.exit(f"agd: error: {error}")


def checked(function):
    """Wrap an input function: a UserError ends the run with one line."""

    @functools.wraps(function)
    def call(*args, **named):
        try:
            return function(*args, **named)
        except UserError as error:
            stop(error)

    return call


for file in workflow.config_settings.configfiles:
    if str(file).endswith((".yaml", ".yml")):
        checked(yaml_files.read)(file)  # Snakemake has read it, but takes the last of two equal keys
for what, path in (("the checkout", workflow.basedir), ("Python", sys.executable)):
    if set("{}") & set(str(path)):
        stop(f"{path}: braces in the path of {what}, which Snakemake takes for names; move it")
config.update(validation.typed(config))
checked(configuration.check)(config)
checked(tables.check)(config)


wildcard_constraints:
    model="|".join(config["models"]),
    seed=r"\d+",
    source=r"[a-z0-9][a-z0-9-]*",
    chunk=r"\d+",
    adapter=r"[a-z0-9][a-z0-9-]*",
    method=r"[a-z0-9][a-z0-9-]*(\+[a-z0-9][a-z0-9-]*)?",
    scale=r"\d+(\.\d+)?",
    steps=r"\d+",
    study=r"[a-z0-9][a-z0-9-]*",
    table=r"(?!index\.)[a-z0-9][a-z0-9-]*(?<!-grid)",


def settings(stage, wildcards):
    """Return all settings of a stage for the model (and adapter, trajectories or method) of a job, or for no model."""
    model = wildcards.get("model")
    names = {"adapters": "adapter", "trajectories": "source", "methods": "method"}
    key = configuration.VARIANTS.get(stage)
    variant = guides.split(wildcards.get(names[key]))[0] if key else None
    always = {"adapters": (), "trajectories": (results.GUIDED,), "methods": (*results.BUILT_IN, *adapters(model))}
    if variant and variant not in {**config["models"][model].get(key, {}), **dict.fromkeys(always[key])}:
        stop(f"models.{model}.{key}: {variant!r} is not there; add it")
    return configuration.settings(config, model, stage, variant)


def zips_of(records):
    """Return the large files that these records tell of. Jobs depend on records: Snakemake reads every input of a job whole."""
    return [f"{record.removesuffix('.json')}.zip" for record in records]


def adapters(model):
    return config["models"][model]["adapters"] if model else ()


def result_settings(stage, without=(), **own):
    """A param: options with the result settings of a stage. own: setting=wildcard, for values from the path."""

    def options(wildcards):
        chosen = schema.result_settings(stage, settings(stage, wildcards))
        chosen |= {name: wildcards[wildcard] for name, wildcard in own.items()}
        return flags({name: value for name, value in chosen.items() if name not in without})

    return options


def execution_settings(stage):
    """A param: options with the execution settings of a stage.

    It is a function of `resources`: Snakemake ignores such params when it decides whether to run a job again.
    """

    def options(wildcards, resources):
        return flags(schema.execution_settings(stage, settings(stage, wildcards)))

    return options


def stage_module(stage):
    """A param: the module that runs a stage for the family of the job's model."""

    def name(wildcards):
        return f"{families.PACKAGES[config['models'][wildcards.model]['family']]}.{stage}"

    return name


def chunks(stage, model, variant=None):
    """Return the names of a stage's chunks: the index of their first trajectory or image."""
    return results.chunk_names(stage, configuration.settings(config, model, stage, variant))


def chunk(stage):
    """A param: options for the trajectories or images that a job makes."""

    def options(wildcards):
        return results.chunk_options(stage, settings(stage, wildcards), wildcards.chunk)

    return options
