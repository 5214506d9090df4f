"""Prompts from files of every kind, and what is refused with its line."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from klvi.contexts import Context
from klvi.errors import UserError
from klvi.prompts import files
from klvi.prompts.contexts import load_contexts
from klvi.prompts.schema import FilePrompts, NoPrompts

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


def contexts(file: Path, content: str | bytes | None = None, **options: Any) -> list[Context]:
    if content is not None:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_contexts(FilePrompts(name="file", path=str(file), **options))


def prompts(file: Path, content: str | bytes | None = None, **options: Any) -> list[str]:
    return [context.prompt for context in contexts(file, content, **options)]


def test_no_prompts_are_one_empty_prompt() -> None:
    assert load_contexts(NoPrompts(name="none")) == [Context(0)]


def test_a_text_per_line_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    content = "\ufeffOnce upon \n\n  \r\nDie Straße\u2028na\x0cch\r\nlast"
    assert prompts(tmp_path / "p.txt", content) == [
        "Once upon ",
        "Die Straße\u2028na\x0cch",
        "last",
    ]


@pytest.mark.parametrize(
    "text",
    ["[INST] Hello [/INST]", "{name} went home", "Yes, sir", "a\tb", '"Quoted", she said', "3,4"],
)
def test_texts_with_brackets_and_commas_are_texts(tmp_path: Path, text: str) -> None:
    assert prompts(tmp_path / "p.txt", f"{text}\nIt was, as ever, late;\n") == [
        text,
        "It was, as ever, late;",
    ]


@pytest.mark.parametrize("name", ["p.jsonl", "p.ndjson", "p.json", "p.txt", "p"])
@pytest.mark.parametrize("array", [False, True])
def test_json_lines_and_arrays_whatever_the_name(tmp_path: Path, name: str, array: bool) -> None:
    rows = [
        {"q": "two\nlines \x0c\u2028", "answer": 4, "deep": {"a": [1, None]}},
        {"q": "", "answer": 10**40, "deep": float("nan")},
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    content = json.dumps(rows, indent=1) if array else "\r\n\n".join(lines)
    loaded = contexts(tmp_path / name, content, field="q")
    assert [c.prompt for c in loaded] == ["two\nlines \x0c\u2028", ""]
    assert [c.row for c in loaded] == [0, 1]
    assert loaded[0].columns == {"answer": 4, "deep": {"a": [1, None]}}
    assert loaded[1].columns["answer"] == 10**40


def test_a_single_object_over_several_lines(tmp_path: Path) -> None:
    assert prompts(tmp_path / "p.json", '{\n "prompt": "a",\n "n": 1\n}') == ["a"]


@pytest.mark.parametrize(
    ("name", "delimiter"), [("p.csv", ","), ("p.txt", ","), ("p.csv", ";"), ("p.tsv", "\t")]
)
def test_csv(tmp_path: Path, name: str, delimiter: str) -> None:
    rows = [
        ("prompt", "answer", "code", "share"),
        ('"say ""hi"", twice;\n\tplease"', "4", "007", "0.5"),
        ("NA", "-12", "x", "1e3"),
        ("42", "0", "", "2"),
    ]
    content = "\ufeff" + "\r\n".join(delimiter.join(row) for row in rows) + "\r\n\r\n"
    loaded = contexts(tmp_path / name, content)
    assert [c.prompt for c in loaded] == ['say "hi", twice;\n\tplease', "NA", "42"]
    assert [c.columns["answer"] for c in loaded] == [4, -12, 0]
    assert [c.columns["code"] for c in loaded] == ["007", "x", ""]
    assert [c.columns["share"] for c in loaded] == [0.5, 1000.0, 2.0]


@pytest.mark.parametrize("name", ["p.parquet", "p.bin"])
def test_parquet_with_chats_and_plain_python_values(tmp_path: Path, name: str) -> None:
    messages = [{**message, "name": None} for message in CHAT]
    table = pyarrow.Table.from_pylist([{"messages": messages, "answer": "4", "n": [1, 2]}])
    pyarrow.parquet.write_table(table, tmp_path / name)
    (context,) = contexts(tmp_path / name)
    assert context.messages == CHAT
    assert context.columns == {"messages": CHAT, "answer": "4", "n": [1, 2]}
    assert type(context.columns["n"]) is list


def test_chats_of_json_in_messages_or_in_the_prompt(tmp_path: Path) -> None:
    rows = [{"messages": CHAT, "answer": 1}, {"prompt": CHAT}, {"prompt": "a", "messages": CHAT}]
    loaded = contexts(tmp_path / "p.jsonl", "\n".join(map(json.dumps, rows)))
    assert [c.messages for c in loaded] == [CHAT, CHAT, None]
    assert [c.columns["messages"] for c in loaded] == [CHAT] * 3
    assert loaded[2].prompt == "a"


def test_gzip_and_utf_16(tmp_path: Path) -> None:
    line = '{"prompt": "Zoë"}\n'
    assert prompts(tmp_path / "p.jsonl.gz", gzip.compress(line.encode())) == ["Zoë"]
    assert prompts(tmp_path / "p.txt", "Zoë\r\n".encode("utf-16")) == ["Zoë"]


def test_a_format_that_is_chosen_is_taken(tmp_path: Path) -> None:
    assert prompts(tmp_path / "p.txt", '{"prompt": "a"}\n', format="text") == ['{"prompt": "a"}']
    assert prompts(tmp_path / "p.txt", "prompt\nHi\n", format="csv") == ["Hi"]


DEEP = '{"prompt": "a", "x": ' + "[" * 100_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompt": "a"}\n\n{"text": 1, "n": 1}', r"l:3: no field 'prompt' \(it has: text, n\)"),
        ('{"prompt": "a"}\n{"prompt": 3}', r"l:2: field 'prompt' is not a text"),
        ('{"prompt": null}', r"l:1: field 'prompt' is not a text"),
        ('{"prompt": "a"\n', r"l:1: not a JSON object: Expecting"),
        ('["a"]', r"l:1: not a JSON object; write prompts as \{\"prompt\""),
        ('[{"prompt": "a"},\n\n {"prompt": 3}]', r"l:3: field 'prompt' is not a text"),
        ('[{"prompt": "a"}\n {"prompt": "b"}]', r"l:2: not JSON: a comma or \] is missing"),
        ('[{"prompt": "a"},\n {"prompt": b}]', r"l:2: not a JSON object: Expecting value"),
        ('[{"prompt": "a"}]\n7', r"l:2: not JSON: there is more after the array"),
        ("[]", r"l is empty"),
        ("\n \n", r"l is empty: give at least one prompt"),
        ('{"prompt": "a", "prompt": "b"}', r"l:1: .* the key 'prompt' is there twice"),
        ('{"prompt": "a", "n": ' + "9" * 5000 + "}", r"l:1: .* limit \(4300 digits\)"),
        (DEEP, r"l:1: .* nested too deeply"),
        (r'{"prompt": "\ud83d"}', r"l:1: field 'prompt' has half of a surrogate pair"),
        ("Just a text", r"l:1: not a JSON object.*"),
        ('{"messages": []}', r"l:1: field 'messages' has no message"),
        ('{"prompt": ["a"]}', r"l:1: .* list of messages with role and content"),
        (
            '{"messages": [{"from": "human", "value": "a"}]}',
            r"l:1: .* needs role and content \(it has: from, value\)",
        ),
        (
            '{"messages": [{"role": "assistant", "content": "a"}]}',
            r"l:1: .* prompts\.chat\.continue_final_message=true",
        ),
        (b'{"prompt": "a"}\n{"prompt": "Zo\xeb"}', r"l:2: not a readable text file.*UTF-8"),
        (b"PAR1 is no table", r"not a readable Parquet file"),
        (b"\x1f\x8bnot gzip", r"not a readable text file"),
    ],
)
def test_bad_files_are_refused_with_their_line(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        contexts(tmp_path / "prompts.jsonl", content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompt": "a"}\nb', r"txt:2: not a JSON object.*prompts\.format=text"),
        ("a\n" + '{"prompt": "b"}', r"txt:1: not a JSON object.*prompts\.format=text"),
        ("{'prompt': 'a'}", r"txt:1: not a JSON object.*prompts\.format=text"),
        ("prompt\nHi\n", r"looks like CSV.*prompts\.format=csv.*prompts\.format=text"),
        ("question,answer\na,b\n", r"looks like CSV: set prompts\.field"),
        ("Question;Best answer\nWho?;Me\n", r"looks like CSV: set prompts\.field"),
        ("question,answer\nWho, really?,Me\n", r"looks like CSV: set prompts\.field"),
        ('"Who?","Me"\n"What?","It"\n', r"looks like CSV: set prompts\.field"),
        ("prompt,answer\na,b,c\n", r"txt:2: has 3 cells, and the header 2.*prompts\.format=text"),
        ('prompt,answer\n"a,b\n', r"txt:2: not CSV.*double the quotes"),
        ("prompt,prompt\na,b\n", r"txt:1: the column 'prompt' is there twice"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:1\n", r"git lfs pull"),
        ('prompt,answer\na,b\n"c"d,e\n', r"txt:3: not CSV.*double the quotes"),
        ("a\0b", r"txt:1: not a readable text file"),
    ],
)
def test_what_looks_like_data_is_not_read_as_texts(
    tmp_path: Path, content: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        contexts(tmp_path / "prompts.txt", content)


def test_options_that_a_file_has_no_use_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"prompts\.field=question: .*plain text"):
        contexts(tmp_path / "p.txt", "What?\n", field="question")
    with pytest.raises(UserError, match=r"prompts\.chat: .*has texts; give `messages`"):
        contexts(tmp_path / "p.txt", "What?\n", chat={"enable_thinking": False})


@pytest.mark.parametrize("name", ["p.yaml", "p.parquet", "p.xml"])
def test_other_data_is_not_read_as_texts(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"give JSON, CSV or Parquet; prompts\.format=text"):
        contexts(tmp_path / name, "- prompt: a\n- prompt: b\n")


def test_numbers_of_csv_are_those_that_are_written(tmp_path: Path) -> None:
    cells = {"n": ("1", "9" * 40), "m": ("0.5", "9" * 40), "z": ("-0", "1"), "e": ("1", "")}
    table = [("prompt", *cells), *zip(("a", "b"), *cells.values(), strict=True)]
    lines = map(",".join, table)
    rows = contexts(tmp_path / "p.csv", "\n".join(lines))
    assert [list(c.columns.values()) for c in rows] == [
        [1, "0.5", "-0", "1"],
        [10**40 - 1, "9" * 40, "1", ""],
    ]


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"prompts\.path=.*nowhere\.txt: no such file"):
        contexts(tmp_path / "nowhere.txt")
    with pytest.raises(UserError, match=r"not a readable text file"):
        contexts(tmp_path)
    with pytest.raises(UserError, match=r"not a readable text file"):
        contexts(tmp_path / "binary", b"\xff\xfe\x00")


def test_half_a_surrogate_pair_is_refused_in_any_field_and_name(tmp_path: Path) -> None:
    for other in ('"x": "\\udc80"', '"x\\ud800": 1'):
        with pytest.raises(UserError, match=r"p\.jsonl:1: field 'x.* has half of a surrogate"):
            contexts(tmp_path / "p.jsonl", f'{{"prompt": "a", {other}}}')


def test_what_is_no_file_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UserError, match=r"^prompts\.path=.*fifo: .*is a FIFO, not a file$"):
        contexts(tmp_path / "fifo")


def test_small_files_that_hold_too_much_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 10_000)
    column = pyarrow.array(["a" * 1000] * 100)
    pyarrow.parquet.write_table(pyarrow.table({"prompt": column}), tmp_path / "p.parquet")
    (tmp_path / "p.gz").write_bytes(gzip.compress(b"a" * 20_000))
    for name in ("p.parquet", "p.gz"):
        with pytest.raises(UserError, match=rf"{name}: .*holds more than 10,000 bytes"):
            contexts(tmp_path / name)
