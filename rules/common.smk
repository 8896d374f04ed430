# Names, constraints and params of the rules. Imports nothing heavy, because Snakemake reads this at every start.
import functools
import sys
from pathlib import Path

sys.path.insert(0, str(workflow.basedir))
from agd.runtime.errors import UserError
from agd.settings import configuration, families, results, schema
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


for what, path in (("the checkout", workflow.basedir), ("Python", sys.executable)):
    if set("{}") & set(str(path)):
        stop(f"{path}: braces in the path of {what}, which Snakemake takes for names; move it")
config.update(configuration.typed(config))
checked(configuration.check)(config)


wildcard_constraints:
    model="|".join(config["models"]),
    seed=r"\d+",
    source=results.GUIDED,
    chunk=r"\d+",
    adapter=r"[a-z0-9][a-z0-9-]*",
    method=r"[a-z0-9][a-z0-9-]*",
    scale=r"\d+(\.\d+)?",
    steps=r"\d+",


def settings(stage, wildcards):
    """Return all settings of a stage for the model (and adapter) of a job, or for no model."""
    model, adapter = wildcards.get("model"), wildcards.get("adapter")
    if adapter and adapter not in config["models"][model]["adapters"]:
        stop(f"models.{model}.adapters: {adapter!r} is not there; add it")
    return configuration.settings(config, model, stage, adapter)


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


def chunks(stage, model):
    """Return the names of a stage's chunks: the index of their first trajectory or image."""
    return results.chunk_names(stage, configuration.settings(config, model, stage))


def chunk(stage):
    """A param: options for the trajectories or images that a job makes."""

    def options(wildcards):
        return results.chunk_options(stage, settings(stage, wildcards), wildcards.chunk)

    return options
