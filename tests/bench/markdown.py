"""Tables of Markdown, and figures in them."""


def table(header: list[str], rows: list[list[str]]) -> str:
    """Markdown that reads as a table in a terminal too: columns padded, those of numbers to the right."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [place > 0 and all(map(is_figure, column[1:])) for place, column in enumerate(columns)]
    rule = [f"{'-' * (width - 1)}{':' if is_right else '-'}" for width, is_right in zip(widths, right, strict=True)]
    lines = []
    for cells in (header, rule, *rows):
        aligned = zip(cells, widths, right, strict=True)
        padded = [cell.rjust(width) if is_right else cell.ljust(width) for cell, width, is_right in aligned]
        lines.append(f"| {' | '.join(padded)} |")
    return "\n".join(lines)


def is_figure(cell: str) -> bool:
    """Whether a cell holds a number, or says that there is none."""
    return not cell or cell[0].isdigit() or cell == "not measured"


def interval(found: dict[str, float]) -> str:
    """A ratio with its interval."""
    return f"{found['ratio']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def number(value: float | None, form: str, scale: float = 1) -> str:
    """A value in a format, or that it was not measured."""
    return "not measured" if value is None else format(value * scale, form)


def ms(seconds: float) -> str:
    """Seconds as milliseconds."""
    return number(seconds, ".0f", 1000)


def mb(size: float | None) -> str:
    """Bytes as megabytes."""
    return number(size, ".0f", 1e-6)


def gb(size: float) -> str:
    """Bytes as gigabytes."""
    return number(size, ".3f", 1e-9)
