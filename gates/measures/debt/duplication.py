"""Runs of statement lines that stand twice, in one file or in two."""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from andon.gates.measures.debt.lines import Line
from andon.gates.measures.debt.loss import Loss

RUN = 10
EACH = 0.2


def duplication_losses(files: Mapping[str, list[Line]]) -> Iterator[Loss]:
    """A loss for each run of lines that stands elsewhere too, at its first line; imports are not duplicates."""
    lines = {path: [line for line in file if not _imports(line)] for path, file in files.items()}
    places: dict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    for path, file in lines.items():
        for start in range(len(file) - RUN + 1):
            places[tuple(line.text for line in file[start : start + RUN])].append((path, start))
    twins: dict[str, dict[int, str]] = defaultdict(dict)  # by file: a duplicate line's index, and where its twin begins
    for found in places.values():
        for path, start in found:
            twin = next((each for each in found if _apart(each, (path, start))), None)
            if twin:
                for index in range(start, start + RUN):
                    twins[path].setdefault(index, f"{twin[0]}:{lines[twin[0]][twin[1]].number}")
    for path, indices in twins.items():
        for run in _runs(sorted(indices)):
            why = f"{len(run)} statement lines that also occur at {indices[run[0]]}"
            yield Loss(path, lines[path][run[0]].number, "duplication", round(EACH * len(run), 2), why)


def _apart(one: tuple[str, int], other: tuple[str, int]) -> bool:
    """Whether two runs share no line."""
    return one[0] != other[0] or abs(one[1] - other[1]) >= RUN


def _runs(indices: list[int]) -> Iterator[list[int]]:
    """Indices in groups without gaps."""
    group: list[int] = []
    for index in indices:
        if group and index != group[-1] + 1:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def _imports(line: Line) -> bool:
    return line.text.startswith(("import ", "from "))
