"""What a terminal or a record is shown of foreign text: nothing that steers a terminal, and no secret."""

import re

# Control characters but tab and line feed, characters that reverse a line's direction, and halves of pairs.
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# A URL's user and password, its query, and its fragment.
SECRETS = re.compile(r"(\b[a-z][a-z0-9+.-]*://)(?:\S*@)?([^\s?#'\"]*)([?#][^\s'\"]*)?", re.IGNORECASE)


def clean(text: str) -> str:
    r"""The text with what would steer a terminal written out, as `\x1b`."""
    return STEERING.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), text)


def without_secrets(text: str) -> str:
    """The text with the user, password and query of every URL left out: `http://***@host/path?***`."""

    def masked(match: re.Match[str]) -> str:
        user = "***@" if "@" in match[0].removesuffix(match[3] or "") else ""
        return f"{match[1]}{user}{match[2]}{match[3][0] + '***' if match[3] else ''}"

    return SECRETS.sub(masked, text)
