"""Stage `tabulate`: one model's main comparison over its seeds, as fid.json, and as pictures.

`python -m agd.tabulate --help`
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import pandas

from agd.artifacts import writing
from agd.errors import UserError
from agd.images import read_images, write_grid
from agd.provenance import json_bytes, provenance, read_json
