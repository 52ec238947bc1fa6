import io
import math

import numpy as np
import pandas as pd
import pytest

from reports.csv_rows import ROWS_AT_ONCE, csv_rows


def cells(values, places=6):
    return csv_rows([np.asarray(values)], places).decode().splitlines()


def test_numbers_by_hand():
    values = [0.0, -0.0, 1.5, -2.25, 100.0, 0.000012, -4e-7, 0.9999996, 1234.56789012, 1e-6, math.nan, -10.0]
    assert cells(values) == [
        "0.0", "0.0", "1.5", "-2.25", "100.0", "0.000012", "0.0", "1.0", "1234.56789", "0.000001", "", "-10.0",
    ]  # fmt: skip
    assert cells([7, -3, 0, 120]) == ["7", "-3", "0", "120"]
    assert cells([0.25, 3.0], places=1) == ["0.2", "3.0"]                # half to even, as numpy rounds
    assert cells([math.nan]) == [""]


def test_numbers_too_large_for_digits_are_written_as_python_does():
    assert cells([1e300, math.inf, -math.inf, math.nan, 0.5]) == ["1e+300", "inf", "-inf", "", "0.5"]
    assert cells([123456789012.25, 1.0]) == ["123456789012.25", "1.0"]


def test_texts_are_quoted_where_a_csv_needs_it():
    texts = np.array(["plain", "a,b", 'a "b"', "zwei\nzeilen", "größe", ""], dtype=object)
    rows = csv_rows(["one, name", texts, np.arange(6)], 6)
    back = pd.read_csv(io.BytesIO(rows), header=None, keep_default_na=False)
    assert back[0].tolist() == ["one, name"] * 6
    assert back[1].tolist() == texts.tolist() and back[2].tolist() == list(range(6))


@pytest.mark.parametrize("rows", [1, ROWS_AT_ONCE, ROWS_AT_ONCE + 7])
def test_rows_are_those_of_pandas(rows):
    random = np.random.default_rng(0)
    x = random.normal(size=rows) * 10.0 ** random.integers(-3, 8, size=rows)
    x[np.abs(x) < 1e-3] = 0.0                                    # below 1e-4, pandas writes exponents
    x[random.random(rows) < 0.1] = math.nan
    columns = {"x": x, "n": random.integers(-500, 500, size=rows), "k": random.integers(0, 2, size=rows, dtype=np.int8)}
    expected = pd.DataFrame(columns | {"x": np.round(x, 6)}).to_csv(index=False, header=False)
    assert csv_rows(list(columns.values()), 6).decode() == expected
