"""Aligned columns, hand-drawn."""

from scalerl.common.table import format_table


def test_columns_are_as_wide_as_their_widest_cell():
    rows = [["a", 12, 0.123456], ["longer", 5, None], ["", 100, 2.0]]
    assert format_table(rows, ["run", "n", "rate"], align="<>").splitlines() == [
        "run       n  rate",
        "a        12  0.1235",
        "longer    5  -",
        "        100  2",
    ]


def test_a_table_may_have_no_header_and_no_rows():
    assert format_table([["x", "y"], ["xx", "z"]]) == "x   y\nxx  z"
    assert format_table([], ["a", "b"]) == "a  b"
    assert format_table([]) == ""
