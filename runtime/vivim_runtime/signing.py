"""Ed25519 signatures (RFC 8032) in plain Python, so that a bedside machine verifies files with the base install alone.

Slow, some ten milliseconds, and not constant in time: signing belongs on a machine where nobody measures it.
"""

from __future__ import annotations

import hashlib

__all__ = ["public_key", "sign", "verify"]

_P = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_ROOT = pow(2, (_P - 1) // 4, _P)  # of -1

# Extended coordinates (X, Y, Z, T): x = X/Z, y = Y/Z, xy = T/Z.
_Point = tuple[int, int, int, int]
_NEUTRAL: _Point = (0, 1, 1, 0)


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _hash(*parts: bytes) -> int:
    return _number(hashlib.sha512(b"".join(parts)).digest()) % _ORDER


def _add(p: _Point, q: _Point) -> _Point:
    a = (p[1] - p[0]) * (q[1] - q[0]) % _P
    b = (p[1] + p[0]) * (q[1] + q[0]) % _P
    c, d = 2 * p[3] * q[3] * _D % _P, 2 * p[2] * q[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _times(factor: int, point: _Point) -> _Point:
    result = _NEUTRAL
    while factor:
        if factor & 1:
            result = _add(result, point)
        point, factor = _add(point, point), factor >> 1
    return result


def _same(p: _Point, q: _Point) -> bool:
    return (p[0] * q[2] - q[0] * p[2]) % _P == 0 and (p[1] * q[2] - q[1] * p[2]) % _P == 0


def _x_of(y: int, odd: int) -> int | None:
    """The x of a point of the curve with this y and parity; None where there is none."""
    if y >= _P:
        return None
    square = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
    if square == 0:
        return None if odd else 0
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _ROOT % _P
    if (x * x - square) % _P:
        return None
    return _P - x if x & 1 != odd else x


_BASE_Y = 4 * pow(5, _P - 2, _P) % _P
_BASE_X = _x_of(_BASE_Y, 0)
assert _BASE_X is not None
_BASE: _Point = (_BASE_X, _BASE_Y, 1, _BASE_X * _BASE_Y % _P)


def _packed(point: _Point) -> bytes:
    inverse = pow(point[2], _P - 2, _P)
    x, y = point[0] * inverse % _P, point[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _unpacked(data: bytes) -> _Point | None:
    if len(data) != 32:
        return None
    y = _number(data)
    odd, y = y >> 255, y & (1 << 255) - 1
    x = _x_of(y, odd)
    return None if x is None else (x, y, 1, x * y % _P)


def _secrets(secret: bytes) -> tuple[int, bytes]:
    if len(secret) != 32:
        raise ValueError(f"a secret key has 32 bytes, not {len(secret)}")
    digest = hashlib.sha512(secret).digest()
    return _number(digest[:32]) & (1 << 254) - 8 | 1 << 254, digest[32:]


def public_key(secret: bytes) -> bytes:
    """The 32 bytes that others verify with."""
    return _packed(_times(_secrets(secret)[0], _BASE))


def sign(secret: bytes, message: bytes) -> bytes:
    """The signature (64 bytes) of a message; the same for the same message and key."""
    scalar, prefix = _secrets(secret)
    public = _packed(_times(scalar, _BASE))
    nonce = _hash(prefix, message)
    point = _packed(_times(nonce, _BASE))
    return point + ((nonce + _hash(point, public, message) * scalar) % _ORDER).to_bytes(32, "little")


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether a signature is of this message and of the owner of this key."""
    key, point = _unpacked(public), _unpacked(signature[:32])
    if key is None or point is None or len(signature) != 64:
        return False
    scalar = _number(signature[32:])
    if scalar >= _ORDER:  # the same signature in another form
        return False
    challenge = _hash(signature[:32], public, message)
    return _same(_times(scalar, _BASE), _add(point, _times(challenge, key)))
