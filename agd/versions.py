"""One integer per stage. Raising it reruns that stage and what follows (docs/artifacts.md, "What invalidates a result").

`python -m agd.fingerprints` keeps versions.lock in step."""

VERSIONS = {
    "prepare_digits": 1,
    "train_classifier": 1,
    "train_base": 1,
    "prepare_prompts": 1,
    "prepare_reference": 1,
    "sample_trajectories": 1,
    "train": 1,
    "sample": 1,
    "calculate_metrics": 1,
    "tabulate": 1,
}
