"""What Pillow does not do with a PNG: checksums, metadata that it cannot read, and cICP."""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from PIL import PngImagePlugin

from artart.data.layouts import Unsupported

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXELS = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"}  # chunks that make them

PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # 64 MB; long texts and profiles are no damage


def readable(file: BinaryIO) -> tuple[BinaryIO, int, tuple[int, ...]]:
    """A PNG without what would stop Pillow: the file or a copy, its bits per channel, and its cICP; empty: none.

    The copy lacks metadata that are damaged or cannot be read. The cICP is primaries, transfer function, matrix, full
    range (ITU-T H.273).

    Raises ValueError if the checksum of a chunk that makes the pixels is wrong; Unsupported if it has a chunk that is
    needed and not in the standard, such as Apple's CgBI.
    """
    cicp: tuple[int, ...] = ()
    dropped, start, bits = list[slice](), len(SIGNATURE), 8
    stream = PngImagePlugin.PngStream(io.BytesIO())
    for kind, data, is_intact in _chunks(file):
        if kind not in PIXELS and not kind[0] & 32:
            raise Unsupported("PNG", f"a chunk {kind.decode('latin-1')!r}")
        if kind in PIXELS and not is_intact:
            raise ValueError(f"the checksum of {kind.decode()} is wrong")
        end = start + 12 + len(data)
        if kind not in PIXELS and not (is_intact and _pillow_reads(stream, kind, data)):
            dropped.append(slice(start, end))
        start = end
        if kind == b"IHDR" and len(data) == 13:
            bits = data[8]
            _pillow_reads(stream, kind, data)  # the mode is needed to read others
        if kind == b"cICP" and is_intact and len(data) == 4:
            cicp = tuple(data)
    if dropped:
        file.seek(0)
        content = bytearray(file.read())
        for part in reversed(dropped):
            del content[part]
        file = io.BytesIO(content)
    return file, bits, cicp


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes, bool]]:
    """Kind, data, and whether the checksum is right, of each chunk up to the last complete one."""
    file.seek(len(SIGNATURE))
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        data, checksum = file.read(length), file.read(4)
        if len(checksum) < 4:
            return
        yield kind, data, zlib.crc32(data, zlib.crc32(kind)) == int.from_bytes(checksum)
        if kind == b"IEND":
            return


def _pillow_reads(stream: PngImagePlugin.PngStream, kind: bytes, data: bytes) -> bool:
    if kind in (b"fcTL", b"fdAT") and stream.im_n_frames is None:  # of an animation whose header is damaged
        return False
    stream.fp = io.BytesIO(data)
    try:
        stream.call(kind, 0, len(data))
    except (EOFError, AttributeError):  # a frame; a kind that Pillow ignores
        return True
    except Exception:  # noqa: BLE001 - Pillow's decoders raise nearly anything on damaged bytes
        return False
    return True
