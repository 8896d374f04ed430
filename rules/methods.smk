# The methods of guidance: what a method's jobs read, and their options. No rules.
import json
import shlex


def method(wildcards):
    """Return a job's method without its guide."""
    return guides.split(wildcards.method)[0]


def adapter_folder(wildcards, name=None):
    """Return the folder of a method's adapter, which another model may have trained. name: of another method."""
    model, adapter = configuration.trained_as(config, wildcards.model, name or method(wildcards))
    return f"results/{model}/seed{wildcards.seed}/adapters/{adapter}"


def adapter_record(wildcards):
    """Return the record of a method's adapter, which has the checksum of its weights. None if it has no adapter."""
    model, name = wildcards.model, method(wildcards)
    if name in results.BUILT_IN or name in config["models"][model].get("methods", {}):
        return []
    if name not in adapters(model):
        stop(
            f"models.{model}.adapters: {name!r} is not there, nor in models.{model}.methods; add it, or use none or cfg"
        )
    return f"{adapter_folder(wildcards)}/config.json"


def timed_adapter(wildcards):
    """Return the record of the adapter that is timed beside cfg and no guidance."""
    if wildcards.method not in adapters(wildcards.model):
        stop(f"speed/{wildcards.method}.json: speed is measured of adapters; ask for speed/agd.json")
    return adapter_record(wildcards)


def other_timed(wildcards):
    """Return what else is timed with an adapter: each other compared method's settings of cfg, or its adapter's folder."""
    found = {}
    for name in config["models"][wildcards.model].get("compared_methods", []):
        if name in adapters(wildcards.model):
            found[name] = adapter_folder(wildcards, name)
        else:
            chosen = configuration.settings(config, wildcards.model, "sample", name)
            found[name] = schema.of_cfg("measure_speed", chosen)
    found.pop(wildcards.method, None)
    return found


@checked
def other_timed_adapters(wildcards):
    return [f"{folder}/config.json" for folder in other_timed(wildcards).values() if isinstance(folder, str)]


@checked
def other_methods(wildcards):
    """A param: the option with the other methods to time."""
    found = other_timed(wildcards)
    return f"--methods {shlex.quote(json.dumps(found))}" if found else ""


@checked
def guide_files(wildcards):
    """Return the files of the guide that a method's images follow, if they follow one."""
    given, files = guides.of(config, wildcards.model, wildcards.method), []
    if given:
        from agd.diffusion import guide_files as checked_files  # takes time, and few studies have guides

        key = functools.partial(guides.key, wildcards.model, guides.split(wildcards.method)[1])
        checked_files.check(given, key)
        for name, path in given.items():
            files += user_files.check_dates(key(name), base_models.files(Path(path)) if Path(path).is_dir() else [path])
    return files


def guidance(stage):
    """A param: options for a method's guidance. Settings that only `cfg` uses are given only to `cfg` and its kind."""

    def options(wildcards):
        if stage == "measure_fidelity" and guides.split(wildcards.method)[1]:
            stop(
                f"fidelity/{wildcards.method}.json: fidelity is measured without guides; ask for fidelity/{method(wildcards)}.json"
            )
        if method(wildcards) == "none" and stage == "measure_fidelity":
            stop("fidelity/none.json: without guidance all of it is unexplained; ask for another method")
        followed, guide = guides.of(config, wildcards.model, wildcards.method), guides.split(wildcards.method)[1]
        followed = flags({**followed, "guide": guide}) if guide else ""
        return f"{way(wildcards)} {followed}" if followed else way(wildcards)

    def way(wildcards):
        if method(wildcards) == "none":
            return "--guidance none"
        if method(wildcards) in adapters(wildcards.model):
            return f"--guidance adapter --dir {adapter_folder(wildcards)}"
        chosen = schema.result_settings(stage, settings(stage, wildcards))
        return f"--guidance cfg {flags(schema.of_cfg(stage, chosen))}"

    return options


def scales_to_measure(wildcards):
    """A param: the scales to measure fidelity at. No adapter says a range for other methods, so the trajectories do."""
    text = settings("measure_fidelity", wildcards)["guidance_scales"]
    if text == "auto" and method(wildcards) not in adapters(wildcards.model):
        highest = configuration.settings(config, wildcards.model, "sample_trajectories")["guidance_max"]
        text = ",".join(map(results.scale_name, written_values.automatic_scales(highest)))
    return f"--guidance-scales {text}"


def sample_records(wildcards):
    """Return the records of all samples of a run: what they cost, and their checksums."""
    pattern = "results/{model}/seed{seed}/samples/{method}/w{scale}/n{steps}/{chunk}.json"
    return expand(pattern, **wildcards, chunk=chunks("sample", wildcards.model))


def samples(wildcards, input):
    """A param: the samples that a job reads."""
    return zips_of(input.samples)
