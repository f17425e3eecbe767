"""Texts that are generated with a cache of keys and values."""

from andon.door.records import Run
from andon.door.statements.statement import Statement
from andon.verify.errors import CheckFailed, NotApplicable


def check_cache(run: Run) -> None:
    """A token that is read with a cache of what came before has the answer that it has in the whole row.

    Asked where a module in eval mode is given a prompt and then one token for each row at a time, beside a cache that
    is as the pass before left it. A copy of the process calls it on the whole row, as it was called on the prompt;
    asked of modules whose answer for a token is the same whatever follows it.

    Silent because text comes all the same: each token is drawn from the answer to another text.

    Look at the positions of tokens after the prompt, at where keys and values are written in the cache, at the mask
    of a single query, and at what is rotated or normalized before it is kept.
    """
    seen = [each for each in run.cached if not each.lack]
    if not seen:
        lack = next((each.lack for each in run.cached), "")
        raise NotApplicable(lack or "texts that are generated in eval mode with a cache, a token at a time")
    found = [each for each in seen if each.apart > each.close]
    if found:
        worst = max(found, key=lambda each: each.apart)
        where = f" ({worst.line})" if worst.line else ""
        raise CheckFailed(
            f"{worst.kind} was given a prompt of {worst.prompt} tokens and then one at a time, with a cache{where}; "
            f"its answer for the last differs from that in the whole row by {worst.apart:.2g} of its size"
        )


STATEMENTS = (Statement("run.cache", check_cache),)
