"""Signatures by RFC 8032's own vectors, and what a manifest does not let pass."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vivim_runtime.errors import EvidenceError
from vivim_runtime.manifest import read_key, verify_manifest, write_manifest
from vivim_runtime.signing import public_key, sign, verify

# RFC 8032, 7.1: secret key, public key, message, signature.
VECTORS = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]
SECRET = bytes(range(32))


@pytest.mark.parametrize(("secret", "public", "message", "signature"), VECTORS)
def test_keys_and_signatures_are_those_of_the_standard(secret: str, public: str, message: str, signature: str) -> None:
    assert public_key(bytes.fromhex(secret)).hex() == public
    assert sign(bytes.fromhex(secret), bytes.fromhex(message)).hex() == signature
    assert verify(bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(signature))


@pytest.mark.parametrize("bit", [0, 100, 255, 256, 300, 511])
def test_a_signature_with_one_other_bit_is_refused(bit: int) -> None:
    signature = bytearray(sign(SECRET, b"a file"))
    signature[bit // 8] ^= 1 << bit % 8
    assert not verify(public_key(SECRET), b"a file", bytes(signature))


def test_what_is_no_signature_is_refused() -> None:
    signature, public = sign(SECRET, b"a file"), public_key(SECRET)
    order = 2**252 + 27742317777372353535851937790883648493
    longer = signature[:32] + (int.from_bytes(signature[32:], "little") + order).to_bytes(32, "little")
    for bad in (b"", signature[:63], signature + b"\0", bytes(64), longer):
        assert not verify(public, b"a file", bad)
    assert not verify(public, b"another", signature) and not verify(public_key(bytes(32)), b"a file", signature)
    assert not verify(bytes(31), b"a file", signature) and not verify(b"\xff" * 32, b"a file", signature)


@pytest.fixture
def released(tmp_path: Path) -> Path:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.safetensors").write_bytes(b"weights")
    (tmp_path / "a.whl").write_bytes(b"wheel")
    write_manifest(tmp_path / "manifest.json", [tmp_path / "a.whl", tmp_path / "weights" / "w.safetensors"], SECRET)
    return tmp_path / "manifest.json"


def test_files_as_signed_pass_and_the_manifest_is_the_same_each_time(released: Path) -> None:
    assert verify_manifest(released, public_key(SECRET)) == 2
    before = released.read_bytes()
    write_manifest(released, [released.parent / "weights" / "w.safetensors", released.parent / "a.whl"], SECRET)
    assert released.read_bytes() == before


def changed(manifest: Path, **values: object) -> None:
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **values}))


def test_nothing_that_was_changed_passes(released: Path) -> None:
    key = public_key(SECRET)
    with pytest.raises(EvidenceError, match="was not signed with the key"):
        verify_manifest(released, public_key(bytes(32)))
    (released.parent / "a.whl").write_bytes(b"WHEEL")  # of the same length
    with pytest.raises(EvidenceError, match=r"a\.whl is not the file that was signed"):
        verify_manifest(released, key)
    (released.parent / "a.whl").unlink()
    with pytest.raises(EvidenceError, match="is missing"):
        verify_manifest(released, key)
    changed(released, files={})  # a shorter list
    with pytest.raises(EvidenceError, match="or was changed since"):
        verify_manifest(released, key)
    changed(released, key=public_key(bytes(32)).hex(), signature="00" * 64)
    with pytest.raises(EvidenceError, match="or was changed since"):
        verify_manifest(released, key)
    for text in ("", "[]", '{"files": 1}', '{"files": {}, "signature": "xyz"}'):
        released.write_text(text)
        with pytest.raises(EvidenceError, match="is no manifest"):
            verify_manifest(released, key)


def test_a_signed_name_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out.txt").write_text("x")
    manifest = tmp_path / "in" / "manifest.json"
    files = {"../out.txt": {"bytes": 1, "sha256": "0"}}
    message = json.dumps({"format": 1, "files": files}, sort_keys=True, separators=(",", ":")).encode()
    content = {"format": 1, "files": files, "key": "", "signature": sign(SECRET, message).hex()}
    manifest.write_text(json.dumps(content))
    with pytest.raises(EvidenceError, match="lies elsewhere"):
        verify_manifest(manifest, public_key(SECRET))


def test_a_key_is_digits_or_a_file_of_them(tmp_path: Path) -> None:
    file = tmp_path / "key.pub"
    file.write_text(SECRET.hex() + "\n")
    assert read_key(str(file)) == read_key(SECRET.hex()) == SECRET
    for bad in ("", "abc", "zz" * 32, "00" * 31, str(tmp_path)):
        with pytest.raises(EvidenceError, match="is no key"):
            read_key(bad)
