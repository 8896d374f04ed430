import pytest

from agd.artifacts.sealed_json import parse_json, read_json, read_sealed, write_sealed
from agd.runtime.errors import UserError


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[1]", "1", "", "{", "{'a': 1}", b"\xff\xfe{}"])
def test_what_is_no_json_object_is_a_value_error(text):
    with pytest.raises(ValueError):  # noqa: PT011, json's own words differ
        parse_json(text)


def test_a_file_nested_too_deep_is_no_json_file(tmp_path):
    (tmp_path / "x.json").write_text('{"a":' * 100_000)
    with pytest.raises(UserError, match="not a JSON file"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize("value", ["1e999", "NaN", "-Infinity", "2", '"1"'])
def test_a_changed_number_in_a_record_is_damage(tmp_path, value):
    path = tmp_path / "x.json"
    write_sealed(path, {"a": 1})
    assert read_sealed(path) == {"a": 1}
    path.write_text(path.read_text().replace('"a": 1', f'"a": {value}'))
    with pytest.raises(UserError, match="damaged"):
        read_sealed(path)
