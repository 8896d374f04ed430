# The methods of guidance: what a method's jobs read, and their options. No rules.


def adapter_folder(wildcards):
    """Return the folder of a method's adapter, which another model may have trained."""
    model, adapter = configuration.trained_as(config, wildcards.model, wildcards.method)
    return f"results/{model}/seed{wildcards.seed}/adapters/{adapter}"


def adapter_files(wildcards):
    """Return the files of a method's adapter, or none if it has no adapter."""
    model, method = wildcards.model, wildcards.method
    if method in results.BUILT_IN or method in config["models"][model].get("methods", {}):
        return []
    if method not in adapters(model):
        stop(
            f"models.{model}.adapters: {method!r} is not there, nor in models.{model}.methods; add it, or use none or cfg"
        )
    return expand(f"{adapter_folder(wildcards)}/{{file}}", file=["adapter.safetensors", "config.json"])


def guidance(stage):
    """A param: options for a method's guidance. Settings that only `cfg` uses are given only to `cfg` and its kind."""

    def options(wildcards):
        if wildcards.method == "none" and stage == "measure_fidelity":
            stop("fidelity/none.json: without guidance all of it is unexplained; ask for another method")
        if wildcards.method == "none":
            return "--guidance none"
        if wildcards.method in adapters(wildcards.model):
            return f"--guidance adapter --dir {adapter_folder(wildcards)}"
        chosen = schema.result_settings(stage, settings(stage, wildcards))
        own = flags({name: chosen[name] for name in schema.cfg_settings(stage) if name in chosen})
        return f"--guidance cfg {own}"

    return options


def scales_to_measure(wildcards):
    """A param: the scales to measure fidelity at. No adapter says a range for other methods, so the trajectories do."""
    text = settings("measure_fidelity", wildcards)["guidance_scales"]
    if text == "auto" and wildcards.method not in adapters(wildcards.model):
        highest = configuration.settings(config, wildcards.model, "sample_trajectories")["guidance_max"]
        text = ",".join(map(results.scale_name, written_values.automatic_scales(highest)))
    return f"--guidance-scales {text}"


def sample_chunks(wildcards, suffix):
    folder = "results/{model}/seed{seed}/samples/{method}/w{scale}/n{steps}"
    return expand(f"{folder}/{{chunk}}{suffix}", **wildcards, chunk=chunks("sample", wildcards.model))


def samples(wildcards):
    return sample_chunks(wildcards, ".zip")


def costs(wildcards):
    return sample_chunks(wildcards, ".json")
