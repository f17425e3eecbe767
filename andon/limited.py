"""Foreign regular expressions and tokenizers, tried first in a process of limited time and memory.

Both are small programs: an expression can backtrack for ever, forty normalizers can double a text forty times. This
file is also the script of that process, so it imports nothing of this package.
"""

import json
import re
import resource
import subprocess
import sys
from functools import cache

CPU_SECONDS, MEMORY_BYTES = 3, 1 << 30
WALL_SECONDS = 10 * CPU_SECONDS  # on a busy machine
QUANTIFIERS = re.compile(r"[*+?{]")  # without one an expression does not backtrack
PROBES = ("The quick brown fox, 12345!", "naïve Ünïcode ÀÉÎÕÜ 漢字 кириллица ₂", "  \t\n\r\n", "aaaaaaaaaaaaaaaa" * 16)
MAX_TOKENS = 100_000  # of the probes together; they have a few hundred characters


class LimitError(ValueError):
    """What the foreign program did; without its file's name."""


@cache
def matching(pattern: str, names: tuple[str, ...], foreign: str) -> tuple[str, ...]:
    """The names that an expression matches as a whole; `foreign` is what a stranger wrote of it.

    Raises:
        LimitError: it took too long.
    """
    if not QUANTIFIERS.search(foreign):
        return tuple(name for name in names if re.fullmatch(pattern, name))
    reply = _ask({"pattern": pattern, "names": names})
    return tuple(name for name, matches in zip(names, reply["matches"], strict=True) if matches)


@cache
def check_tokenizer(text: str) -> None:
    """Load a tokenizer.json and encode a few short texts.

    Raises:
        LimitError: that took too long or too much memory, failed, or made far too many tokens.
    """
    reply = _ask({"tokenizer": text})
    if "error" in reply:
        raise LimitError(reply["error"])


def _ask(request: dict[str, object]) -> dict[str, list[bool]]:
    command = [sys.executable, "-I", __file__]
    try:
        done = subprocess.run(
            command, input=json.dumps(request).encode(), check=False, capture_output=True, timeout=WALL_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise LimitError(f"did not end within {WALL_SECONDS} s") from error
    if done.returncode:
        raise LimitError(f"took more than {CPU_SECONDS} s or {MEMORY_BYTES >> 20} MiB, and was stopped")
    return json.loads(done.stdout)


def _answer(request: dict[str, str]) -> dict[str, object]:
    if "pattern" in request:
        expression = re.compile(request["pattern"])
        return {"matches": [expression.fullmatch(name) is not None for name in request["names"]]}
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(request["tokenizer"])
        tokenizer.no_padding()
        encoded = [tokenizer.encode(probe) for probe in PROBES]
        tokens = sum(len(each.ids) for each in encoded)
        for each in encoded:
            tokenizer.decode(each.ids)
    except Exception as error:  # noqa: BLE001 - the library raises Exception itself
        return {"error": f"is not a valid tokenizer.json ({error})"}
    return {"error": f"makes {tokens:,} tokens of a short text"} if tokens > MAX_TOKENS else {}


def _limit_process() -> None:
    for what, limit in (
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        _, most = resource.getrlimit(what)
        resource.setrlimit(what, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))


if __name__ == "__main__":
    _limit_process()
    json.dump(_answer(json.load(sys.stdin)), sys.stdout)
