"""The version of each stage, an integer. A raised version reruns the stage and all later ones.

See "What invalidates a result" in docs/artifacts.md. `python -m agd.settings.fingerprints` updates versions.lock.
"""

VERSIONS = {
    "prepare_base": 1,
    "prepare_digits": 1,
    "train_classifier": 1,
    "train_base": 1,
    "prepare_prompts": 1,
    "prepare_reference": 1,
    "sample_trajectories": 1,
    "train": 2,
    "sample": 2,
    "measure_fidelity": 3,
    "measure_speed": 1,
    "calculate_metrics": 2,
    "tabulate": 4,
    "draw_curve": 1,
    "tabulate_runs": 3,
    "draw_runs": 1,
    "draw_grid": 1,
    "index_tables": 2,
}
