"""The commit that made an artifact is this checkout's, or unknown."""

import re
import shutil
import subprocess
import sys

from studies import ROOT

from agd.artifacts.provenance import commit


def test_the_commit_is_the_checkouts():
    assert re.fullmatch("[0-9a-f]{40}(-dirty)?|unknown", commit())


def test_somebody_elses_repository_is_not_ours(tmp_path):
    """Installed into a virtual environment inside another project."""
    for words in (
        ["init", "-q"],
        ["-c", "user.name=x", "-c", "user.email=x@y", "commit", "-q", "--allow-empty", "-m", "x"],
    ):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    shutil.copytree(ROOT / "agd", tmp_path / "lib" / "agd", ignore=shutil.ignore_patterns("__pycache__"))
    code = "from agd.artifacts.provenance import commit; print(commit())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path / "lib")
    assert done.stdout == "unknown\n", done.stderr
