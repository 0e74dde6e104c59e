"""What an image file says of its origin and of what may be done with it: XMP, written and read."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Literal, NamedTuple
from xml.sax.saxutils import escape

from PIL import Image

from artart import __version__

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class ImageProvenance(NamedTuple):
    """What an image says of its origin, for people and machines that meet it later."""

    source: Literal["trained", "composite"]  # made by a network alone, or by a network from somebody's image
    details: Mapping[str, object]  # checkpoint hash, seed, settings
    opt_out: str = ""  # what somebody's image said of data mining, as in FileProvenance: it is said on


IPTC_SOURCE = {
    "trained": "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia",
    "composite": "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia",
}
PLUS = "http://ns.useplus.org/ldf/vocab/"


def xmp(provenance: ImageProvenance) -> str:
    """An XMP packet: IPTC's DigitalSourceType, the tool, the details as a readable description, and PLUS's Data Mining.

    Source: IPTC Photo Metadata Standard 2023.2, "Digital Source Type", "Data Mining"; ISO 16684-1 (XMP).
    """
    mining = f"\n   <plus:DataMining>{PLUS}{escape(provenance.opt_out)}</plus:DataMining>" if provenance.opt_out else ""
    description = NOT_XML.sub("\ufffd", "; ".join(f"{name}={value}" for name, value in provenance.details.items()))
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/">
   <Iptc4xmpExt:DigitalSourceType>{IPTC_SOURCE[provenance.source]}</Iptc4xmpExt:DigitalSourceType>{mining}
   <xmp:CreatorTool>artart {escape(__version__)}</xmp:CreatorTool>
   <dc:description><rdf:Alt><rdf:li xml:lang="x-default">{escape(description)}</rdf:li></rdf:Alt></dc:description>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


AI_SOURCES = frozenset({"trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia", "compositeSynthetic"})
"""Terms for what a generative network made, edited, or made a part of.

Source: IPTC NewsCodes "Digital Source Type", http://cv.iptc.org/newscodes/digitalsourcetype/.
"""

# Foreign packets are searched, not parsed: XML can be a bomb, and a broken packet's wish still counts.
_PROHIBITED = re.compile(rb"DMI-PROHIBITED[A-Z-]{0,64}")
_SOURCE = re.compile(rb"https?://cv\.iptc\.org/newscodes/digitalsourcetype/([A-Za-z0-9]{1,64})")


class FileProvenance(NamedTuple):
    """What a file says of itself; "" for what it does not say."""

    opt_out: str  # PLUS "Data Mining", a term that prohibits: "DMI-PROHIBITED-AIMLTRAINING"
    source: str  # IPTC "Digital Source Type": "digitalCapture"


def provenance_of(image: Image.Image) -> FileProvenance:
    """What the XMP of a loaded image says; nothing in a file makes this raise.

    Of several sources one that is made by AI is reported. Source of the terms: PLUS LDF 2.0.1,
    http://ns.useplus.org/LDF/.
    """
    opt_outs, sources = [], []
    for packet in _packets(image):
        opt_outs += _PROHIBITED.findall(packet)
        sources += _SOURCE.findall(packet)
    terms = [term.decode() for term in sources]
    return FileProvenance(
        opt_outs[0].decode() if opt_outs else "",
        next((term for term in terms if term in AI_SOURCES), terms[0] if terms else ""),
    )


def _packets(image: Image.Image) -> Iterator[bytes]:
    """All that may hold XMP, where Pillow leaves it; UTF-16 and UTF-32 lose their zeros, so that ASCII is found."""
    values = [image.info.get(key) for key in ("xmp", "XML:com.adobe.xmp")]
    with suppress(Exception):  # what is too long for one segment of a JPEG lies in others
        values.append(b"".join(data for name, data in image.applist if name == "APP1"))  # type: ignore[attr-defined]
    with suppress(Exception):  # ImageMagick's form for PNG: a title, a length, hexadecimal digits
        values.append(bytes.fromhex("".join(image.info["Raw profile type xmp"].split()[2:])))
    for value in values:
        if isinstance(value, str):
            value = value.encode(errors="replace")
        if isinstance(value, bytes):
            yield value.replace(b"\0", b"")
