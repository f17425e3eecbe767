"""A row of each kind, for the tests of what is shown and kept of injected faults."""

from andon.verify.faults.rows import CHECK, ERROR, FOUND, PARITY, TEST, UNFOUND, Row

ROWS = [
    Row(
        "a",
        "shapes",
        "historical",
        "x",
        state=FOUND,
        way=CHECK,
        checks=("shapes.count", "shapes.order"),
        tier=1,
        seconds=1,
    ),
    Row("b", "shapes", "pattern", "x", state=FOUND, way=PARITY, checks=("reference.logits",), tier=2, seconds=2),
    Row("c", "order", "transposed", "x", state=FOUND, way=TEST, checks=("tests/x.py::test_y",)),
    Row("d", "order", "historical", "x", state=UNFOUND, detail="differs in loss"),
    Row("e", "order", "historical", "<script>", state=ERROR, detail="no longer applies"),
]
