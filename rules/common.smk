# Names, constraints and helpers of the rules. No rules, nothing heavy: this is read at every start.
import sys
from pathlib import Path

sys.path.insert(0, str(workflow.basedir))
from agd import base_model, config as settings_of, downloads
from agd.cli import flags
from agd.errors import UserError
from agd.versions import VERSIONS

for file in settings_of.files():

    configfile: file


def stop(error):
    """End, before any job, with the one line that says what is wrong."""
    sys.exit(f"agd: error: {error}")


config.update(settings_of.typed(config))
try:
    settings_of.check(config)
except UserError as error:
    stop(error)


wildcard_constraints:
    model="|".join(config["models"]),
    seed=r"\d+",
    source="guided",
    chunk=r"\d+",
    adapter=r"[a-z0-9][a-z0-9-]*",
    method=r"[a-z0-9][a-z0-9-]*",
    scale=r"\d+(\.\d+)?",
    steps=r"\d+",


def settings(stage, wildcards):
    """All settings of a stage for the model (and adapter) of a job, or for no model."""
    model, adapter = wildcards.get("model"), wildcards.get("adapter")
    if adapter and adapter not in config["models"][model]["adapters"]:
        stop(f"models.{model}.adapters: {adapter!r} is not there; add it")
    return settings_of.settings(config, model, stage, adapter)


def what(stage, without=(), **own):
    """A param: the options that a stage's result depends on; `own` (setting=wildcard) come from the path instead."""

    def options(wildcards):
        chosen = settings_of.what(stage, settings(stage, wildcards))
        chosen |= {name: wildcards[wildcard] for name, wildcard in own.items()}
        return flags({name: value for name, value in chosen.items() if name not in without})

    return options


def how(stage):
    """A param: the options that say only how the work is done. A function of `resources`, because Snakemake leaves such
    params out when it asks whether a job must be run again."""

    def options(wildcards, resources):
        return flags(settings_of.how(stage, settings(stage, wildcards)))

    return options


def door(stage):
    """A param: the module that runs a stage for the family of the job's model."""

    def module(wildcards):
        return f"agd.{config['models'][wildcards.model]['family']}.{stage}"

    return module


def chunks(stage, model):
    """Names of a stage's chunks: the index of their first trajectory or image."""
    chosen = settings_of.settings(config, model, stage)
    return [f"{first:06d}" for first in range(0, settings_of.total(stage, chosen), chosen["chunk_size"])]


def chunk(stage):
    """A param: which trajectories or images a job makes."""

    def options(wildcards):
        chosen = settings(stage, wildcards)
        first = int(wildcards.chunk)
        return f"--first {first} --count {min(chosen['chunk_size'], settings_of.total(stage, chosen) - first)}"

    return options
