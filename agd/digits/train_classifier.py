"""Stage `train_classifier`: a small classifier of digits, whose features compare images of them.

`python -m agd.digits.train_classifier --output SAFETENSORS`
"""

import dataclasses

import torch
from safetensors.torch import save_file
from torch import nn

from agd import devices
from agd.artifacts import can_write, writing
from agd.cli import door
from agd.digits.data import digits
from agd.features import DigitsClassifier
from agd.progress import progress
from agd.provenance import provenance
from agd.records import sealed_json, vouch

STAGE = "train_classifier"
_TEST_PART = 0.2


@dataclasses.dataclass(frozen=True)
class Settings:
    """config/schema.yaml says what each of these is."""

    steps: int
    batch_size: int
    learning_rate: float
    seed: int
    device: str


def train(settings: Settings, device: torch.device) -> tuple[DigitsClassifier, float]:
    """The classifier, and its accuracy on the fifth of the digits that it never saw."""
    torch.manual_seed(settings.seed)
    images, labels = (a.to(device) for a in digits())
    order = torch.randperm(len(images)).to(device)
    test, rest = order.split([round(_TEST_PART * len(order)), len(order) - round(_TEST_PART * len(order))])
    model = DigitsClassifier().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=settings.steps)
    with progress(range(settings.steps), STAGE) as bar:
        for _ in bar:
            chosen = rest[torch.randint(len(rest), (settings.batch_size,))]
            # A pixel's shift is as far as a pen moves: the only change that leaves an 8 x 8 digit what it is.
            shift = torch.randint(-1, 2, (2,)).tolist()
            x = torch.roll(images[chosen], shift, (2, 3))
            loss = nn.functional.cross_entropy(model.classes(model(x)), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        right = model.classes(model(images[test])).argmax(1) == labels[test]
    return model, right.float().mean().item()


def run(files, settings: Settings) -> None:
    """Write the weights, and `.json` beside them with the accuracy and their checksum."""
    output = can_write(files.output)
    device = devices.device(settings.device)
    model, accuracy = train(settings, device)
    made = provenance(
        STAGE, {k: v for k, v in dataclasses.asdict(settings).items() if k != "device"}, devices.describe(device)
    )
    with writing(output) as aside:
        save_file({name: value.cpu().contiguous() for name, value in model.state_dict().items()}, aside)
    record = {"test_accuracy": accuracy, "provenance": made, "files": vouch(output.parent, [output.name])}
    with writing(output.with_suffix(".json")) as aside:
        aside.write_bytes(sealed_json(record))


main = door(STAGE)

if __name__ == "__main__":
    main()
