"""A signed list of files: names, sizes and SHA-256, so that what runs on a machine is what was released.

    {"format": 1, "files": {"w.safetensors": {"bytes": 4008976, "sha256": "..."}}, "key": "...", "signature": "..."}

The signature (Ed25519) is of the files' part as JSON with sorted keys. Names are relative to the manifest's folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from vivim_runtime.errors import EvidenceError
from vivim_runtime.files import sha256_file, write_text
from vivim_runtime.signing import public_key, sign, verify
from vivim_runtime.text import parse_json

__all__ = ["read_key", "verify_manifest", "write_manifest"]

_FORMAT = 1


def _message(files: Any) -> bytes:
    return json.dumps({"format": _FORMAT, "files": files}, sort_keys=True, separators=(",", ":")).encode()


def read_key(given: str) -> bytes:
    """A key of 32 bytes: 64 hexadecimal digits, or a file that holds them.

    Raises:
        EvidenceError: it is neither.
    """
    text = given
    try:
        if Path(given).is_file():
            text = Path(given).read_text(encoding="ascii")
        key = bytes.fromhex(text.strip())
    except (OSError, ValueError):
        key = b""
    if len(key) != 32:
        raise EvidenceError(f"{given} is no key; expected 64 hexadecimal digits, or a file that holds them")
    return key


def write_manifest(manifest: Path, files: Iterable[Path], secret: bytes) -> None:
    """List files below the manifest's folder, and sign the list."""
    found = {
        file.relative_to(manifest.parent).as_posix(): {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
        for file in sorted(files)
    }
    content = {
        "format": _FORMAT,
        "files": found,
        "key": public_key(secret).hex(),
        "signature": sign(secret, _message(found)).hex(),
    }
    write_text(manifest, json.dumps(content, indent=1, sort_keys=True) + "\n")


def verify_manifest(manifest: Path, key: bytes) -> int:
    """How many files are those that the owner of the key signed.

    Args:
        key: public, and known from elsewhere than the manifest: anybody can sign with a key of their own.

    Raises:
        EvidenceError: the list, its signature, or a file is not what was signed.
    """
    try:
        content = parse_json(manifest.read_text(encoding="utf-8"))
        files, signature = content["files"], bytes.fromhex(content["signature"])
        entries = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvidenceError(f"{manifest} is no manifest: {error}") from None
    if content.get("format") != _FORMAT or not verify(key, _message(files), signature):
        raise EvidenceError(f"{manifest} was not signed with the key {key.hex()[:16]}..., or was changed since")
    for name, (size, digest) in entries.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise EvidenceError(f"{manifest} names {name}, which lies elsewhere")
        file = manifest.parent / path
        if not file.is_file():
            raise EvidenceError(f"{file} is missing")
        if file.stat().st_size != size or sha256_file(file) != digest:
            raise EvidenceError(f"{file} is not the file that was signed")
    return len(entries)
