"""Writes the model card `README.md` of a saved adapter from its `config.json` alone."""

import json

_USAGE = """```python
import agd
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained({base})
agd.load(pipe, {adapter})
pipe({call}guidance_scale={w:g})  # one pass per step
agd.unload(pipe)  # the pipeline as it was
```
"""


def model_card(description: dict, name: str) -> str:
    """Return the model card in Markdown. description: the config.json. name: the folder or hub id to load it from.

    The card names no licence: the publisher chooses it. Equal descriptions give equal cards.
    """
    made = description.get("provenance") or {}
    base = made.get("base") or {}
    parts = [
        _header(base),
        f"# {name.rstrip('/').rsplit('/', 1)[-1]}\n",
        f"Guidance adapters for {base.get('name', 'a diffusion model')}: small trained layers on the frozen denoiser that "
        "answer a guidance scale with one evaluation per step, where classifier-free guidance takes two. "
        "They load on this base and on fine-tunes of it.\n",
        "## Use\n",
        _USAGE.format(
            base=json.dumps(_repository(base)),
            adapter=json.dumps(name),
            call="[207], " if "class" in description["base_shape"]["features"] else '"a lighthouse in the fog", ',
            w=_usual(description),
        ),
        "## Adapter\n",
        _table(_facts(description)),
        "## Training\n",
        _table(description.get("training", {}) | _fidelity(description) | made.get("settings", {}))
        or "Not recorded.\n",
        "## Provenance\n",
        _table(_origins(made)) or "Not recorded.\n",
    ]
    return "\n".join(parts)


def _header(base: dict) -> str:
    lines = ["---", "library_name: agd", "tags:", "- agd", "- guidance-distillation", "- diffusers"]
    if base.get("revision"):  # only models from the hub have a revision, and this field takes only a hub id
        lines.append(f"base_model: {json.dumps(_repository(base))}")
    return "\n".join([*lines, "---", ""])


def _repository(base: dict) -> str:
    """Return a base's name, without the revision that a hub id may end in: cards and `from_pretrained` take none there."""
    name = base.get("name", "the base model")
    return name.partition("@")[0] if base.get("revision") else name


def _usual(description: dict) -> float:
    """Return a guidance scale for the example: the middle of the trained range."""
    low, high = description.get("guidance_scale_range", (1, description["adapter"]["guidance_scale_max"]))
    return round((low + high) / 2, 1)


def _facts(description: dict) -> dict:
    facts = dict(description["adapter"])
    if "size" in description:
        facts["parameters"] = description["size"]["parameters"]
        facts["fraction of the base"] = f"{description['size']['fraction_of_base']:.2%}"
    if "guidance_scale_range" in description:
        facts["trained guidance scales"] = "{:g} to {:g}".format(*description["guidance_scale_range"])
    facts["adapted layers"] = len(description["base_shape"]["layers"])
    return facts


def _fidelity(description: dict) -> dict:
    found = description.get("fidelity") or {}
    return {
        f"{name} (trajectories held out)": found[name]
        for name in ("unexplained", "captured")
        if found.get(name) is not None
    }


def _origins(made: dict) -> dict:
    """Return the flat part of the provenance, the base model's identity, and the number of trajectories."""
    flat = {name: value for name, value in made.items() if not isinstance(value, dict)}
    base = {f"base {name}": value for name, value in (made.get("base") or {}).items() if value}
    taught = {f"trajectories {k}": v for k, v in (made.get("trajectories") or {}).items() if not isinstance(v, dict)}
    return flat | base | taught | (made.get("packages") or {})


def _table(rows: dict) -> str:
    if not rows:
        return ""
    lines = [f"| {name} | {_cell(value)} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines, ""])


def _cell(value) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value).replace("|", "\\|")
