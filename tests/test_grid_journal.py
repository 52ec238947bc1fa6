import json

import pytest

from grid.search import Journal
from utils import DataError

ONE = {"key": "a", "until": None, "status": "finished", "val_loss": 0.5}
TWO = {"key": "b", "until": 3, "status": "failed", "error": "x"}


@pytest.fixture
def journal(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    for record in (ONE, TWO):
        journal.add(record)
    return path


def test_records_come_back_in_order(journal, tmp_path):
    assert Journal(journal).records == [ONE, TWO]
    assert Journal(tmp_path / "none.jsonl").records == []


@pytest.mark.parametrize("torn", [b"{", b'{"key": "c", "stat', b'{"key": "c", "status": "x"}', b"\0\0\0\n", b"7\n"])
def test_a_torn_last_line_is_cut_off_and_the_next_record_is_whole(journal, torn):
    with journal.open("ab") as file:
        file.write(torn)
    assert Journal(journal).records == [ONE, TWO]
    Journal(journal).add(ONE)
    assert Journal(journal).records == [ONE, TWO, ONE]


def test_a_damaged_line_in_the_middle_is_an_error(journal):
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0][:10] + b"\n" + lines[1])
    with pytest.raises(DataError, match="line 1 is no record"):
        Journal(journal)


def test_numbers_that_json_has_not_become_null(journal):
    Journal(journal).add(ONE | {"val_loss": float("nan")})
    assert json.loads(journal.read_text().splitlines()[-1])["val_loss"] is None
