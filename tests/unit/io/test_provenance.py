import io
import struct
import time
import xml.etree.ElementTree as ET
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from artart.data.decode import FORMATS, open_image, upright
from artart.io.images import save
from artart.io.provenance import AI_SOURCES, MAX_TEXTS, WINDOW, FileProvenance, ImageProvenance, provenance_of, xmp

OPT_OUT = "DMI-PROHIBITED-AIMLTRAINING"
PLUS = f"http://ns.useplus.org/ldf/vocab/{OPT_OUT}"
SOURCE = "compositeSynthetic"
IPTC = f"http://cv.iptc.org/newscodes/digitalsourcetype/{SOURCE}"
SPACES = (
    'xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
)
FORMS = {
    "attributes": f'plus:DataMining="{PLUS}" Iptc4xmpExt:DigitalSourceType="{IPTC}"/>',
    "single quotes": f"plus:DataMining='{PLUS}' Iptc4xmpExt:DigitalSourceType='{IPTC}'/>",
    "elements": f"""><plus:DataMining>{PLUS}</plus:DataMining>
        <Iptc4xmpExt:DigitalSourceType>{IPTC}</Iptc4xmpExt:DigitalSourceType></rdf:Description>""",
    "resources": f"""><plus:DataMining rdf:resource="{PLUS}"/>
        <Iptc4xmpExt:DigitalSourceType rdf:resource="{IPTC}"/></rdf:Description>""",
    "other prefixes": f'p:DataMining="{PLUS}" i:DigitalSourceType="{IPTC}"/>',
    "https": f'plus:DataMining="{PLUS}" Iptc4xmpExt:DigitalSourceType="{IPTC}"/>'.replace("http:", "https:"),
    "broken": f'<<& plus:DataMining="{PLUS}" "" Iptc4xmpExt:DigitalSourceType="{IPTC}',
}


def packet(form: str = "attributes") -> bytes:
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF {SPACES}><rdf:Description rdf:about="" {FORMS[form]}</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def bearing(info: object) -> Image.Image:
    image = Image.new("RGB", (8, 8))
    image.info["xmp"] = info
    return image


def provenance_in(file: io.BytesIO | Path) -> FileProvenance:
    """As the data module asks: of an image that is loaded, turned and converted, and of its file."""
    with open_image(file) as image:
        upright(image)
        content = file.read_bytes() if isinstance(file, Path) else file.getvalue()
        return provenance_of(image, io.BytesIO(content))


def written(kind: str, **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, format=kind, **options)
    return file


