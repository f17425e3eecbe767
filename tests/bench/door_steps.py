"""`python -m tests.bench.door_steps OUT STEPS`: steps that are watched, in turn with steps that are not, one process.

Prints the differences in CPU seconds of each pair. The model has the tensors of `door_script`'s at a quarter of its
width: what watching reads of a tensor does not grow with it, and shorter steps vary less.
"""

import json
import sys
import time
from pathlib import Path

import click
import torch

from andon.door.observe import begin
from andon.door.watched_command import Limits, options_of
from tests.bench.door_script import GPT, WIDTH, batches, step


def main(out: str, count: int) -> None:
    """Measure, print."""
    torch.set_num_threads(1)
    run = begin(options_of(Path(out), Limits(whole=True, checks=False)))
    torch.manual_seed(0)
    model = GPT(WIDTH // 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, count)
    differences, seconds = [], {}
    for number, rows in enumerate(batches(2 * count)):
        watched = bool(number % 2) != bool(number // 2 % 2)  # each comes first in half of the pairs
        run.over, begun = not watched, time.thread_time()
        step(model, optimizer, rows)
        schedule.step()
        seconds[watched] = time.thread_time() - begun
        if number % 2:
            differences.append(seconds[True] - seconds[False])
    click.echo(json.dumps(differences))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
