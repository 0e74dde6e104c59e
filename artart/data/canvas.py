"""Sizes of images whose pixels take memory as soon as they are opened, from their first bytes."""

import re
import struct


def canvas_of(head: bytes) -> tuple[int, int]:
    """The size of a GIF, WebP or JPEG XL, which take memory for pixels when they are opened; (0, 0) of other formats.

    Source: GIF89a, 18; RFC 9649 (WebP), 2.5 to 2.7; RFC 6386 (VP8), 9.1.
    """
    if head.startswith(b"GIF8") and len(head) >= 10:
        return struct.unpack_from("<HH", head, 6)
    if len(head) >= 30 and head.startswith(b"RIFF"):
        if head[8:16] == b"WEBPVP8X":
            return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
        if head[8:16] == b"WEBPVP8L":
            bits = int.from_bytes(head[21:25], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        if head[8:16] == b"WEBPVP8 ":
            width, height = struct.unpack_from("<HH", head, 26)
            return width & 0x3FFF, height & 0x3FFF
    if (start := _code_stream(head)) is not None:
        return _of_size_header(int.from_bytes(head[start + 2 : start + 12], "little"))
    return 0, 0


def _code_stream(head: bytes) -> int | None:
    """Where the code stream of a JPEG XL begins: bare, or in a box jxlc or jxlp. Source: ISO/IEC 18181-2."""
    if head.startswith(b"\xff\x0a"):
        return 0
    found = re.search(rb"jxl[cp].{0,12}?\xff\x0a", head, re.DOTALL) if head[4:8] == b"JXL " else None
    return found and found.end() - 2


def _of_size_header(bits: int) -> tuple[int, int]:
    """Width and height in a SizeHeader, whose fields begin at the lowest bit. Source: ISO/IEC 18181-1."""

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if small else 1 + take((9, 13, 18, 30)[take(2)])

    height, ratio = side(), take(3)
    if ratio == 0:
        return side(), height
    across, down = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
    return height * across // down, height
