"""Starts a command with GPUs of its own: `python -m agd.runtime.gpus 1 python -m agd.dit.sample ...`.

Snakemake counts GPUs but does not say which one a job has. This holds a lock per GPU, exports CUDA_VISIBLE_DEVICES, and
becomes the command. The lock belongs to the process: it is free again when the process ends, however it ends.

Chooses among the GPUs in CUDA_VISIBLE_DEVICES, if it is set, or else all that `nvidia-smi` lists. Without any, and in a
SLURM job, whose GPUs are its own, runs the command as it is. Imports nothing heavy.
"""

import fcntl
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agd.runtime.errors import UserError

_SECONDS_TO_WAIT = 20  # a job that has just ended may still have a process that reads data


def visible() -> list[str]:
    """Return the names of the GPUs to choose from, as CUDA_VISIBLE_DEVICES takes them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return re.findall(r"^GPU \d+: .*\(UUID: (GPU-[^)\s]+)\)", listed, flags=re.MULTILINE)


def lock(name: str) -> int | None:
    """Lock a GPU for this process and what it becomes. Returns the lock's open file, or None if another process has it."""
    folder = Path(tempfile.gettempdir()) / f"agd-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    file = os.open(folder / re.sub(r"[^\w-]", "_", name), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    os.set_inheritable(file, True)  # the lock is held as long as the file is open
    return file


def take(number: int, names: list[str]) -> list[str]:
    """Lock `number` of these GPUs. Raises UserError if so many are not free."""
    deadline = time.monotonic() + _SECONDS_TO_WAIT
    while True:
        held = {}
        for name in names:
            if len(held) < number and (file := lock(name)) is not None:
                held[name] = file
        if len(held) == number:
            return list(held)
        for file in held.values():
            os.close(file)
        if number > len(names) or time.monotonic() > deadline:
            raise UserError(
                f"gpu: {number} wanted, {len(held)} of {len(names)} free, other jobs hold the rest; "
                f"run fewer at once, `--resources gpu={max(1, len(names))}`"
            )
        time.sleep(0.2)


def main() -> None:
    try:
        number, command = int(sys.argv[1]), sys.argv[2:]
        names = [] if "SLURM_JOB_ID" in os.environ else visible()
        if names:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(take(number, names))
        os.execvp(command[0], command)
    except UserError as error:
        sys.exit(f"agd.runtime.gpus: error: {error}")


if __name__ == "__main__":
    main()
