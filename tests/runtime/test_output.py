"""What programs print never ends them."""

import os
import subprocess
import sys

from studies import ROOT


def test_a_terminal_that_lacks_a_character_gets_an_escape(tmp_path):
    folder = tmp_path / "é"
    folder.mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "agd.verify", folder]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2, done.stderr
    assert "\\xe9: nothing lies where the pipeline would put it" in done.stderr


def test_stages_print_in_any_encoding(tmp_path):
    code = "from agd.settings.entry_points import entry_point; main = entry_point('download')\n"
    code += "try: main(['--url', 'é', '--output', 'x'])\nexcept SystemExit as end: print('é', end.code)"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.stdout == "\\xe9 2\n", done.stderr
    assert "agd.download: error: --url: \\xe9 has no known checksum" in done.stderr
