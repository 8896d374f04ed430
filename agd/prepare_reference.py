"""Stage `prepare_reference`: compute the features of real images, once for all comparisons.

`python -m agd.prepare_reference --reference FOLDER_OR_ZIP --output NPZ`
"""

import dataclasses
from pathlib import Path

from agd.artifacts.files import can_write
from agd.artifacts.images import list_images
from agd.measures import extractors, references
from agd.runtime import devices
from agd.settings.entry_points import entry_point

STAGE = "prepare_reference"


@dataclasses.dataclass(frozen=True)
class Settings:
    """config/schema.yaml describes each field."""

    features: str
    features_weights: str
    image_size: int
    max_features: int
    assume_extractor: bool
    batch_size: int
    device: str


def run(files, settings: Settings) -> None:
    """Write the statistics and features of the reference as .npz."""
    can_write(files.output)
    if Path(files.reference).suffix == ".npz":
        given = references.read_reference(files.reference)
        asked = (settings.features, settings.image_size, settings.assume_extractor)
        references.check_extractor(given, files.reference, *asked)
        if given.image_size is None:  # one of ADM's
            extract = _extractor(settings)
            own = (extract, settings.max_features, settings.batch_size, STAGE)
            given = references.with_features(given, files.reference, *own)
            given = dataclasses.replace(given, image_size=settings.image_size)
        references.write_reference(files.output, given)
        return
    list_images(files.reference)  # report a missing or empty folder before loading weights
    extract = _extractor(settings)
    reference = references.compute_reference(
        files.reference, extract, settings.max_features, settings.batch_size, STAGE
    )
    references.write_reference(files.output, reference)


def _extractor(settings: Settings) -> extractors.Extractor:
    device = devices.device(settings.device)
    return extractors.extractor(settings.features, settings.features_weights, device, settings.image_size)


main = entry_point(STAGE)

if __name__ == "__main__":
    main()
