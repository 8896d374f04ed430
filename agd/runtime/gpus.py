"""Starts a command with GPUs of its own: `python -m agd.runtime.gpus 1 python -m agd.dit.sample ...`.

Snakemake counts GPUs but does not say which one a job has. This holds a lock per GPU, exports CUDA_VISIBLE_DEVICES, and
becomes the command. The lock belongs to the process: it is free again when the process ends, however it ends.

Chooses among the GPUs in CUDA_VISIBLE_DEVICES, if it is set, or else all that `nvidia-smi` lists. Without any, and in a
SLURM job, whose GPUs are its own, runs the command as it is. Imports nothing heavy.
"""

import fcntl
import os
import re
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agd.runtime.errors import UserError

_SECONDS_TO_WAIT = 20  # a job that has just ended may still have a process that reads data
_USAGE = "usage: python -m agd.runtime.gpus NUMBER COMMAND ..., with a NUMBER of GPUs of 1 or more"


def listed() -> list[str]:
    """Return the UUIDs of this machine's GPUs in their order; none without NVIDIA's driver."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=_SECONDS_TO_WAIT, check=True)
    except FileNotFoundError:
        return []
    except (OSError, subprocess.SubprocessError) as error:
        print(f"agd.runtime.gpus: nvidia-smi failed ({type(error).__name__}); jobs may share a GPU", file=sys.stderr)
        return []
    said = done.stdout.decode(errors="replace")
    return re.findall(r"^GPU \d+: .*\(UUID: (GPU-[^)\s]+)\)", said, flags=re.MULTILINE)


def visible() -> dict[str, str]:
    """Return the GPUs to choose from: name as CUDA_VISIBLE_DEVICES takes it -> UUID, or the name where that is unknown.

    Like CUDA, stop at the first name that is no GPU's, such as -1.
    """
    there, chosen = listed(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return {uuid: uuid for uuid in there}
    found = {}
    for name in map(str.strip, chosen.split(",")):
        if not re.fullmatch(r"\d+|(GPU|MIG)-\S+", name):
            break
        matching = [there[int(name)]] if name.isdigit() and int(name) < len(there) else []
        matching += [uuid for uuid in there if not name.isdigit() and uuid.startswith(name)]
        uuid = matching[0] if matching else name
        if uuid not in found.values():
            found[name] = uuid
    return found


def lock(name: str) -> int | None:
    """Lock a GPU for this process and what it becomes. Returns the lock's open file, or None if another process has it.

    Raises UserError if the folder of locks is not this user's own.
    """
    folder = Path(tempfile.gettempdir()) / f"agd-gpus-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if not stat.S_ISDIR(folder.lstat().st_mode) or folder.lstat().st_uid != os.getuid():
            raise FileExistsError
        file = os.open(folder / re.sub(r"[^\w-]", "_", name), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise UserError(f"{folder}: no folder of this user's for locks ({type(error).__name__}); remove it") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    os.set_inheritable(file, True)  # the lock is held as long as the file is open
    return file


def take(number: int, there: dict[str, str]) -> list[str]:
    """Lock `number` of these GPUs and return their names. Raises UserError if so many are not free."""
    if number > len(there):
        raise UserError(f"gpu: {number} wanted, there are {len(there)}; set a smaller number")
    deadline = time.monotonic() + _SECONDS_TO_WAIT
    while True:
        held = {}
        for name, uuid in there.items():
            if len(held) < number and (file := lock(uuid)) is not None:
                held[name] = file
        if len(held) == number:
            return list(held)
        for file in held.values():
            os.close(file)
        if time.monotonic() > deadline:
            raise UserError(
                f"gpu: {number} wanted, {len(held)} of {len(there)} free, other jobs hold the rest; "
                f"run fewer at once, `--resources gpu={len(there)}`"
            )
        time.sleep(0.2)


def main() -> None:
    try:
        if len(sys.argv) < 3 or not re.fullmatch(r"[1-9]\d*", sys.argv[1]):
            raise UserError(_USAGE)
        number, command = int(sys.argv[1]), sys.argv[2:]
        there = {} if "SLURM_JOB_ID" in os.environ else visible()
        if there:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(take(number, there))
        try:
            os.execvp(command[0], command)
        except (OSError, ValueError) as error:
            raise UserError(f"{command[0]!r} can't be run ({type(error).__name__}); check the command") from None
    except UserError as error:
        sys.exit(f"agd.runtime.gpus: error: {error}")


if __name__ == "__main__":
    main()
