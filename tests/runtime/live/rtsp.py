"""An RTSP camera: H.264 in RTP within the TCP connection (RFC 2326, 6184); a process, so that it can be killed.

    python rtsp.py PORT --size 480x640 --then 240x512 --fps 25 --login doctor:secret --lose 0.02

The pictures say when they were made (see `sender`). Every connection begins with a key frame, and has one a second.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import socketserver
import struct
import time
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np

from tests.runtime.live.sender import picture

_CLOCK = 90_000  # ticks a second, of RTP
_MOST = 1_200  # bytes of a packet, as in an Ethernet frame
_REALM, _NONCE = "camera", "0123456789abcdef"
_SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
    "a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:video\r\n"
)


def units(sizes: list[tuple[int, int]], fps: int, change_at: int = 75) -> Iterator[tuple[int, list[bytes]]]:
    """Time stamps and NAL units of pictures in real time; of the next size from picture `change_at` on."""
    began = time.monotonic()
    for part, size in enumerate(sizes):
        encoder = av.CodecContext.create("libx264", "w")
        encoder.height, encoder.width, encoder.pix_fmt = *size, "yuv420p"
        encoder.framerate, encoder.time_base, encoder.gop_size = Fraction(fps), Fraction(1, fps), fps
        encoder.options = {"preset": "ultrafast", "tune": "zerolatency", "x264-params": "annexb=1:repeat-headers=1"}
        last = part == len(sizes) - 1
        index = part * change_at
        while last or index < (part + 1) * change_at:
            time.sleep(max(0.0, began + index / fps - time.monotonic()))
            frame = av.VideoFrame.from_ndarray(picture(size, index, time.monotonic()), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, fps)
            for packet in encoder.encode(frame.reformat(format="yuv420p")):
                yield index * _CLOCK // fps, [unit for unit in re.split(b"\0\0\0?\1", bytes(packet)) if unit]
            index += 1


def payloads(unit: bytes) -> Iterator[bytes]:
    """A NAL unit as it is, or in fragments (FU-A)."""
    if len(unit) <= _MOST:
        yield unit
        return
    parts = [unit[start : start + _MOST] for start in range(1, len(unit), _MOST)]
    for number, part in enumerate(parts):
        first, last = number == 0, number == len(parts) - 1
        yield bytes([unit[0] & 0xE0 | 28, first << 7 | last << 6 | unit[0] & 0x1F]) + part


class Connection(socketserver.StreamRequestHandler):
    args: argparse.Namespace

    def handle(self) -> None:
        while (request := self.rfile.readline().decode().split()) and len(request) == 3:
            headers = dict(line.split(": ", 1) for line in iter(lambda: self.rfile.readline().decode().strip(), ""))
            method, url, _ = request
            answer = [f"CSeq: {headers['CSeq']}", "Session: 1;timeout=60"]
            body = ""
            code = "200 OK"
            if not self._allowed(method, url, headers.get("Authorization", "")):
                code = "401 Unauthorized"
                answer.append(f'WWW-Authenticate: Digest realm="{_REALM}", nonce="{_NONCE}"')
            elif "/ward" not in url:
                code = "404 Not Found"
            elif method == "DESCRIBE":
                body = _SDP
                answer += [f"Content-Base: {url}/", "Content-Type: application/sdp", f"Content-Length: {len(body)}"]
            elif method == "SETUP" and "TCP" not in headers["Transport"]:
                code = "461 Unsupported Transport"
            elif method == "SETUP":
                answer.append("Transport: RTP/AVP/TCP;unicast;interleaved=0-1")
            self.wfile.write("\r\n".join([f"RTSP/1.0 {code}", *answer, "", body]).encode())
            if method == "PLAY" and code == "200 OK":
                self._play()
                return

    def _allowed(self, method: str, url: str, given: str) -> bool:
        """Whether the login is right (RFC 2617, digest), or none is asked for."""
        if not self.args.login or method == "OPTIONS":
            return True
        user, _, password = self.args.login.partition(":")
        secret, what = (
            hashlib.md5(text.encode()).hexdigest() for text in (f"{user}:{_REALM}:{password}", f"{method}:{url}")
        )
        right = hashlib.md5(f"{secret}:{_NONCE}:{what}".encode()).hexdigest()
        return f'response="{right}"' in given

    def _play(self) -> None:
        rng, number = np.random.default_rng(0), 0
        try:
            for stamp, parts in units(self.args.sizes, self.args.fps):
                data = [payload for unit in parts for payload in payloads(unit)]
                for place, payload in enumerate(data):
                    marker = place == len(data) - 1
                    head = struct.pack(">BBHII", 0x80, marker << 7 | 96, number & 0xFFFF, stamp, 1)
                    number += 1
                    if rng.random() >= self.args.lose:
                        self.wfile.write(struct.pack(">cBH", b"$", 0, len(head) + len(payload)) + head + payload)
        except OSError:  # the viewer has gone
            return


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--size", default="480x640")
    parser.add_argument("--then", help="another size, from the fourth second of a connection on")
    parser.add_argument("--fps", type=int, default=25)
    parser.add_argument("--login", help="user:password")
    parser.add_argument("--lose", type=float, default=0.0, help="share of the packets")
    args = parser.parse_args()
    sizes = [args.size, args.then] if args.then else [args.size]
    args.sizes = [tuple(map(int, size.split("x"))) for size in sizes]

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address, daemon_threads = True, True

    Connection.args = args
    with Server(("127.0.0.1", args.port), Connection) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
