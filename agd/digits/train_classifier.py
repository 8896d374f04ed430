"""Stage `train_classifier`: train a small classifier of digits; its features compare images of digits.

`python -m agd.digits.train_classifier --output SAFETENSORS`
"""

import dataclasses

import torch
from safetensors.torch import save_file
from torch import nn

from agd.artifacts.files import can_write, writing
from agd.artifacts.provenance import provenance
from agd.artifacts.sealed_json import checksums, write_sealed
from agd.digits.data import digits
from agd.measures.digits_classifier import DigitsClassifier
from agd.runtime import devices
from agd.runtime.progress import progress_bar
from agd.settings import configuration
from agd.settings.entry_points import entry_point

STAGE = "train_classifier"
_TEST_PART = 0.2


@dataclasses.dataclass(frozen=True)
class Settings:
    """config/schema.yaml describes each field."""

    steps: int
    batch_size: int
    learning_rate: float
    seed: int
    device: str


def train(settings: Settings, device: torch.device) -> tuple[DigitsClassifier, float]:
    """Train the classifier. Returns it, and its accuracy on a test set of one fifth of the digits."""
    torch.manual_seed(settings.seed)
    images, labels = (a.to(device) for a in digits())
    order = torch.randperm(len(images)).to(device)
    test, rest = order.split([round(_TEST_PART * len(order)), len(order) - round(_TEST_PART * len(order))])
    model = DigitsClassifier().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=settings.steps)
    with progress_bar(range(settings.steps), STAGE) as bar:
        for _ in bar:
            chosen = rest[torch.randint(len(rest), (settings.batch_size,))]
            # Shift by at most one pixel: the only augmentation that keeps an 8 x 8 digit recognisable.
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
    """Write the weights, and a `.json` file beside them with the accuracy and the weights' checksum."""
    output = can_write(files.output)
    device = devices.device(settings.device)
    model, accuracy = train(settings, device)
    made = provenance(STAGE, configuration.recorded(STAGE, settings), devices.describe(device))
    with writing(output) as aside:
        save_file({name: value.cpu().contiguous() for name, value in model.state_dict().items()}, aside)
    record = {"test_accuracy": accuracy, "provenance": made, "files": checksums(output.parent, [output.name])}
    write_sealed(output.with_suffix(".json"), record)


main = entry_point(STAGE)

if __name__ == "__main__":
    main()
