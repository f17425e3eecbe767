"""A checkpoint's manifest, sealed again so that its fields are reached, and the header of its tensors."""

import json
from contextlib import suppress

from andon.core.files import headers, manifest
from andon.core.files.headers import HeaderError, read_header
from andon.core.files.manifest import MANIFEST, MODEL, CheckpointError, check_files, read_manifest
from andon.sealing import SEAL, seal
from tests.fuzz.files import FOLDER, parts, written

REFUSALS = (CheckpointError, HeaderError)
PARSER = {
    manifest: ("read_manifest", "check_files", "_record"),
    headers: ("read_header", "parse_header", "check_tiling", "_without_duplicates", "_tensor_entry", "_are_sizes"),
}


def one(data: bytes) -> None:
    """A header with its data, then a manifest: as it is, and with a seal that fits."""
    manifest, tensors = parts(data, 2)
    path = written(MODEL, len(tensors).to_bytes(8, "little") + tensors if tensors[:1] == b"{" else tensors)
    with suppress(HeaderError):
        read_header(path)
    written(MANIFEST, _sealed(manifest))
    check_files(FOLDER, read_manifest(FOLDER))


def _sealed(content: bytes) -> bytes:
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        return content
    if not isinstance(fields, dict) or SEAL in fields:
        return content
    try:
        return seal(fields)
    except RecursionError:
        return content
