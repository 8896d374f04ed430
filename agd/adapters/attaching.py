"""Attaches adapters to a frozen denoiser, and detaches them."""

from torch import nn

from agd.adapters import diffusers_integration
from agd.adapters.anatomy import Anatomy
from agd.adapters.config import AdapterConfig
from agd.adapters.module import Adapters
from agd.runtime.errors import UserError


def attach(denoiser: nn.Module, config: AdapterConfig, anatomy: Anatomy, freeze: bool = True) -> Adapters:
    """Attach new adapters to a denoiser, on its execution device. Returns them; they are also `denoiser.agd`.

    The base model stays in eval mode: training mode would drop class labels and change its outputs.
    freeze: switch off the base model's gradients, for training. If False, `detach` leaves all `requires_grad` as they
    are. Raises UserError if the denoiser has adapters already, or is itself distilled to take a guidance scale.
    """
    if hasattr(denoiser, "agd"):
        raise UserError("this denoiser carries adapters already; detach them first")
    if diffusers_integration.is_distilled(denoiser):
        raise UserError(
            "this denoiser takes a guidance scale by itself (time_cond_proj_dim); give one that is not distilled"
        )
    # With its type: a LoRA that is taken off later leaves another module under the same name.
    training = {(name, type(module)) for name, module in denoiser.named_modules() if module.training}
    frozen = {name for name, parameter in denoiser.named_parameters() if parameter.requires_grad and freeze}
    for name in frozen:
        denoiser.get_parameter(name).requires_grad_(False)
    denoiser.eval()
    adapters = Adapters(denoiser, config, anatomy)
    for values in (*adapters.parameters(), *adapters.buffers()):
        values.data = values.data.float() if values.is_floating_point() else values.data  # whatever the default dtype
    adapters.to(diffusers_integration.execution_device(denoiser))
    adapters.before = training, frozen, _has_loras(denoiser)
    denoiser.add_module("agd", adapters)
    adapters.connect(denoiser)
    diffusers_integration.integrate(denoiser)
    return adapters


def detach(denoiser: nn.Module) -> None:
    """Remove the adapters and restore the base model, bit for bit. Raises UserError if there are no adapters."""
    if not hasattr(denoiser, "agd"):
        raise UserError("this denoiser carries no adapters; there is nothing to detach")
    if denoiser.agd.current.in_call:
        raise UserError("a call with these adapters is not over yet (this is its callback); detach them after it")
    denoiser.agd.disconnect()
    diffusers_integration.restore(denoiser)
    training, frozen, had_loras = denoiser.agd.before
    del denoiser.agd
    for name, module in denoiser.named_modules():
        module.training |= (name, type(module)) in training
    if _has_loras(denoiser) and not had_loras:
        return  # PEFT froze the base for a LoRA that was added since
    for name, parameter in denoiser.named_parameters():
        parameter.requires_grad_(parameter.requires_grad or name in frozen)


def _has_loras(denoiser: nn.Module) -> bool:
    return bool(getattr(denoiser, "peft_config", None))


def size(denoiser: nn.Module) -> dict[str, float]:
    """Count the adapters' trainable parameters, and their fraction of the base model's parameters."""
    added = sum(p.numel() for p in denoiser.agd.parameters())
    base = sum(p.numel() for p in denoiser.parameters()) - added
    return {"parameters": added, "fraction_of_base": added / base}
