"""Kinds of step: clusters of steps by the processor time of their phases.

A Gaussian mixture over logarithms, fitted by expectation and maximization (Bishop 2006, section 9.2); how many
components there are is the Bayesian information criterion's choice (Schwarz 1978). Two components are one kind unless a
phase differs by 1.6 times and by a tenth of the step. Needs numpy.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from andon.tracing.analysis.steps import Step

if TYPE_CHECKING:
    import numpy as np

MOST = 5  # components
TRIES = 3  # beginnings of a fit, of which the most likely stays
ROUNDS = 200
CONVERGED = 1e-6  # of the mean log-likelihood
LEAST_STEPS = 40
LEAST_SECONDS = 1e-5  # processor time is read no finer
FLOOR = 0.02**2  # variance of a logarithm: 2% is no difference
TIMES, OF_STEP = 1.6, 0.1
SHARE = 0.05  # of a step; phases that never reach it in a hundredth of all steps tell nothing
FEW = 0.01  # of all steps, at the least
EXAMPLES = 3


class Kind(NamedTuple):
    """Some steps that took alike: their share of all, seconds by phase, and examples by number."""

    share: float
    count: int
    phases: dict[str, float]
    examples: list[int]

    @property
    def seconds(self) -> float:
        """Of a step."""
        return sum(self.phases.values())


def kinds_of(steps: Sequence[Step]) -> list[Kind]:
    """The kinds of a run's steps, the most frequent first; none where there are too few steps."""
    own = [step for step in steps if not step.measuring and step.phases]
    if len(own) < LEAST_STEPS:
        return []
    names, seconds_NP = table_of(own)
    label_N = labels(seconds_NP)
    found = [_kind(own, names, seconds_NP, label_N == each) for each in sorted(set(label_N.tolist()))]
    return sorted(found, key=lambda kind: -kind.count)


def table_of(steps: Sequence[Step]) -> "tuple[list[str], np.ndarray]":
    """Phases that count, and their processor seconds, a step a row."""
    import numpy as np

    names = list(dict.fromkeys(name for step in steps for name in step.phases))
    rows = [[step.phases[name].cpu if name in step.phases else 0.0 for name in names] for step in steps]
    seconds_NP = np.maximum(np.array(rows), LEAST_SECONDS)
    share_NP = seconds_NP / seconds_NP.sum(axis=1, keepdims=True)
    counts_P = np.quantile(share_NP, 1 - FEW, axis=0) >= SHARE
    counts_P |= share_NP.sum(axis=0) == share_NP.sum(axis=0).max()
    return [name for name, counts in zip(names, counts_P, strict=True) if counts], seconds_NP[:, counts_P]


def _kind(steps: Sequence[Step], names: list[str], seconds_NP: "np.ndarray", own_N: "np.ndarray") -> Kind:
    import numpy as np

    phases = dict(zip(names, np.median(seconds_NP[own_N], axis=0).tolist(), strict=True))
    numbers = [steps[index].number for index in np.flatnonzero(own_N)[:EXAMPLES]]
    return Kind(float(own_N.mean()), int(own_N.sum()), phases, numbers)


def labels(seconds_NP: "np.ndarray") -> "np.ndarray":
    """The kind of each step, as a number."""
    import numpy as np

    log_NP = np.log(seconds_NP)
    fits = [fitted(log_NP, count) for count in range(1, MOST + 1)]
    label_N = min(fits, key=lambda fit: fit.criterion).label_N
    while pair := _alike(seconds_NP, label_N):
        label_N = np.where(label_N == pair[1], pair[0], label_N)
    return label_N


def _alike(seconds_NP: "np.ndarray", label_N: "np.ndarray") -> tuple[int, int] | None:
    """Two components that are one kind; a few steps alone belong to the nearest."""
    import numpy as np

    names = sorted(set(label_N.tolist()))
    middle = {name: np.median(seconds_NP[label_N == name], axis=0) for name in names}
    for index, one in enumerate(names):
        for other in names[:index]:
            low_P, high_P = np.minimum(middle[one], middle[other]), np.maximum(middle[one], middle[other])
            step = min(middle[one].sum(), middle[other].sum())
            if not ((high_P >= TIMES * low_P) & (high_P - low_P >= OF_STEP * step)).any():
                return other, one
    for name in names:
        if (label_N == name).mean() < FEW and len(names) > 1:
            others = [each for each in names if each != name]
            return min(others, key=lambda each: float(np.abs(np.log(middle[each] / middle[name])).sum())), name
    return None


