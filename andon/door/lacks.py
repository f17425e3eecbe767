"""Why a check was not asked, for somebody who wrote no Subject: what the door did not see, or could not tell."""

import re

UNDER_AUTOCAST = re.compile(r"or under autocast|that works? (in|under) autocast")
REMADE = "the pass as it ran, under autocast: what is captured is made again without it, in the weights' dtype"
# What checks say to those who can add to a Subject, and what it means here; `{0}` is the first group.
WORDS = (
    (r"^(.+) in the batch: name the part with Subject\(roles=.*$", "{0} in the batch: the door could not tell it"),
    (r"^(logits .+), not (\w+): give Subject\(logits=.*$", "{0}: the door saw the model return no such thing"),
    (r"^code that takes what this check changes \(Subject\.\w+ raised ([^\n]*?)\)?(?:\n.*)?$",
     "a captured pass that can be made again on other sizes or rows: it raised {0}"),
    (r"^hyperparameters\[.*?\], or (.+)$", "{0}: what else was meant the door cannot see"),
    (r"^hyperparameters\[(.*?)\]$", "{0} as it was meant: the door cannot see it"),
    (r"^labels that its gradient shows to be what the loss predicts$",
     "labels in the batch that the loss is seen to predict: its gradient shows other targets, or none"),
    (r"^(.+?)[:,;] (?:give |name |say )?[^:]*Subject\(.*$", "{0}: the door could not tell"),
    (r"^(.*?)\bSubject\.(\w+)\b(.*)$", "{0}the captured {1}{2}"),
)  # fmt: skip


def in_words(reason: str, *, autocast: bool = False) -> str:
    """A reason as the door says it; `autocast`: the script's own passes ran under it."""
    if autocast and UNDER_AUTOCAST.search(reason):
        return REMADE
    for pattern, said in WORDS:
        found = re.match(pattern, reason, re.DOTALL)
        if found:
            return said.format(*found.groups(default=""))
    return reason
