# Base models: trained here, in a folder of the user's, or on the hub. No rules.
from itertools import filterfalse

from agd.artifacts import user_files
from agd.artifacts.sealed_json import read_json
from agd.diffusion import base_models
from agd.digits.files import BASE_FILES

TRAINED_MODELS = [name for name, section in config["models"].items() if "train_base" in section]


def architecture(model):
    return configuration.settings(config, model, "train_base")["architecture"]


def trained(wanted):
    """A wildcard constraint: models of an architecture that are trained here. If none, a pattern that never matches."""
    return "|".join(name for name in TRAINED_MODELS if architecture(name) == wanted) or "(?!)"


@checked
def continued_base(wildcards):
    """Return the files of the base that a base's training starts from, if it does."""
    folder = configuration.settings(config, wildcards.model, "train_base")["continues"]
    files = expand(f"{folder}/{{file}}", file=BASE_FILES[architecture(wildcards.model)]) if folder else []
    made = [results.TRAINED_BASE.format(model=model) for model in TRAINED_MODELS if model != wildcards.model]
    missing = [file for file in files if folder not in made and not Path(file).is_file()]
    if missing:
        stop(f"models.{wildcards.model}.train_base.continues: {missing[0]} is not there; give a base trained here")
    return files


def base(wildcards):
    return config["models"][wildcards.model]["base_model"]


def trained_here(model):
    return config["models"][model]["base_model"] == results.TRAINED_BASE.format(model=model) and model in TRAINED_MODELS


def on_the_hub(model):
    return not trained_here(model) and not Path(config["models"][model]["base_model"]).exists()


@checked
def base_files(wildcards):
    """Return the files of a base model that is trained here. Of others, the record: theirs are gigabytes, which Snakemake would
    read for every job."""
    model, name = wildcards.model, base(wildcards)
    if trained_here(model):
        return expand("{folder}/{file}", folder=name, file=BASE_FILES[architecture(model)])
    check_base(model)
    return results.BASE_RECORD.format(model=model)


def check_base(model):
    """Raise UserError if a base is neither here, nor on the hub, nor recorded: then it was, and planning needs no internet."""
    name, record = config["models"][model]["base_model"], Path(results.BASE_RECORD.format(model=model))
    if not (on_the_hub(model) and record.is_file() and read_json(record).get("name") == name):
        base_models.locate(name, f"models.{model}.base_model", download=False, pickled=True)


@checked
def local_base_files(wildcards):
    """Return the files of a base model in a user's folder. One on the hub has none here."""
    check_base(wildcards.model)
    if on_the_hub(wildcards.model):
        return []
    key = f"models.{wildcards.model}.base_model"
    return user_files.check_dates(key, base_models.files(Path(base(wildcards))))


def offline(wildcards, resources):
    """A param: what keeps a job from connecting, if its base was fetched. Like `execution_settings`."""
    return "HF_HUB_OFFLINE=1 " if on_the_hub(wildcards.model) else ""


def base_record(wildcards, resources):
    """A param: the option with the record of a base on the hub, whose revision is opened. Like `execution_settings`."""
    return f"--base-record {results.BASE_RECORD.format(model=wildcards.model)}" if on_the_hub(wildcards.model) else ""