def text_of(written: str, tag: str) -> str:
    names = {
        "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
        "xmp": "http://ns.adobe.com/xap/1.0/",
        "dc": "http://purl.org/dc/elements/1.1/",
        "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    }
    text = ET.fromstring(written).findtext(f".//{tag}", namespaces=names)
    assert text is not None
    return text


# --- written

SOURCES = [("trained", "trainedAlgorithmicMedia"), ("composite", "compositeWithTrainedAlgorithmicMedia")]


@pytest.mark.parametrize(("source", "term"), SOURCES)
def test_a_packet_says_how_an_image_was_made(source: Any, term: str) -> None:
    provenance = xmp(ImageProvenance(source, {}))
    expected = f"http://cv.iptc.org/newscodes/digitalsourcetype/{term}"
    assert text_of(provenance, "Iptc4xmpExt:DigitalSourceType") == expected
    assert text_of(provenance, "xmp:CreatorTool").startswith("artart ")


def test_details_may_hold_any_character() -> None:
    name = "César <b>&amp; \"Söhne\" 'é' 北斎 🎨 ]]>.jpg"
    provenance = xmp(ImageProvenance("trained", {"input": name, "seed": 7}))
    assert text_of(provenance, "dc:description/rdf:Alt/rdf:li") == f"input={name}; seed=7"


def test_characters_that_xml_cannot_hold_are_replaced() -> None:
    provenance = xmp(ImageProvenance("trained", {"input": "a\x00b\x1bc\udce9d\ufffe"}))
    assert text_of(provenance, "dc:description/rdf:Alt/rdf:li") == "input=a\ufffdb\ufffdc\ufffdd\ufffd"


# --- read


@pytest.mark.parametrize(("source", "term"), SOURCES)
def test_our_own_images_are_known_again(source: Any, term: str, tmp_path: Path) -> None:
    save(torch.zeros(3, 8, 8, dtype=torch.uint8), tmp_path / "image.png", ImageProvenance(source, {"seed": 7}))
    assert provenance_in(tmp_path / "image.png") == FileProvenance(opt_out="", source=term)
    assert term in AI_SOURCES


@pytest.mark.parametrize("form", FORMS)
def test_marks_are_found_in_every_form(form: str) -> None:
    assert provenance_of(bearing(packet(form))) == FileProvenance(OPT_OUT, SOURCE)
    assert provenance_of(bearing(packet(form).decode())) == FileProvenance(OPT_OUT, SOURCE)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_marks_are_found_in_every_encoding(encoding: str) -> None:
    assert provenance_of(bearing(packet().decode().encode(encoding))) == FileProvenance(OPT_OUT, SOURCE)


@pytest.mark.parametrize(
    "kind", [name for name in ("JPEG", "WEBP", "TIFF", "AVIF", "MPO") if name in (*FORMATS, "MPO")]
)
def test_marks_are_found_in_every_format(kind: str) -> None:
    several = {"save_all": True, "append_images": [Image.new("RGB", (8, 8))]} if kind == "MPO" else {}
    options: dict[str, Any] = {"tiffinfo": {700: packet()}} if kind == "TIFF" else {"xmp": packet()}
    assert provenance_in(written(kind, **options, **several)) == FileProvenance(OPT_OUT, SOURCE)


@pytest.mark.parametrize("compressed", [False, True])
def test_marks_are_found_in_a_png(compressed: bool) -> None:
    chunks = PngInfo()
    chunks.add_itxt("XML:com.adobe.xmp", packet().decode(), zip=compressed)
    assert provenance_in(written("PNG", pnginfo=chunks)) == FileProvenance(OPT_OUT, SOURCE)


def test_marks_are_found_in_the_plain_text_of_a_png() -> None:
    chunks = PngInfo()
    chunks.add_text("XML:com.adobe.xmp", packet().decode("latin-1"))
    assert provenance_in(written("PNG", pnginfo=chunks)) == FileProvenance(OPT_OUT, SOURCE)


def test_marks_are_found_where_imagemagick_writes_them() -> None:
    digits = packet().hex()
    lines = "\n".join(digits[i : i + 72] for i in range(0, len(digits), 72))
    chunks = PngInfo()
    chunks.add_text("Raw profile type xmp", f"\nxmp\n{len(packet()):8}\n{lines}\n", zip=True)
    assert provenance_in(written("PNG", pnginfo=chunks)) == FileProvenance(OPT_OUT, SOURCE)


def test_marks_are_found_behind_the_pixels_of_a_png() -> None:
    text = b"XML:com.adobe.xmp" + bytes(5) + packet()
    chunk = struct.pack(">I", len(text)) + b"iTXt" + text + struct.pack(">I", zlib.crc32(b"iTXt" + text))
    content = written("PNG").getvalue()
    end = content.index(b"IEND") - 4
    assert provenance_in(io.BytesIO(content[:end] + chunk + content[end:])) == FileProvenance(OPT_OUT, SOURCE)


def test_marks_are_found_in_a_turned_image() -> None:
    """Pillow edits the packet of an image that it turns."""
    exif = Image.Exif()
    exif[0x0112] = 6
    assert provenance_in(written("JPEG", xmp=packet(), exif=exif)) == FileProvenance(OPT_OUT, SOURCE)


def test_marks_are_found_in_the_second_part_of_a_long_packet() -> None:
    """XMP part 3: what does not fit into one segment of a JPEG follows in others, under another name."""
    part = b"http://ns.adobe.com/xmp/extension/\0" + bytes(40) + packet()
    segment = b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part
    content = written("JPEG", xmp=b"<x:xmpmeta/>").getvalue()
    assert provenance_in(io.BytesIO(content[:2] + segment + content[2:])) == FileProvenance(OPT_OUT, SOURCE)


@pytest.mark.parametrize(
    "term",
    [
        "DMI-PROHIBITED",
        "DMI-PROHIBITED-AIMLTRAINING",
        "DMI-PROHIBITED-GENAIMLTRAINING",
        "DMI-PROHIBITED-EXCEPTSEARCHENGINEINDEXING",
        "DMI-PROHIBITED-SEECONSTRAINT",
    ],
)
def test_every_term_that_prohibits_is_an_opt_out(term: str) -> None:
    assert provenance_of(bearing(packet().replace(OPT_OUT.encode(), term.encode()))).opt_out == term


@pytest.mark.parametrize("term", ["DMI-ALLOWED", "DMI-UNSPECIFIED"])
def test_a_term_that_does_not_prohibit_is_none(term: str) -> None:
    assert provenance_of(bearing(packet().replace(OPT_OUT.encode(), term.encode()))) == FileProvenance("", SOURCE)


def test_of_several_sources_the_one_made_by_ai_is_reported() -> None:
    terms = ("digitalCapture", "trainedAlgorithmicMedia", "compositeSynthetic")
    text = " ".join(f"http://cv.iptc.org/newscodes/digitalsourcetype/{term}" for term in terms)
    assert provenance_of(bearing(text)).source == "trainedAlgorithmicMedia"


def test_a_source_that_is_not_ai_is_reported_too() -> None:
    source = provenance_of(bearing(packet().replace(SOURCE.encode(), b"digitalCapture"))).source
    assert source == "digitalCapture"
    assert source not in AI_SOURCES


@pytest.mark.parametrize("info", [None, 7, (1, 2), [], "", b"", "\udce9", b"\xff\xfe\x00", {"a": 1}])
def test_what_is_no_packet_says_nothing(info: object) -> None:
    assert provenance_of(bearing(info)) == FileProvenance("", "")


def test_an_image_without_marks_says_nothing() -> None:
    assert (
        provenance_in(written("JPEG"))
        == provenance_in(written("TIFF"))
        == provenance_in(written("GIF"))
        == FileProvenance("", "")
    )


@pytest.mark.parametrize("kind", range(20))
def test_a_tiff_whose_packet_has_a_wrong_type_does_no_harm(kind: int) -> None:
    content = written("TIFF", tiffinfo={700: packet()}).getvalue()
    entry = content.index(struct.pack("<HH", 700, 1))
    with open_image(io.BytesIO(content[: entry + 2] + struct.pack("<H", kind) + content[entry + 4 :])) as image:
        assert provenance_of(image) in (FileProvenance("", ""), FileProvenance(OPT_OUT, SOURCE))


@pytest.mark.slow
@pytest.mark.parametrize(
    "bait",
    [
        "<",
        "<a>",
        "http",
        "http://cv.iptc.org/newscodes/digitalsourcetype/",
        "http://cv.iptc.org/newscodes/digitalsourcetype/x",
        "DMI-PROHIBITED",
        "DMI-PROHIBITED-A",
        "DMI-PROHIBITED" + "-A" * 1_000_000,
        "-",
        "\0",
        "é",
        '<!ENTITY a "&b;&b;&b;&b;">',
        "http://cv.iptc.org/newscodes/digitalsourcetype/" + "x" * 1_000_000,
    ],
    ids=lambda bait: bait[:60],
)
def test_hostile_packets_cost_no_time(bait: str) -> None:
    image = bearing((bait * (10_000_000 // len(bait))).encode())
    start = time.process_time()
    provenance_of(image)
    assert time.process_time() - start < 1
    assert max(map(len, provenance_of(image))) < 100


# --- where XMP lies that Pillow does not hand over

BOTH = FileProvenance(OPT_OUT, SOURCE)


def in_gif() -> bytes:
    """As exiftool writes it: an application extension with the packet as it is, and a trailer of 257 bytes."""
    gif = written("GIF").getvalue()
    trailer = b"\x01" + bytes(range(255, -1, -1)) + b"\0"
    return gif[:-1] + b"\x21\xff\x0bXMP DataXMP" + packet() + trailer + b";"


def in_jpeg_2000() -> bytes:
    """As exiftool writes it: a box at the end."""
    content = bytes.fromhex("be7acfcb97a942e89c71999491e3afac") + packet()
    return written("JPEG2000").getvalue() + struct.pack(">I4s", len(content) + 8, b"uuid") + content


def in_png(*texts: tuple[str, str], compressed: bool) -> bytes:
    chunks = PngInfo()
    for name, text in texts:
        chunks.add_itxt(name, text, zip=compressed) if name.startswith("XML") else chunks.add_text(
            name, text, zip=compressed
        )
    return written("PNG", pnginfo=chunks).getvalue()


def raw_profile(kind: str) -> tuple[str, str]:
    content = b"http://ns.adobe.com/xap/1.0/\0" + packet()
    return f"Raw profile type {kind}", f"\ngeneric profile\n{len(content):8}\n{content.hex()}\n"


XMP_OF_PNG = ("XML:com.adobe.xmp", packet().decode())
PLACES = {
    "GIF": in_gif(),
    "JPEG 2000": in_jpeg_2000(),
    "PNG, first of two": in_png(XMP_OF_PNG, ("XML:com.adobe.xmp", "<x/>"), compressed=True),
    "PNG, second of two": in_png(("XML:com.adobe.xmp", "<x/>"), XMP_OF_PNG, compressed=True),
    "PNG, APP1": in_png(raw_profile("APP1"), compressed=False),
    "PNG, compressed APP1": in_png(raw_profile("APP1"), compressed=True),
    "PNG, compressed text": in_png(("Comment", packet().decode()), compressed=True),
}


@pytest.mark.parametrize("content", PLACES.values(), ids=PLACES)
def test_provenance_is_found_wherever_a_file_holds_it(content: bytes) -> None:
    assert provenance_in(io.BytesIO(content)) == BOTH


def test_a_term_between_two_windows_is_found() -> None:
    image = Image.new("L", (8, 8))
    for shift in range(0, len(OPT_OUT), 5):
        file = io.BytesIO(bytes(WINDOW - shift) + PLUS.encode() + bytes(WINDOW))
        assert provenance_of(image, file).opt_out == OPT_OUT


@pytest.mark.parametrize(("before", "is_found"), [(1000, True), (MAX_TEXTS, False)])
def test_texts_of_a_png_are_unpacked_up_to_a_limit(before: int, is_found: bool) -> None:
    chunk = b"Comment\0\0" + zlib.compress(bytes(before) + PLUS.encode())
    body = struct.pack(">I4s", len(chunk), b"zTXt") + chunk + bytes(4)
    found = provenance_of(Image.new("L", (8, 8)), io.BytesIO(b"\x89PNG\r\n\x1a\n" + body))
    assert found.opt_out == (OPT_OUT if is_found else "")


# Red squares that c2pa-python 0.38 signed with a certificate of its own, with the assertion cawg.training-mining.
C2PA = Path(__file__).parents[2] / "data" / "c2pa"


@pytest.mark.parametrize(
    ("name", "opt_out"), [("training_not_allowed", "DMI-PROHIBITED-AIMLTRAINING"), ("inference_not_allowed", "")]
)
def test_what_c2pa_says_of_training_is_an_opt_out(name: str, opt_out: str) -> None:
    content = (C2PA / f"{name}.webp").read_bytes()
    assert provenance_in(io.BytesIO(content)) == FileProvenance(opt_out, "digitalCapture")


def mining(entry: bytes) -> bytes:
    return b"\xa1gentries\xa2qcawg.ai_inference\xa1cusejnotAllowed" + entry + b"pother\xa1cusejnotAllowed"


@pytest.mark.parametrize(
    ("entry", "opt_out"),
    [
        (b"x\x1bcawg.ai_generative_training\xa1cusejnotAllowed", "DMI-PROHIBITED-GENAIMLTRAINING"),
        (b"pc2pa.data_mining\xa1cusejnotAllowed", "DMI-PROHIBITED"),
        (b"pcawg.data_mining\xa2oconstraint_infocaskcusekconstrained", "DMI-PROHIBITED"),
        (b"pcawg.data_mining\xa2cusekconstrainedoconstraint_infocask", "DMI-PROHIBITED"),
        (b"pcawg.data_mining\xa1cusegallowed", ""),
    ],
)
def test_entries_of_training_mining(entry: bytes, opt_out: str) -> None:
    assert provenance_of(Image.new("L", (8, 8)), io.BytesIO(mining(entry))).opt_out == opt_out


def test_c2pa_in_two_segments_of_a_jpeg_is_found() -> None:
    image, file = Image.new("L", (8, 8)), io.BytesIO()
    image.save(file, format="JPEG")
    text = bytes(60_000) + mining(b"pcawg.data_mining\xa1cusejnotAllowed")
    at = len(text) - 40  # within the entry
    header = b"JP\0\1" + bytes(12)
    segments = b"".join(
        b"\xff\xeb" + (len(part) + 18).to_bytes(2, "big") + header + part for part in (text[:at], text[at:])
    )
    content = file.getvalue()
    assert provenance_in(io.BytesIO(content[:2] + segments + content[2:])).opt_out == "DMI-PROHIBITED"
