# Input functions: which files a job reads, and the checks that need a job to be wanted. No rules.
TRAINED_BASE = "results/{model}/base"
TRAINED_MODELS = [name for name, section in config["models"].items() if "train_base" in section]
_EVERY_BASE = ["model_index.json", "provenance.json", "scheduler/scheduler_config.json"]
_WITH_WEIGHTS = ["config.json", "diffusion_pytorch_model.safetensors"]
_TOKENIZER = ["tokenizer.json", "tokenizer_config.json"]
_TEXT_ENCODER = ["config.json", "model.safetensors"]
_ONE_TEXT = expand("tokenizer/{f}", f=_TOKENIZER) + expand("text_encoder/{f}", f=_TEXT_ENCODER)
_TWO_TEXTS = _ONE_TEXT + expand("tokenizer_2/{f}", f=_TOKENIZER) + expand("text_encoder_2/{f}", f=_TEXT_ENCODER)
BASE_FILES = {
    "dit": _EVERY_BASE + expand("{part}/{f}", part=["transformer", "vae"], f=_WITH_WEIGHTS),
    "sd": _EVERY_BASE + expand("{part}/{f}", part=["unet", "vae"], f=_WITH_WEIGHTS) + _ONE_TEXT,
    "sdxl": _EVERY_BASE + expand("{part}/{f}", part=["unet", "vae"], f=_WITH_WEIGHTS) + _TWO_TEXTS,
}
MADE_HERE = expand("results/digits/{f}", f=["images.zip", "annotations.zip", "classifier.safetensors"])
ADDRESSES = {downloads.file_name(url): url for url in downloads.KNOWN}


def architecture(model):
    return settings_of.settings(config, model, "train_base")["architecture"]


def trained(wanted):
    """A wildcard constraint: the models of an architecture that are trained here, or what no name matches."""
    return "|".join(name for name in TRAINED_MODELS if architecture(name) == wanted) or "(?!)"


def base(wildcards):
    return config["models"][wildcards.model]["base_model"]


def base_files(wildcards):
    """The files of a base model: trained here, or a folder of the user's; none for one on the hub."""
    key, name = f"models.{wildcards.model}.base_model", base(wildcards)
    if name == TRAINED_BASE.format(model=wildcards.model) and wildcards.model in TRAINED_MODELS:
        return expand("{folder}/{file}", folder=name, file=BASE_FILES[architecture(wildcards.model)])
    try:
        folder = base_model.locate(name, key, download=False)
    except UserError as error:
        stop(error)
    return dated(key, base_model.files(folder)) if Path(name).is_dir() else []


def local(path):
    """Where a file is, or will be: the rule `download` fetches the known addresses."""
    return f"results/downloads/{downloads.file_name(path)}" if path in downloads.KNOWN else path


def address(wildcards):
    return ADDRESSES[wildcards.file]


def given(key, path, give):
    """What the user set `key` to, as a path; ends with one line if there is no such file and none can be had."""
    if path is None:
        stop(f"{key}: not set; give {give}")
    if path in downloads.KNOWN and not Path(local(path)).exists():
        try:
            downloads.reachable(path, key)
        except UserError as error:
            stop(error)
    if path not in [*downloads.KNOWN, *MADE_HERE] and not Path(path).exists():
        stop(f"{key}: {path} is not there; give {give}")
    if Path(path).is_file() and path not in MADE_HERE:
        dated(key, [path])
    return local(path)


def captions(wildcards):
    return local(config["models"][wildcards.model].get("captions"))


def captions_file(wildcards):
    """The captions: a zip, or the files in a folder that are read."""
    give = "COCO's annotations_trainval2017.zip, or a folder of its captions_train2017.json and captions_val2017.json"
    path = given(f"models.{wildcards.model}.captions", config["models"][wildcards.model].get("captions"), give)
    return sorted(map(str, Path(path).rglob("captions_*2017.json"))) if Path(path).is_dir() else path


def reference(wildcards):
    return local(config["models"][wildcards.model]["reference"])


def reference_file(wildcards):
    """The reference, if it is one file; a folder's images are too many to be watched one by one."""
    give = "a folder or .zip of real images, or an .npz of statistics"
    path = given(f"models.{wildcards.model}.reference", config["models"][wildcards.model]["reference"], give)
    return [] if Path(path).is_dir() else path


