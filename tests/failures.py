"""A stage that writes its outputs and then fails, for the tests."""

from pathlib import Path

from studies import snakemake_command

FAILING_TARGET = "results/digits/images.zip"
# Python reads this at its start: the stage then ends in another way than it would have.
SITE = """
import atexit, os, signal, sys

if "agd.digits.prepare_digits" in sys.orig_argv:
    end = os.environ["STAGE_ENDS_WITH"]
    atexit.register(lambda: os.kill(os.getpid(), signal.SIGKILL) if end == "KILL" else os._exit(int(end)))
"""


def failing_command(folder: Path, ends_with: str, *words) -> tuple[list[str], dict]:
    """Snakemake's command line, and its environment, for one job whose stage writes its outputs and then ends with a status,
    or by SIGKILL. The study is `folder`/study."""
    for name in ("site", "study"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "site" / "sitecustomize.py").write_text(SITE)
    command, environment = snakemake_command(folder / "study", *words, targets=(FAILING_TARGET,))
    return command, environment | {"PYTHONPATH": str(folder / "site"), "STAGE_ENDS_WITH": ends_with}
