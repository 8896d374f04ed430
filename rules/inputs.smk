# Input functions: which files a job reads. No rules.
import shlex

from agd.artifacts import downloads, user_files
from agd.digits.files import DATA_FILES

ADDRESSES = {downloads.file_name(url): url for url in downloads.KNOWN}


def address(wildcards):
    return ADDRESSES[wildcards.file]


def captions(wildcards):
    return user_files.local(config["models"][wildcards.model].get("captions"))


@checked
def captions_file(wildcards):
    """Return the captions: a zip, or the caption files in a folder."""
    give = "COCO's annotations_trainval2017.zip, or a folder of its captions_train2017.json and captions_val2017.json"
    key, path = f"models.{wildcards.model}.captions", config["models"][wildcards.model].get("captions")
    path = user_files.given(key, path, give, DATA_FILES)
    return sorted(map(str, Path(path).rglob("captions_*2017.json"))) if Path(path).is_dir() else path


def reference(wildcards):
    return user_files.local(config["models"][wildcards.model]["reference"])


@checked
def reference_file(wildcards):
    """Return the reference if it is one file. A folder gives no inputs: Snakemake can't track so many images."""
    give = "a folder or .zip of real images, or an .npz of statistics"
    key, path = f"models.{wildcards.model}.reference", config["models"][wildcards.model]["reference"]
    path = user_files.given(key, path, give, DATA_FILES)
    return [] if Path(path).is_dir() else path


def noises_images(wildcards):
    """Return whether trajectories begin with real images. Models of prompts noise samples: no image is at hand for each."""
    return (
        settings("sample_trajectories", wildcards)["source"] == "diffusion"
        and "captions" not in config["models"][wildcards.model]
    )


def images_to_noise(wildcards):
    if not noises_images(wildcards):
        return []
    if str(reference(wildcards)).endswith(".npz"):
        stop(
            f"models.{wildcards.model}.reference: statistics hold no images to add noise to (source: diffusion); give images"
        )
    return reference_file(wildcards)


def images_option(wildcards):
    """A param: the option with the real images, if trajectories begin with some."""
    return f"--images {shlex.quote(reference(wildcards))}" if noises_images(wildcards) else ""


@checked
def clip_files(wildcards):
    """Return the files of the CLIP model for the CLIP score, if one is set."""
    key = f"models.{wildcards.model}.calculate_metrics.clip_model"
    folder = settings("calculate_metrics", wildcards).get("clip_model")
    if folder and not Path(folder).is_dir():
        stop(f"{key}: {folder} is not a folder; check the path")
    return user_files.check_dates(key, base_models.files(Path(folder))) if folder else []


@checked
def features_weights(wildcards):
    """Return the feature extractor's weights, if they are a file and not a download."""
    key = f"models.{wildcards.model}.prepare_reference.features_weights"
    path = settings("prepare_reference", wildcards)["features_weights"]
    if not path or path in DATA_FILES:
        return path or []
    if not Path(path).is_file():
        stop(f"{key}: {path} is not there; check the path")
    return user_files.check_dates(key, [path])


def prompts(kind):
    """An input: prompts of a text-to-image model. kind: `trajectories` or `samples`. Other models have none."""

    def file(wildcards):
        wanted = "captions" in config["models"][wildcards.model]
        return f"results/{wildcards.model}/prompts/{kind}.txt" if wanted else []

    return file


def prompt_option(wildcards, input):
    """A param: the option with the prompt file, if the stage has prompts."""
    return f"--prompt-file {input.prompts}" if input.prompts else ""


@checked
def shard_records(wildcards):
    model, adapter = wildcards.model, wildcards.adapter
    if adapter not in adapters(model) or "trained_as" in adapters(model)[adapter]:
        stop(f"models.{model}.adapters: {adapter!r} is not there to be trained; add it")
    source = configuration.trajectories_of(config, model, adapter)
    pattern = "results/{model}/seed{seed}/trajectories/{source}/{chunk}.zarr.json"
    names = chunks("sample_trajectories", model, source)
    return expand(pattern, model=model, seed=wildcards.seed, source=source, chunk=names)


def shards(wildcards, input):
    """A param: the shards that a training reads."""
    return zips_of(input.shards)
