"""Files and folders that are found whole or not at all, and errors that name the path.

What klvi writes goes through here. Nothing here imports torch.
"""

from klvi.files.disk import (
    LEFTOVER,
    TEMPORARY,
    disk_problem,
    kind_of,
    naming,
    reason_of,
    same_trouble,
)
from klvi.files.json_object import read_json, to_json
from klvi.files.places import (
    CONFIG,
    MANIFEST,
    TARGET,
    WRITTEN,
    foreign_entry,
    new_file_problem,
    new_folder_problem,
    room_problem,
)
from klvi.files.reading import MAX_BYTES, digest, names_in, open_regular, read_bytes, read_text
from klvi.files.writing import (
    append_text,
    remove_leftovers,
    whole_folder,
    write_whole,
)

__all__ = [
    "CONFIG",
    "LEFTOVER",
    "MANIFEST",
    "MAX_BYTES",
    "TARGET",
    "TEMPORARY",
    "WRITTEN",
    "append_text",
    "digest",
    "disk_problem",
    "foreign_entry",
    "kind_of",
    "names_in",
    "naming",
    "new_file_problem",
    "new_folder_problem",
    "open_regular",
    "read_bytes",
    "read_json",
    "read_text",
    "reason_of",
    "remove_leftovers",
    "room_problem",
    "same_trouble",
    "to_json",
    "whole_folder",
    "write_whole",
]
