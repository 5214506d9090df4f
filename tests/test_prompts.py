"""Prompts from files of texts and of JSON lines."""

import pytest

from klvi.config.schema import FilePrompts, NoPrompts
from klvi.errors import UserError
from klvi.prompts import load_contexts


def load(path, **options):
    contexts = load_contexts(FilePrompts(name="file", path=str(path), **options))
    return [context.prompt for context in contexts]


def test_no_prompts_are_one_empty_prompt():
    assert [c.prompt for c in load_contexts(NoPrompts(name="none"))] == [""]


def test_a_text_per_line_and_blank_lines_are_skipped(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffOnce upon \n\n  \r\nDie Straße\u2028nach\r\nlast".encode())
    assert load(file) == ["Once upon ", "Die Straße\u2028nach", "last"]


def test_json_lines_with_a_field(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"q": "two\\nlines", "x": 1}\n\n{"q": " b"}\n')
    assert load(file, field="q") == ["two\nlines", " b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"prompt": "a"}\n\n{"text": "b", "n": 1}',
            r"jsonl:3: no field 'prompt' \(it has: text, n",
        ),
        ('{"prompt": "a"}\n{"prompt": 3}', r"jsonl:2: field 'prompt' is not a text"),
        ('{"prompt": "a"\n', r"jsonl:1: not a JSON object: Expecting"),
        ('["a"]', r"jsonl:1: not a JSON object$"),
        ("\n \n", r"jsonl is empty: give at least one prompt"),
    ],
)
def test_bad_json_lines_are_refused_with_their_line(tmp_path, content, message):
    file = tmp_path / "prompts.jsonl"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        load(file)


def test_bad_files_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"prompts\.path=.*nowhere\.txt: no such file"):
        load(tmp_path / "nowhere.txt")
    with pytest.raises(UserError, match=r"not a readable text file"):
        load(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"not a readable text file"):
        load(tmp_path / "binary")
    with pytest.raises(UserError, match=r"prompts\.path is missing"):
        load_contexts(FilePrompts(name="file"))
