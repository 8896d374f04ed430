"""The registry of stages: the module of each, and its file arguments.

Files are set on the command line, never in the configuration. Further arguments of one family only are in
`agd/{family}/options.py`.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Argument:
    """A command-line option that names a file, a folder or a part of the work.

    options: arguments of argparse's `add_argument`. subjects: `classes` or `prompts`, if the option is only for such
    families.
    """

    flag: str
    options: dict
    subjects: str | None = None


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage.

    module: has `run(files, settings)` and `Settings`. by_family: each family has a command line of the stage.
    needs_model: `run` also takes the family's model class.
    """

    module: str
    arguments: tuple[Argument, ...]
    by_family: bool = False
    needs_model: bool = False


_SEED = Argument("--seed", dict(type=int, default=0, help="seed of the study (default: 0)"))
_FIRST = Argument("--first", dict(type=int, default=0, help="index of the first one to make (default: 0)"))
_COUNT = Argument("--count", dict(type=int, help="how many to make, in one file (default: all, in files of --chunk-size)"))  # fmt: skip
_BASE = Argument("--base-model", dict(help="folder that diffusers opens, or hub id"))
_RECORD = Argument(
    "--base-record", dict(metavar="JSON", help="what prepare_base wrote of the base: take the revision that it says")
)
_PROMPT = Argument("--prompt", dict(nargs="+", metavar="PROMPT", help="what to depict, in turn"), "prompts")
_PROMPT_FILE = Argument(
    "--prompt-file", dict(metavar="F", help="text file with one prompt per line, in turn (UTF-8)"), "prompts"
)
_TABLE = Argument("--table", dict(required=True, help="the table's name"))
_DEFINITION = Argument(
    "--definition", dict(required=True, metavar="JSON", help="the table's definition, as its rule prints it")
)
_RESULTS = Argument("--results", dict(default="results", metavar="D", help="folder of all results (default: results)"))
_TABLES = Argument("--output-dir", dict(required=True, metavar="D", help="folder of the study's tables"))

