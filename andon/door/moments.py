"""When something is done in a run: now and then, or with most of its steps."""

from dataclasses import dataclass

RARE = 0.5  # of a run's steps: passes without a backward pass that come more often are part of training
OFTEN = 8  # moments, from the first to the last of which something may come with most steps


@dataclass
class Moments:
    """Different numbers of the run's steps at which something was done."""

    count: int = 0
    first: int = 0
    last: int = 0

    def note(self, steps: int) -> None:
        """It is done now, after so many."""
        if not self.count or steps != self.last:
            self.first = self.first if self.count else steps
            self.count, self.last = self.count + 1, steps

    @property
    def share(self) -> float:
        """With how many of the steps it comes, from the first time to the last."""
        return self.count / (self.last - self.first + 1)

    @property
    def of_training(self) -> bool:
        """Whether it comes with most steps while it is done at all: a teacher's or a reference's passes."""
        return self.count >= OFTEN and self.count - 1 >= RARE * (self.last - self.first)
