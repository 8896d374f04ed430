"""Reports stages whose code changed since versions.lock was written. For developers:

    python -m agd.settings.fingerprints              report stages with changed code
    python -m agd.settings.fingerprints --same       results are the same: keep versions, write the lock
    python -m agd.settings.fingerprints --changed train sample     results change: raise these versions, write the lock

A stage's fingerprint covers all modules of agd that it imports, as syntax trees without comments and docstrings.
"""

import argparse
import ast
import hashlib
import json
import re
import sys
from pathlib import Path

from agd.settings.families import PACKAGES
from agd.settings.stages import STAGES
from agd.settings.versions import VERSIONS

PACKAGE = Path(__file__).resolve().parents[1]
LOCK = PACKAGE.parent / "versions.lock"
VERSIONS_FILE = PACKAGE / "settings" / "versions.py"
# Versions are params of the rules. If this module counted as code, raising one version would change every
# fingerprint. The registry of families only names modules, which count by themselves.
_NOT_CODE = {"agd.settings.versions", "agd.settings.families"}


def roots(stage: str) -> list[str]:
    """Return the modules that a stage starts from, including those that its entry point imports by name."""
    opened = [f"{package}.family" for package in PACKAGES.values()] if STAGES[stage].needs_model else []
    return [STAGES[stage].module, *opened]


def module_file(name: str) -> Path | None:
    """Return the file of a dotted module name, or None if it is not in agd.

    Packages only re-export names of modules.
    """
    file = PACKAGE.parent.joinpath(*name.split(".")).with_suffix(".py")
    return file if file.is_file() else None


def imports(tree: ast.Module) -> set[str]:
    """Return all names that a module imports, at any place. `from a import b` gives both a and a.b."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def parse(name: str) -> ast.Module:
    """Return the syntax tree of one of agd's modules, without docstrings."""
    tree = ast.parse(module_file(name).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return tree


def closure(names: list[str]) -> dict[str, ast.Module]:
    """Return these modules and all modules of agd that they import, directly or indirectly."""
    trees, waiting = {}, list(names)
    while waiting:
        name = waiting.pop()
        if name in trees or name in _NOT_CODE or not name.startswith("agd") or module_file(name) is None:
            continue
        trees[name] = parse(name)
        waiting += imports(trees[name])
    return trees


def skeleton(node) -> list | str:
    """Return a syntax tree as nested lists. It is the same in every Python version; `ast.dump` is not."""
    if isinstance(node, ast.AST):
        # Name the fields, or x[:n] and x[n:] would be equal. Leave out empty fields: they differ between Python
        # versions.
        fields = ([name, skeleton(value)] for name, value in ast.iter_fields(node) if value not in (None, []))
        return [type(node).__name__, *fields]
    return [skeleton(item) for item in node] if isinstance(node, list) else repr(node)


def fingerprint(stage: str) -> str:
    """Return the sha256 of a stage's code."""
    trees = closure(roots(stage))
    text = "\n".join(f"{name}\n{skeleton(trees[name])}" for name in sorted(trees))
    return hashlib.sha256(text.encode()).hexdigest()


def current() -> dict[str, dict]:
    """Return stage -> version and fingerprint, for the current code."""
    return {stage: {"version": version, "fingerprint": fingerprint(stage)} for stage, version in VERSIONS.items()}


def moved() -> list[str]:
    """Return the stages whose code or version differs from the lock."""
    locked = json.loads(LOCK.read_text(encoding="utf-8")) if LOCK.exists() else {}
    return [stage for stage, entry in current().items() if locked.get(stage) != entry]


def _raise_versions(stages: list[str]) -> None:
    text = VERSIONS_FILE.read_text(encoding="utf-8")
    for stage in stages:
        VERSIONS[stage] += 1
        text = re.sub(rf'("{stage}": )\d+', rf"\g<1>{VERSIONS[stage]}", text)
    VERSIONS_FILE.write_text(text, encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        "python -m agd.settings.fingerprints", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--same", action="store_true", help="results are the same")
    choice.add_argument(
        "--changed", nargs="+", choices=VERSIONS, metavar="STAGE", help="results of these stages change"
    )
    arguments = parser.parse_args(argv)
    if not (PACKAGE.parent / "Snakefile").is_file():
        sys.exit("agd.settings.fingerprints: error: this is an installed package; run it in a checkout of agd")
    if arguments.same or arguments.changed:
        _raise_versions(arguments.changed or [])
        LOCK.write_text(json.dumps(current(), indent=2) + "\n", encoding="utf-8")
    elif moved():
        sys.exit(f"code of these stages moved: {', '.join(moved())}; say --same or --changed (see --help)")


if __name__ == "__main__":
    main()
