"""The store: what is written comes back, and nothing damaged is read in silence."""

import zipfile

import numpy as np
import pytest
import zarr
from conftest import command

from agd.artifacts import trajectories
from agd.artifacts.pairs import Pairs
from agd.runtime.errors import UserError


def shard(first=0, n=3, steps=4, dtype="float32", base="abc", **settings) -> trajectories.Shard:
    rng = np.random.default_rng(first)
    return trajectories.Shard(
        pairs=rng.normal(size=(n, steps, 2, 2, 4, 4)).astype(dtype),
        timesteps=np.arange(steps, dtype=np.float32)[::-1] * 10,
        guidance_scale=rng.uniform(1, 3, n).astype(np.float32),
        index=np.arange(first, first + n),
        conditions={"class_label": np.arange(n)},
        provenance={"base": {"fingerprint": base}, "settings": settings, "stage_version": 1, "seed": 0},
    )


@pytest.fixture
def path(tmp_path):
    file = tmp_path / trajectories.shard_name(0)
    trajectories.write(file, shard())
    return file


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_round_trip(tmp_path, dtype):
    file, written = tmp_path / "a.zarr.zip", shard(dtype=dtype)
    trajectories.write(file, written)
    read = trajectories.read(file)
    for name in ("pairs", "timesteps", "guidance_scale", "index"):
        assert np.array_equal(getattr(read, name), getattr(written, name))
        assert getattr(read, name).dtype == getattr(written, name).dtype
    assert np.array_equal(read.conditions["class_label"], [0, 1, 2])
    assert read.provenance == written.provenance


def test_equal_shards_are_equal_bytes(path, tmp_path):
    trajectories.write(tmp_path / "again.zarr.zip", shard())
    assert (tmp_path / "again.zarr.zip").read_bytes() == path.read_bytes()
    assert not [f for f in tmp_path.iterdir() if f.name.startswith(".")]


def test_any_zarr_reader_opens_it(path):
    group = zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r")
    assert group["pairs"].shape == (3, 4, 2, 2, 4, 4)
    assert np.isnan(group["pairs"].fill_value)


@pytest.mark.parametrize("memory", [0, 1 << 30], ids=["read pair by pair", "read whole"])
def test_pairs_of_several_shards(tmp_path, memory):
    written = [shard(0), shard(3, n=2)]
    for s in written:
        trajectories.write(tmp_path / trajectories.shard_name(s.index[0]), s)
    pairs = Pairs(trajectories.find([tmp_path]), memory)
    assert len(pairs) == 5 * 4
    item = pairs[3 * 4 + 2]  # the fourth trajectory's third step is in the second shard
    assert np.array_equal(np.stack([item["x"], item["target"]]), written[1].pairs[0, 2])
    assert item["timestep"] == 10
    assert item["guidance_scale"] == written[1].guidance_scale[0]
    assert item["trajectory"] == 3
    found = pairs.conditions([3, 1, 3])
    assert {name: values.tolist() for name, values in found.items()} == {"class_label": [0, 1, 0]}


def test_every_flipped_byte_is_noticed(path):
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in [0, len(whole) - 1, len(whole) - 70, *rng.integers(0, len(whole), 60).tolist()]:
        changed = bytearray(whole)
        changed[position] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        with pytest.raises(UserError, match=rf"{path.name}: damaged"):
            trajectories.read(path)


def test_every_flipped_byte_of_a_large_set_is_noticed_when_it_is_read(path):
    """A set too large for memory is not read whole at the start of a training: its shards' records and CRC-32 are checked."""
    whole, good, refused = path.read_bytes(), Pairs([path]), []
    rng = np.random.default_rng(1)
    for position in [0, len(whole) - 1, len(whole) - 70, *rng.integers(0, len(whole), 60).tolist()]:
        changed = bytearray(whole)
        changed[position] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        try:
            pairs = Pairs([path], memory_bytes=0)
            read = [pairs[i] for i in range(len(pairs))]
        except UserError as error:
            refused.append(str(error).startswith(f"{path}: "))
        else:  # a byte that no reader looks at, such as a date
            assert all(np.array_equal(item[name], good[i][name]) for i, item in enumerate(read) for name in item)
    assert len(refused) > 40
    assert all(refused)


