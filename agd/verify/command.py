"""The command line of `python -m agd.verify`."""

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from agd import verify
from agd.artifacts.files import PART, all_below
from agd.runtime.errors import MachineLimit, UserError, machine_limit
from agd.runtime.output import any_encoding
from agd.runtime.progress import progress_bar
from agd.verify.consistency import consistency_checks
from agd.verify.reading import read
from agd.verify.wanted import of_files, settings_checks


def bad(folder: Path, config: dict | None = None, files: list[Path] = ()) -> tuple[int, dict[str, str]]:
    """Return the number of artifacts in a folder and its subfolders, and bad file -> its line.

    config: if given, artifacts made with other settings than its are bad, too. files: those that it was read from; the
    commands in the lines name them.
    """
    found, lines = {}, {}

    def note(check: Callable, path: Path | None = None) -> None:
        try:
            found.update(check() or {})
        except MachineLimit:
            raise
        except (MemoryError, OSError) as error:
            if limit := machine_limit(error):
                raise MachineLimit(f"{path or folder}: {limit}; free some, or take a larger machine") from None
            file = str(path or folder)
            line = f"{file}: can't be read ({getattr(error, 'strerror', None) or error}); look why, then verify again"
        except UserError as error:
            file, problem = str(error).split(": ", 1)
            file = str(Path(file).parent) if Path(file).parent.is_file() else file  # name the zip, not the image in it
            line = f"{file}: {problem.rsplit('; ', 1)[0]}; {_mend(file, files)}"
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            file = str(path or folder)
            line = f"{file}: records that can't be compared ({type(error).__name__})"
            if path:  # its reader expects what is not there
                line = f"{file}: says something else than such a file does; {_mend(file, files)}"
        else:
            return
        lines.setdefault(file, line.replace(f"{Path.cwd()}/", ""))

    folder = folder.absolute()
    with progress_bar(all_below(folder), "verify") as bar:
        for path in bar:
            note(lambda path=path: dict(read(path)), path)
    number = len(found) + len(lines)
    for check in consistency_checks(found, folder):
        note(check)
    for path, check in settings_checks(found, config) if config else ():
        note(check, path)
    return number, lines


def _mend(file: str, files: list[Path]) -> str:
    if file.endswith("checkpoint.safetensors"):
        return "delete it: training, if not finished, begins anew"
    if file.endswith(PART):
        return "delete it when no job runs"
    there = "delete it, then run" if Path(file).exists() else "run"
    return f"{there}: snakemake --cores 1 {shlex.join([file, *(['--configfile', *map(str, files)] if files else [])])}"


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser("python -m agd.verify", description=verify.__doc__.split("\n")[0])
    parser.add_argument("folder", help="results folder, or a part of one")
    parser.add_argument(
        "--configfile",
        nargs="+",
        type=Path,
        metavar="F",
        help="also compare all settings with this configuration (YAML)",
    )
    arguments = parser.parse_args(argv)
    folder = Path(arguments.folder)
    if not folder.is_dir() or not arguments.folder:
        what = "a file; give the folder that it is in" if folder.is_file() else "no such folder; check the path"
        print(f"agd.verify: error: {arguments.folder or repr('')}: {what}", file=sys.stderr)
        sys.exit(2)
    any_encoding()
    try:
        config = of_files(arguments.configfile) if arguments.configfile else None
    except UserError as error:
        print(f"agd.verify: error: {error}", file=sys.stderr)
        sys.exit(2)
    try:
        number, lines = bad(folder, config, arguments.configfile or ())
    except MachineLimit as error:
        print(f"agd.verify: error: {error}", file=sys.stderr)
        sys.exit(2)
    print(*lines.values(), sep="\n", end="\n" if lines else "")
    if not number:
        print(
            f"agd.verify: error: {folder}: nothing lies where the pipeline would put it (docs/artifacts.md); give a folder "
            "results/, or a part (other folders are checked by the stages that read them)",
            file=sys.stderr,
        )
        sys.exit(2)
    print(f"{folder}: {number} artifacts, {f'{len(lines)} bad' if lines else 'all whole and consistent'}")
    sys.exit(1 if lines else 0)