STAGES = {
    "download": Stage("agd.download", (
        Argument("--url", dict(required=True, metavar="URL", help="one of the files that agd/artifacts/downloads.py lists")),
        Argument("--output", dict(required=True, metavar="FILE", help="file to write")),
    )),
    "prepare_base": Stage("agd.prepare_base", (
        Argument("--base-model", dict(required=True, metavar="M", help="folder that diffusers opens, or hub id with or without @revision")),
        Argument("--output", dict(required=True, metavar="JSON", help="file to write: its name, revision and checksums")),
    )),
    "prepare_digits": Stage("agd.digits.prepare_digits", (
        Argument("--output", dict(required=True, metavar="ZIP", help="zip of PNG images to write")),
        Argument("--annotations", dict(required=True, metavar="ZIP", help="zip of captions to write, as COCO lays them out")),
        Argument("--slanted", dict(action="store_true", help="lean all digits to the right")),
    )),
    "train_classifier": Stage("agd.digits.train_classifier", (
        Argument("--output", dict(required=True, metavar="SAFETENSORS", help="file to write; its accuracy goes beside it")),
    )),
    "train_base": Stage("agd.digits.train_base", (
        Argument("--output-dir", dict(required=True, metavar="BASE", help="folder to write, which diffusers opens")),
    )),
    "prepare_prompts": Stage("agd.prepare_prompts", (
        Argument("--captions", dict(required=True, help="COCO's annotations_trainval2017.zip, or a folder of its captions_*2017.json")),
        Argument("--output-dir", dict(required=True, metavar="D", help="folder for trajectories.txt and samples.txt")),
    )),
    "prepare_reference": Stage("agd.prepare_reference", (
        Argument("--reference", dict(required=True, help="folder or .zip of images, or .npz of statistics")),
        Argument("--output", dict(required=True, metavar="NPZ", help="file to write")),
    )),
    "sample_trajectories": Stage("agd.sample_trajectories", (
        Argument("--output-dir", dict(required=True, metavar="T", help="folder for the shards, {first}.zarr.zip")),
        _BASE,
        _RECORD,
        _SEED,
        _FIRST,
        _COUNT,
        _PROMPT_FILE,
        Argument("--images", dict(metavar="I", help="real images for `diffusion`: folder or .zip (default: unguided samples)"), "classes"),
    ), by_family=True, needs_model=True),
    "train": Stage("agd.train", (
        Argument("--dir", dict(required=True, metavar="R", help="folder for the adapter")),
        Argument("--data-path", dict(required=True, nargs="+", metavar="T", help="folder of shards, or shards")),
        Argument("--base-model", dict(help="folder or hub id (default: the one that the trajectories were sampled from)")),
        _RECORD,
        _SEED,
    ), by_family=True, needs_model=True),
    "sample": Stage("agd.sample", (
        Argument("--dir", dict(metavar="R", help="folder of a trained adapter (for --guidance adapter)")),
        Argument("--guidance", dict(choices=["adapter", "cfg", "none"], default="adapter", help="how to guide (default: adapter)")),
        Argument("--output-dir", dict(metavar="S", help="folder for the images (default: R/samples)")),
        Argument("--base-model", dict(help="folder or hub id (default: the one that the adapter was trained on)")),
        _RECORD,
        _SEED,
        _FIRST,
        _COUNT,
        _PROMPT,
        _PROMPT_FILE,
    ), by_family=True, needs_model=True),
    "measure_fidelity": Stage("agd.measure_fidelity", (
        Argument("--dir", dict(metavar="R", help="folder of a trained adapter")),
        Argument("--guidance", dict(choices=["adapter", "cfg"], default="adapter", help="what to measure (default: adapter)")),
        Argument("--output", dict(metavar="JSON", help="file to write (default: R/fidelity.json)")),
        Argument("--base-model", dict(help="folder or hub id (default: the one that the adapter was trained on)")),
        _RECORD,
        _SEED,
        _PROMPT_FILE,
    ), by_family=True, needs_model=True),
    "measure_speed": Stage("agd.measure_speed", (
        Argument("--dir", dict(metavar="R", help="folder of a trained adapter")),
        Argument("--output", dict(metavar="JSON", help="file to write (default: R/speed.json)")),
        Argument("--base-model", dict(help="folder or hub id (default: the one that the adapter was trained on)")),
        _RECORD,
        _SEED,
        _PROMPT_FILE,
        Argument("--methods", dict(metavar="JSON", help='others to time: {"name": "folder of an adapter", "name": {settings of cfg}}')),
    ), by_family=True, needs_model=True),
    "calculate_metrics": Stage("agd.calculate_metrics", (
        Argument("--dir", dict(metavar="R", help="folder of an adapter whose samples are in R/samples")),
        Argument("--samples", dict(nargs="+", metavar="ZIP", help="sample files (default: all in R/samples)")),
        Argument("--ref", dict(required=True, help="reference: folder or .zip of images, or .npz of statistics or features")),
        Argument("--output", dict(metavar="JSON", help="file to write (default: R/metrics.json)")),
    ), by_family=True),
    "tabulate": Stage("agd.tabulate", (
        Argument("--name", dict(required=True, help="the model's name")),
        Argument("--metrics", dict(nargs="+", required=True, metavar="JSON", help="metrics of every method and seed to compare")),
        Argument("--samples", dict(nargs="+", required=True, metavar="ZIP", help="sample files to show, a row each")),
        Argument("--rows", dict(nargs="+", default=[], metavar="NAME", help="names of the rows, in order (default: as the samples say)")),
        Argument("--fidelity", dict(nargs="+", default=[], metavar="JSON", help="what measure_fidelity wrote for each seed")),
        Argument("--speed", dict(metavar="JSON", help="what measure_speed wrote")),
        Argument("--training", dict(nargs="+", required=True, metavar="CSV", help="training.csv of each seed")),
        Argument("--adapter", dict(required=True, metavar="R", help="folder of the adapter that is compared")),
        Argument("--columns", dict(type=int, default=10, help="images per row (default: 10)")),
        Argument("--output-dir", dict(required=True, help="folder for fid.json, fid.txt and the pictures")),
    )),
    "tabulate_runs": Stage("agd.tabulate_runs", (_TABLE, _DEFINITION, _RESULTS, _TABLES)),
    "draw_runs": Stage("agd.draw_runs", (
        Argument("--table", dict(required=True, metavar="JSON", help="the table's record, of tabulate_runs")),
        _TABLES,
    )),
    "draw_grid": Stage("agd.draw_grid", (_TABLE, _DEFINITION, _RESULTS, _TABLES)),
    "index_tables": Stage("agd.index_tables", (
        Argument("--tables", dict(required=True, nargs="+", metavar="JSON", help="records of tables, of tabulate_runs, in order")),
        _TABLES,
    )),
    "draw_curve": Stage("agd.draw_curve", (
        Argument("--name", dict(required=True, help="the model's name")),
        Argument("--metrics", dict(nargs="+", required=True, metavar="JSON", help="metrics of every method, seed and number of steps")),
        Argument("--adapter", dict(required=True, metavar="R", help="folder of the adapter that is compared")),
        Argument("--output-dir", dict(required=True, help="folder for curve.json and curve.png")),
    )),
}  # fmt: skip
