"""Training's checkpoint: one safetensors file with the adapters, the optimiser and where training stood."""

import dataclasses
import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from agd.artifacts import writing
from agd.errors import UserError


@dataclasses.dataclass
class Progress:
    """Where training stands: steps done, rows logged so far, losses since the last row."""

    step: int = 0
    rows: list[dict] = dataclasses.field(default_factory=list)
    recent: list[float] = dataclasses.field(default_factory=list)


_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def save(path: Path, adapters: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, identity: str) -> None:
    """Write it, whole or not at all. identity: what training this belongs to (see `load`)."""
    tensors = {f"adapters/{name}": value for name, value in adapters.state_dict().items()}
    for name, parameter in adapters.named_parameters():
        tensors |= {f"{moment}/{name}": optimizer.state[parameter][moment] for moment in _MOMENTS}
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    state = {"identity": identity, "progress": dataclasses.asdict(progress)}
    with writing(path) as aside:
        # One entry, as in store.save: equal states leave equal bytes.
        save_file(tensors, aside, {"agd": json.dumps(state | {"sha256": _digest(tensors, state)}, sort_keys=True)})


def _digest(tensors: dict[str, torch.Tensor], state: dict) -> str:
    """sha256 of all that a checkpoint holds; in the file itself, so that both are replaced in one stroke."""
    hasher = hashlib.sha256(json.dumps(state, sort_keys=True).encode())
    for name, values in sorted(tensors.items()):
        hasher.update(f"{name} {values.dtype} {list(values.shape)}".encode())
        hasher.update(values.reshape(-1).view(torch.uint8).numpy())
    return hasher.hexdigest()


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """The tensors of a checkpoint, and its `identity` and `progress`. Raises UserError, naming the file, if it is missing or damaged."""
    try:
        with safe_open(path, "pt") as file:
            state = json.loads((file.metadata() or {}).get("agd", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; make it first, or check the path") from None
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); delete it and run again") from None
    if state.pop("sha256", None) != _digest(tensors, state):
        raise UserError(f"{path}: damaged (its bytes don't match its checksum); delete it and run again")
    return tensors, state


def load(path: Path, adapters: nn.Module, optimizer: torch.optim.Optimizer, identity: str) -> Progress | None:
    """Take up a checkpoint of the same training (same settings, data, base and version, in `identity`), or return None
    if there is none, or one of another training, or a damaged one: then training begins anew, which costs only time."""
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
        # The step count stays on the CPU, as AdamW keeps it.
        moments = {moment: tensors[f"{moment}/{name}"] for moment in _MOMENTS}
        optimizer.state[parameter] = {k: v if k == "step" else v.to(parameter.device) for k, v in moments.items()}
    return Progress(**state["progress"])
