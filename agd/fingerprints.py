"""Has code that a stage runs changed since versions.lock was written? A developer's command:

    python -m agd.fingerprints              says which stages' code moved
    python -m agd.fingerprints --same       results are the same: writes the lock, versions stay
    python -m agd.fingerprints --changed train sample     results change: these versions go up by one, then writes the lock

A stage's fingerprint covers its import closure inside agd, as syntax trees without comments and docstrings.
"""

import argparse
import ast
import hashlib
import json
import re
import sys
from pathlib import Path

from agd.versions import VERSIONS

PACKAGE = Path(__file__).resolve().parent
LOCK = PACKAGE.parent / "versions.lock"
VERSIONS_FILE = PACKAGE / "versions.py"
_FAMILIES = ("dit", "sd")
_DIGITS = ("prepare_digits", "train_classifier", "train_base")
_WITH_FAMILY = ("sample_trajectories", "train", "sample")
# No stage runs these: versions' integers are params of the rules (they would make every bump move every stage), and the
# package itself is only the public door.
_NOT_CODE = {"agd", "agd.versions"}


def roots(stage: str) -> list[str]:
    """The modules that a stage starts from, those that its door imports by name included."""
    if stage in _DIGITS:
        return [f"agd.digits.{stage}"]
    families = [f"agd.{family}.family" for family in _FAMILIES] if stage in _WITH_FAMILY else []
    return [f"agd.{stage}", *families]


def module_file(name: str) -> Path | None:
    """Dotted name -> file in the package, or None if it is no module of ours."""
    stem = PACKAGE.parent.joinpath(*name.split("."))
    for file in (stem.with_suffix(".py"), stem / "__init__.py"):
        if file.is_file():
            return file
    return None


def imports(tree: ast.Module) -> set[str]:
    """Names that a module imports, wherever it does; `from a import b` gives both a and a.b."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def parse(name: str) -> ast.Module:
    """Syntax tree of one of our modules, without docstrings."""
    tree = ast.parse(module_file(name).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return tree


def closure(names: list[str]) -> dict[str, ast.Module]:
    """All our modules that these import, directly or not, and these."""
    trees, waiting = {}, list(names)
    while waiting:
        name = waiting.pop()
        if name in trees or name in _NOT_CODE or not name.startswith("agd") or module_file(name) is None:
            continue
        trees[name] = parse(name)
        waiting += imports(trees[name])
    return trees


def skeleton(node) -> list | str:
    """A syntax tree as nested lists, the same in every version of Python (`ast.dump` is not)."""
    if isinstance(node, ast.AST):
        # Fields by name, for x[:n] and x[n:] differ in nothing else; empty ones left out, for Python's versions differ there.
        fields = ([name, skeleton(value)] for name, value in ast.iter_fields(node) if value not in (None, []))
        return [type(node).__name__, *fields]
    return [skeleton(item) for item in node] if isinstance(node, list) else repr(node)


def fingerprint(stage: str) -> str:
    """sha256 of a stage's code."""
    trees = closure(roots(stage))
    text = "\n".join(f"{name}\n{skeleton(trees[name])}" for name in sorted(trees))
    return hashlib.sha256(text.encode()).hexdigest()


def current() -> dict[str, dict]:
    """Stage -> version and fingerprint, as the code stands."""
    return {stage: {"version": version, "fingerprint": fingerprint(stage)} for stage, version in VERSIONS.items()}


def moved() -> list[str]:
    """Stages whose code or version is not what the lock says."""
    locked = json.loads(LOCK.read_text(encoding="utf-8")) if LOCK.exists() else {}
    return [stage for stage, entry in current().items() if locked.get(stage) != entry]


def _raise_versions(stages: list[str]) -> None:
    text = VERSIONS_FILE.read_text(encoding="utf-8")
    for stage in stages:
        VERSIONS[stage] += 1
        text = re.sub(rf'("{stage}": )\d+', rf"\g<1>{VERSIONS[stage]}", text)
    VERSIONS_FILE.write_text(text, encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        "python -m agd.fingerprints", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--same", action="store_true", help="results are the same")
    choice.add_argument(
        "--changed", nargs="+", choices=VERSIONS, metavar="STAGE", help="results of these stages change"
    )
    arguments = parser.parse_args(argv)
    if arguments.same or arguments.changed:
        _raise_versions(arguments.changed or [])
        LOCK.write_text(json.dumps(current(), indent=2) + "\n", encoding="utf-8")
    elif moved():
        sys.exit(f"code of these stages moved: {', '.join(moved())}; say --same or --changed (see --help)")


if __name__ == "__main__":
    main()
