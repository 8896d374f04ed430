"""The training checkpoint: one safetensors file with the adapters, the optimiser state and the progress."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from agd.artifacts.files import writing
from agd.artifacts.sealed_json import parse_json
from agd.runtime.errors import UserError


@dataclasses.dataclass
class Progress:
    """The progress of a training: steps done, rows logged so far, losses since the last row."""

    step: int = 0
    rows: list[dict] = dataclasses.field(default_factory=list)
    recent: list[float] = dataclasses.field(default_factory=list)


_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def save(path: Path, adapters: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, identity: str) -> None:
    """Write a checkpoint, whole or not at all. identity: identifies the training (see `load`)."""
    tensors = {f"adapters/{name}": value for name, value in adapters.state_dict().items()}
    for name, parameter in adapters.named_parameters():
        tensors |= {f"{moment}/{name}": optimizer.state[parameter][moment] for moment in _MOMENTS}
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    state = {"identity": identity, "progress": dataclasses.asdict(progress)}
    with writing(path) as aside:
        # Only one entry, as in saving.save: equal states give equal bytes.
        save_file(tensors, aside, {"agd": json.dumps(state | {"sha256": _digest(tensors, state)}, sort_keys=True)})


def _digest(tensors: dict[str, torch.Tensor], state: dict) -> str:
    """Return the sha256 of a checkpoint's contents. It is in the same file, so that one rename replaces both."""
    hasher = hashlib.sha256(json.dumps(state, sort_keys=True).encode())
    for name, values in sorted(tensors.items()):
        hasher.update(f"{name} {values.dtype} {list(values.shape)}".encode())
        hasher.update(values.reshape(-1).view(torch.uint8).numpy())
    return hasher.hexdigest()


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Read a checkpoint's tensors, `identity` and `progress`. Raises UserError, naming a missing or damaged file."""
    try:
        with safe_open(path, "pt") as file:
            state = parse_json((file.metadata() or {}).get("agd", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; make it first, or check the path") from None
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); delete it and run again") from None
    if state.pop("sha256", None) != _digest(tensors, state):
        raise UserError(f"{path}: damaged (its bytes don't match its checksum); delete it and run again")
    return tensors, state


def load(path: Path, adapters: nn.Module, optimizer: torch.optim.Optimizer, identity: str) -> Progress | None:
    """Restore a checkpoint of the same training: same settings, data, base and version, as `identity` says.

    Returns None if the file is missing, damaged or from another training. Training then starts from step 0, which costs
    only time.
    """
    try:
        tensors, state = read(path)
    except UserError:
        return None
    if state["identity"] != identity:
        return None
    adapters.load_state_dict(
        {name.removeprefix("adapters/"): v for name, v in tensors.items() if name.startswith("adapters/")}
    )
    for name, parameter in adapters.named_parameters():
        # The step count stays on the CPU, as in AdamW.
        moments = {moment: tensors[f"{moment}/{name}"] for moment in _MOMENTS}
        optimizer.state[parameter] = {k: v if k == "step" else v.to(parameter.device) for k, v in moments.items()}
    return Progress(**state["progress"])


def resume(
    path: Path, adapters: nn.Module, optimizer: torch.optim.Optimizer, identity: str, say: Callable[[str], None]
) -> Progress:
    """Continue from a checkpoint of the same training, or start from step 0. If there is a checkpoint, report which."""
    at = load(path, adapters, optimizer, identity)
    if at:
        say(f"going on from step {at.step} of {path}")
    elif path.exists():
        say(f"{path} belongs to another training or is damaged; beginning anew")
    return at or Progress()