class Fit(NamedTuple):
    """A mixture's most likely component for each step, and its criterion: the smaller, the better."""

    criterion: float
    label_N: "np.ndarray"


def fitted(log_NP: "np.ndarray", count: int) -> Fit:
    """A mixture of so many components with full covariances."""
    import numpy as np

    chance = np.random.default_rng(0)
    tries = [_expectation_maximization(log_NP, count, chance) for _ in range(TRIES if count > 1 else 1)]
    likelihood, label_N = max(tries, key=lambda each: each[0])
    steps, phases = log_NP.shape
    parameters = count * (phases + phases * (phases + 1) / 2) + count - 1
    return Fit(parameters * float(np.log(steps)) - 2 * likelihood * steps, label_N)


def _expectation_maximization(
    log_NP: "np.ndarray", count: int, chance: "np.random.Generator"
) -> "tuple[float, np.ndarray]":
    """The mean log-likelihood, and the most likely component of each step."""
    import numpy as np

    weight_NK, before = _beginning(log_NP, count, chance), -np.inf
    for _ in range(ROUNDS):
        joint_NK = _log_joint(log_NP, weight_NK)
        most_N = joint_NK.max(axis=1)
        total_N = most_N + np.log(np.exp(joint_NK - most_N[:, None]).sum(axis=1))
        weight_NK = np.exp(joint_NK - total_N[:, None])
        likelihood = float(total_N.mean())
        if likelihood - before < CONVERGED:
            break
        before = likelihood
    return likelihood, weight_NK.argmax(axis=1)


def _beginning(log_NP: "np.ndarray", count: int, chance: "np.random.Generator") -> "np.ndarray":
    """Each step to the nearest of steps that lie far apart (k-means++, Arthur and Vassilvitskii 2007)."""
    import numpy as np

    centers = [log_NP[chance.integers(len(log_NP))]]
    for _ in range(count - 1):
        far_N = np.min([((log_NP - center) ** 2).sum(axis=1) for center in centers], axis=0)
        centers.append(log_NP[chance.choice(len(log_NP), p=far_N / far_N.sum()) if far_N.sum() else 0])
    distance_NK = np.stack([((log_NP - center) ** 2).sum(axis=1) for center in centers], axis=1)
    return np.eye(count)[distance_NK.argmin(axis=1)]


def _log_joint(log_NP: "np.ndarray", weight_NK: "np.ndarray") -> "np.ndarray":
    """The logarithm of each component's weight times density, with parameters that fit the weights best."""
    import numpy as np

    phases = log_NP.shape[1]
    columns = []
    for weight_N in weight_NK.T:
        total = weight_N.sum() + 1e-9
        mean_P = weight_N @ log_NP / total
        off_NP = log_NP - mean_P
        covariance_PP = (off_NP * weight_N[:, None]).T @ off_NP / total + FLOOR * np.eye(phases)
        lower_PP = np.linalg.cholesky(covariance_PP)
        distance_N = (np.linalg.solve(lower_PP, off_NP.T) ** 2).sum(axis=0)
        half_volume = np.log(np.diag(lower_PP)).sum() + phases / 2 * np.log(2 * np.pi)
        columns.append(np.log(total / len(log_NP)) - half_volume - distance_N / 2)
    return np.stack(columns, axis=1)


def words(kinds: Sequence[Kind]) -> list[str]:
    """How many there are, how they differ, and example steps."""
    if not kinds:
        return [f"kinds of step: not measured, fewer than {LEAST_STEPS} steps with phases"]
    if len(kinds) == 1:
        return ["one kind of step"]
    usual, *others = kinds
    lines = [f"{len(kinds)} kinds of step", f"  {usual.share:.0%} take {1e3 * usual.seconds:.3g} ms"]
    for kind in others:
        names = sorted(kind.phases, key=lambda name: -abs(kind.phases[name] - usual.phases[name]))
        differs = ", ".join(f"{name} {kind.phases[name] / usual.phases[name]:.2g} times" for name in names[:2])
        steps = ", ".join(map(str, kind.examples))
        lines.append(f"  {kind.share:.0%} take {1e3 * kind.seconds:.3g} ms ({differs}), as steps {steps}")
    return lines
