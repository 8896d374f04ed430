# Input functions of the main comparison, results/{model}/fid.json. No rules.


def compared(pattern, model, **more):
    """Return the paths of the compared methods."""
    steps = configuration.settings(config, model, "sample")["num_inference_steps"]
    return [
        path
        for method, scale in configuration.compared(config, model).items()
        for path in expand(pattern, model=model, method=method, scale=scale, steps=steps, **more)
    ]


@checked
def compared_metrics(wildcards):
    pattern = "results/{model}/seed{seed}/metrics/{method}/w{scale}/n{steps}.json"
    return compared(pattern, wildcards.model, seed=config["seeds"])


@checked
def compared_samples(wildcards):
    pattern = "results/{model}/seed{seed}/samples/{method}/w{scale}/n{steps}/000000.zip"
    return compared(pattern, wildcards.model, seed=config["seeds"][0])


def of_compared_adapter(file, model, seeds):
    """Return the paths of a file of the compared adapter, for some seeds."""
    pattern = "results/{model}/seed{seed}/adapters/{adapter}/{file}"
    return expand(pattern, model=model, seed=seeds, adapter=configuration.compared_adapter(config, model), file=file)


@checked
def training_tables(wildcards):
    return of_compared_adapter("training.csv", wildcards.model, config["seeds"])


@checked
def compared_adapter(wildcards):
    return of_compared_adapter("config.json", wildcards.model, config["seeds"][0])


def columns(wildcards, resources):
    return settings("sample", wildcards)["columns"]
