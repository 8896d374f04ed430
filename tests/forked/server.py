"""Runs stages for tests in copies of a process that has imported torch and diffusers: `python server.py SOCKET`.

A stage's imports take seconds, and its work on a tiny model hardly any. Each stage still gets a process of its own, its own
command line, environment, folder and output, and imports agd anew. Ends when its standard input does.
"""

import atexit
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import torch

from agd.settings.stages import STAGES

_READ_AT_IMPORT = ("CUDA", "DIFFUSERS", "HF_", "KMP_", "LD_", "TOKENIZERS", "TORCH", "TRANSFORMERS")


def read_at_import(environment: dict) -> dict:
    """Return what libraries read of an environment when they are imported: for another one a copy can't serve."""
    return {name: value for name, value in environment.items() if name.startswith(_READ_AT_IMPORT)}


def import_libraries() -> None:
    """Import all that the stages import, and forget agd itself."""
    for name in ("agd.dit.family", "agd.sd.family", *(stage.module for stage in STAGES.values())):
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "agd"]:
        del sys.modules[name]
    del sys.path[0]


def run(asked: dict, streams: list[int]) -> None:
    """Be the process that was asked for, to its end."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(asked["folder"])
    os.umask(asked["umask"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False, errors="backslashreplace")  # noqa: SIM115
    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(":") if path]
    sys.path[:0] = paths if os.environ.get("PYTHONSAFEPATH") else [os.getcwd(), *paths]
    module, *words = asked["words"]
    sys.argv = [module, *words]
    code = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)


def answer(connection: socket.socket, own: dict) -> None:
    """Start what is asked for, and tell how it ended. It is killed with the process that asked."""
    size, streams, *_ = socket.recv_fds(connection, 8, 3)
    asked = json.loads(connection.makefile("rb").read(int.from_bytes(size, "big")))
    if read_at_import(asked["environment"]) != own:
        connection.sendall(b"no")
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child == 0:
        connection.close()
        run(asked, streams)
    connection.sendall(str(child).encode())
    ended = os.pidfd_open(child)
    if ended not in select.select([ended, connection], [], [])[0]:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    connection.sendall(str(status).encode())


def main() -> None:
    own = read_at_import(dict(os.environ))
    import_libraries()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(sys.argv[1])
        listening.listen()
        print("ready", flush=True)
        while 0 not in select.select([0, listening], [], [])[0]:
            connection, _ = listening.accept()
            with connection:
                if os.fork() == 0:
                    listening.close()
                    answer(connection, own)
                    os._exit(0)


if __name__ == "__main__":
    main()