def test_a_large_set_is_not_read_at_the_start(path, monkeypatch):
    read = []
    monkeypatch.setattr(trajectories, "open_zip", lambda path: read.append(path) or zipfile.ZipFile(path))
    Pairs([path], memory_bytes=0)
    assert read == []
    Pairs([path])
    path.with_name("000000.zarr.json").unlink()
    Pairs([path], memory_bytes=0)
    assert read == [path, path]  # without a record, every byte is read


@pytest.mark.parametrize("keep", [0, 10, 64, 0.5, -1])
def test_truncation_is_noticed(path, keep):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(UserError, match=rf"{path.name}: damaged"):
        trajectories.read(path)


def test_a_missing_zarr_chunk_is_noticed(path, tmp_path):
    from agd.artifacts.zips import write_zip

    with zipfile.ZipFile(path) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    without = [entry for entry in entries if "pairs/c/1" not in entry[0]]
    assert len(without) < len(entries)
    write_zip(path, without)
    with pytest.raises(UserError, match=r"damaged, or not what 000000.zarr.json tells of; delete both, and run again"):
        trajectories.read(path)
    path.with_name("000000.zarr.json").unlink()
    with pytest.raises(UserError, match="holds less than it says"):
        trajectories.read(path)
    with pytest.raises(UserError, match="trajectory 1 is incomplete"):
        Pairs([path], memory_bytes=0)[1 * 4]


def test_a_sealed_zip_of_something_else_is_named(tmp_path):
    from agd.artifacts.zips import write_zip

    write_zip(tmp_path / "a.zarr.zip", [("hello", b"world")])
    with pytest.raises(UserError, match=r"a.zarr.zip: not a trajectory shard"):
        trajectories.read(tmp_path / "a.zarr.zip")


def test_values_that_are_not_finite_are_not_stored(tmp_path):
    bad = shard()
    bad.pairs[1, 2, 1, 0, 0, 0] = np.inf
    with pytest.raises(UserError, match="trajectory 1 has values that are not finite"):
        trajectories.write(tmp_path / "a.zarr.zip", bad)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (shard(3, base="xyz"), "sampled from another base model"),
        (shard(3, guidance_max=9), r"sampled with other settings \(guidance_max\)"),
        (shard(2), "trajectory 2 is in"),
        (shard(3, steps=5), "sampled with other settings"),
    ],
    ids=["base", "settings", "overlap", "shape"],
)
def test_shards_that_do_not_belong_together(path, second, message):
    other = path.parent / trajectories.shard_name(second.index[0])
    trajectories.write(other, second)
    with pytest.raises(UserError, match=f"{other.name}: {message}"):
        Pairs([path, other])


def test_a_shard_under_anothers_name_is_named(path):
    """Two shards that changed names, with their records, would give other batches."""
    other = path.parent / trajectories.shard_name(3)
    trajectories.write(other, shard(3))
    for first, second in ((path, other), (path.with_suffix(".json"), other.with_suffix(".json"))):
        aside = first.rename(first.with_name("aside"))
        second.rename(first)
        aside.rename(second)
    with pytest.raises(UserError, match=r"000000.zarr.zip: begins with trajectory 3, unlike its name; name it 000003"):
        Pairs([path, other])


def test_records_without_their_shards_are_named(path):
    for first in (3, 6):
        file = path.parent / trajectories.shard_name(first)
        trajectories.write(file, shard(first))
        file.unlink()
    with pytest.raises(
        UserError, match=r"000003.zarr.zip: missing, while 000003.zarr.json tells of it, and so are 1 more"
    ):
        trajectories.find([path.parent])


def test_a_hole_among_the_shards_is_named(path):
    far = path.parent / trajectories.shard_name(6)
    trajectories.write(far, shard(6))
    with pytest.raises(UserError, match=r"000003.zarr.zip: missing \(no shard holds trajectory 3\)"):
        Pairs([path, far])


def test_missing_shards_are_named(tmp_path, capsys):
    with pytest.raises(UserError, match="holds no trajectories"):
        trajectories.find([tmp_path])
    with pytest.raises(SystemExit):
        command("train", "--dir", tmp_path / "R", "--data-path", tmp_path / "nowhere")
    assert f"error: {tmp_path}/nowhere: no such file or folder" in capsys.readouterr().err