def clip_files(wildcards):
    """The files of the CLIP model that scores samples, if one is set."""
    key = f"models.{wildcards.model}.calculate_metrics.clip_model"
    folder = settings("calculate_metrics", wildcards).get("clip_model")
    if folder and not Path(folder).is_dir():
        stop(f"{key}: {folder} is not a folder; check the path")
    return dated(key, base_model.files(Path(folder))) if folder else []


def features_weights(wildcards):
    """The feature extractor's weights, if they are a file and not to be downloaded."""
    key = f"models.{wildcards.model}.prepare_reference.features_weights"
    path = settings("prepare_reference", wildcards)["features_weights"]
    if not path or path in MADE_HERE:
        return path or []
    if not Path(path).is_file():
        stop(f"{key}: {path} is not there; check the path")
    return dated(key, [path])


def prompts(kind):
    """An input: the prompts of a text-to-image model, `trajectories` or `samples`; none for the others."""

    def file(wildcards):
        wanted = "captions" in config["models"][wildcards.model]
        return f"results/{wildcards.model}/prompts/{kind}.txt" if wanted else []

    return file


def prompt_option(wildcards, input):
    """A param: how a stage is told of its prompts, if it has any."""
    return f"--prompt-file {input.prompts}" if input.prompts else ""


def shards(wildcards):
    folder = "results/{model}/seed{seed}/trajectories/guided"
    return expand(f"{folder}/{{chunk}}.zarr.zip", **wildcards, chunk=chunks("sample_trajectories", wildcards.model))


def adapter_files(wildcards):
    """The adapter that a method samples with; none for `none` and `cfg`."""
    if wildcards.method in ("none", "cfg"):
        return []
    if wildcards.method not in config["models"][wildcards.model]["adapters"]:
        stop(f"models.{wildcards.model}.adapters: {wildcards.method!r} is not there; add it, or use none or cfg")
    folder = "results/{model}/seed{seed}/adapters/{method}"
    return expand(f"{folder}/{{file}}", **wildcards, file=["adapter.safetensors", "config.json"])


CFG_ALONE = ["guided_channels", "unconditional"]


def guidance(wildcards):
    """A param: how a method guides; which channels are guided, and away from what, matters to `cfg` alone."""
    if wildcards.method == "none":
        return "--guidance none"
    if wildcards.method == "cfg":
        chosen = settings_of.what("sample", settings("sample", wildcards))
        own = flags({name: chosen[name] for name in CFG_ALONE if name in chosen})
        return f"--guidance cfg {own}"
    return "--guidance adapter --dir results/{model}/seed{seed}/adapters/{method}".format(**wildcards)


def sample_chunks(wildcards, suffix):
    folder = "results/{model}/seed{seed}/samples/{method}/w{scale}/n{steps}"
    return expand(f"{folder}/{{chunk}}{suffix}", **wildcards, chunk=chunks("sample", wildcards.model))


def samples(wildcards):
    return sample_chunks(wildcards, ".zip")


def costs(wildcards):
    return sample_chunks(wildcards, ".json")


def compared(pattern, model, **more):
    """Paths of the three methods of the main comparison."""
    chosen = settings_of.settings(config, model, "sample")
    scales = {"none": "1", "cfg": f"{chosen['guidance_scale']:g}", "agd": f"{chosen['guidance_scale']:g}"}
    steps = chosen["num_inference_steps"]
    return [
        path
        for method, scale in scales.items()
        for path in expand(pattern, model=model, method=method, scale=scale, steps=steps, **more)
    ]


def compared_metrics(wildcards):
    pattern = "results/{model}/seed{seed}/metrics/{method}/w{scale}/n{steps}.json"
    return compared(pattern, wildcards.model, seed=config["seeds"])


def compared_samples(wildcards):
    pattern = "results/{model}/seed{seed}/samples/{method}/w{scale}/n{steps}/000000.zip"
    return compared(pattern, wildcards.model, seed=config["seeds"][0])


def training_tables(wildcards):
    return expand("results/{model}/seed{seed}/adapters/agd/training.csv", model=wildcards.model, seed=config["seeds"])


def compared_adapter(wildcards):
    return "results/{model}/seed{seed}/adapters/agd/config.json".format(model=wildcards.model, seed=config["seeds"][0])


def columns(wildcards, resources):
    return settings("sample", wildcards)["columns"]
