"""Stage `prepare_reference`: the features of real images, computed once for every comparison with them.

`python -m agd.prepare_reference --reference FOLDER_OR_ZIP --output NPZ`
"""

import dataclasses
from pathlib import Path

from agd import devices, features
from agd.artifacts import can_write
from agd.cli import door
from agd.images import list_images

STAGE = "prepare_reference"


@dataclasses.dataclass(frozen=True)
class Settings:
    """config/schema.yaml says what each of these is."""

    features: str
    features_weights: str
    max_features: int
    batch_size: int
    device: str


def run(files, settings: Settings) -> None:
    """Write the statistics and features of the reference as .npz."""
    can_write(files.output)
    if Path(files.reference).suffix == ".npz":
        features.write_reference(files.output, features.read_reference(files.reference))
        return
    list_images(files.reference)  # a missing or empty folder shows before any weights are loaded
    extract = features.extractor(settings.features, settings.features_weights, devices.device(settings.device))
    reference = features.compute_reference(files.reference, extract, settings.max_features, settings.batch_size, STAGE)
    features.write_reference(files.output, reference)


main = door(STAGE)

if __name__ == "__main__":
    main()
