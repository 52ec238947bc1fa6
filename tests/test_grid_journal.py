import json

import pytest

from grid.journal import append_record, read_journal
from utils import DataError

ONE, TWO = {"key": "a", "status": "finished", "val_loss": 0.5}, {"key": "b", "status": "failed", "error": "x"}


@pytest.fixture
def journal(tmp_path):
    path = tmp_path / "journal.jsonl"
    for record in (ONE, TWO):
        append_record(path, record)
    return path


def test_records_come_back_in_order(journal, tmp_path):
    assert read_journal(journal) == [ONE, TWO]
    assert read_journal(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("torn", [b"{", b'{"key": "c", "stat', b'{"key": "c", "status": "x"}', b"\0\0\0\n", b"7\n"])
def test_a_torn_last_line_is_cut_off_and_the_next_record_is_whole(journal, torn):
    with journal.open("ab") as file:
        file.write(torn)
    assert read_journal(journal) == [ONE, TWO]
    append_record(journal, ONE)
    assert read_journal(journal) == [ONE, TWO, ONE]


def test_a_damaged_line_in_the_middle_is_an_error(journal):
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0][:10] + b"\n" + lines[1])
    with pytest.raises(DataError, match="line 1 is no record"):
        read_journal(journal)


def test_numbers_that_json_has_not_become_null(journal):
    append_record(journal, ONE | {"val_loss": float("nan")})
    assert json.loads(journal.read_text().splitlines()[-1])["val_loss"] is None
