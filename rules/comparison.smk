# Input functions of a model's main comparison, fid.json, and of its curve. No rules.


def compared(pattern, model, runs, **more):
    """Return the paths of the compared runs."""
    return [
        path
        for run in runs(config, model)
        for path in expand(pattern, model=model, method=run.method, scale=run.scale, steps=run.steps, **more)
    ]


def compared_metrics(runs):
    """An input: the metrics of the compared runs, for all seeds."""

    @checked
    def files(wildcards):
        pattern = "results/{model}/seed{seed}/metrics/{method}/w{scale}/n{steps}.json"
        return compared(pattern, wildcards.model, runs, seed=config["seeds"])

    return files


@checked
def compared_sample_records(wildcards):
    pattern = "results/{model}/seed{seed}/samples/{method}/w{scale}/n{steps}/000000.json"
    return compared(pattern, wildcards.model, configuration.compared, seed=config["seeds"][0])


@checked
def rows_of_comparison(wildcards):
    """A param: the option with the rows' names, where there are more than the samples themselves can tell."""
    more = config["models"][wildcards.model].get("compared_methods")
    return f"--rows {' '.join(configuration.compared_rows(config, wildcards.model))}" if more else ""


@checked
def compared_fidelity(wildcards):
    adapter = configuration.compared_adapter(config, wildcards.model)
    pattern = "results/{model}/seed{seed}/fidelity/{method}.json"
    return expand(pattern, model=wildcards.model, seed=config["seeds"], method=adapter)


@checked
def compared_speed(wildcards):
    adapter = configuration.compared_adapter(config, wildcards.model)
    return f"results/{wildcards.model}/seed{config['seeds'][0]}/speed/{adapter}.json"


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
