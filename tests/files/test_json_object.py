"""What is read of a JSON file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from klvi.files import read_json


@pytest.mark.parametrize(
    "content",
    [
        *("", "x", "[]", "1", "null", '"a"', "{} {}", '{"a": ', "[" * 500_000, '{"a": ' * 500_000),
        *('{"a": ' + "9" * 5000 + "}", "\ufeff{}"),
    ],
)
def test_what_is_no_json_object_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(content)
    with pytest.raises(ValueError, match=r"."):
        read_json(tmp_path / "file")


def test_json_is_read_up_to_its_bound_and_from_regular_files_alone(tmp_path: Path) -> None:
    file = tmp_path / "file"
    content = json.dumps({"a": "x" * 100})
    file.write_text(content)
    assert read_json(file, len(content)) == {"a": "x" * 100}
    with pytest.raises(OSError, match="holds more than 50 bytes"):
        read_json(file, 50)
    file.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match="utf-8"):
        read_json(file)
    (tmp_path / "link").symlink_to(file)
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo", "", "missing"):
        with pytest.raises(OSError, match=str(tmp_path)):
            read_json(tmp_path / name)
