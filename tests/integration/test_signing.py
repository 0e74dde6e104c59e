"""Signed images: what generate writes and inspect reads."""

import io
import os
import socket
import time
from datetime import timedelta
from pathlib import Path

import c2pa
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

import artart.inspect
from artart.generation import inspection
from artart.generation.inspection import describe_image
from artart.io.certificate import new_certificate
from artart.io.provenance import ImageProvenance, provenance_of, texts_of
from artart.io.signing import PACKAGES, Signer, manifest, read_credentials

LAST = "checkpoints/last.ckpt"
FAST = ("num_images=2", "sampler.num_steps=2", "label=none")
MINED = "DMI-PROHIBITED-AIMLTRAINING"


def certificate(folder: Path, name: str = "A. Painter", days: int = 30) -> tuple[Path, Path]:
    """Files of a new certificate and its key."""
    folder.mkdir(exist_ok=True)
    files = folder / "certificate.pem", folder / "key.pem"
    for path, content in zip(files, new_certificate(name, days), strict=True):
        path.write_bytes(content)
    return files


@pytest.fixture
def signing(tmp_path) -> tuple[str, str]:
    """Settings that sign."""
    chain, key = certificate(tmp_path / "own")
    return f"provenance.certificate={chain}", f"provenance.key={key}"


def picture(path: Path, colour: str = "red", provenance: ImageProvenance | None = None, **by: Path) -> Path:
    """An image file of 24 px, signed if there are a certificate and a key."""
    file = io.BytesIO()
    Image.new("RGB", (24, 24), colour).save(file, path.suffix.upper().strip(".").replace("JPG", "JPEG"))
    content = file.getvalue()
    if by:
        content = Signer(**by).sign(content, path.name, provenance or ImageProvenance("trained", {}))
    path.write_bytes(content)
    return path


@pytest.mark.slow
def test_every_file_of_a_call_is_signed_and_verifies(generate, inspect, diffusion_run, signing):
    assert generate(f"checkpoint={diffusion_run / LAST}", "out=made", "save_trajectory=true", *FAST, *signing) == 0
    files = sorted(Path("made").iterdir())
    assert [path.name for path in files] == ["00000.png", "00001.png", "grid.png", "trajectory.png", "trajectory.webp"]
    for path, found in zip(files, inspect(*map(str, files)), strict=True):
        assert found["c2pa"]["state"] == "Valid"
        assert [one.partition(":")[0] for one in found["c2pa"]["problems"]] == ["signingCredential.untrusted"]
        (own,) = found["c2pa"]["manifests"]
        assert (own["title"], own["signer"]) == (path.name, "A. Painter, test certificate")
        assert own["actions"][0].startswith("c2pa.created: trainedAlgorithmicMedia: mode=sample; ")
        assert found["changed"] == "not since it was signed"
        with Image.open(path) as image:
            image.load()
            assert provenance_of(image).source == "trainedAlgorithmicMedia", "XMP stays"
            assert "seed=" in texts_of(image)["description"]
    with Image.open("made/trajectory.webp") as animation:
        assert animation.n_frames > 1


@pytest.mark.slow
def test_signing_changes_no_pixel_and_adds_no_thumbnail(generate, diffusion_run, signing):
    for out, how in (("signed", signing), ("plain", ())):
        assert generate(f"checkpoint={diffusion_run / LAST}", f"out={out}", *FAST, *how) == 0
    for name in ("00000.png", "grid.png"):
        signed, plain = Path("signed", name), Path("plain", name)
        assert Image.open(signed).tobytes() == Image.open(plain).tobytes()
        assert 0 < signed.stat().st_size - plain.stat().st_size < 8000


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_one_flipped_byte_is_noticed(tmp_path, suffix):
    chain, key = certificate(tmp_path / "own")
    path = picture(tmp_path / f"a.{suffix}", certificate=chain, key=key)
    assert read_credentials(path)["state"] == "Valid"
    content, plain = bytearray(path.read_bytes()), picture(tmp_path / f"plain.{suffix}").read_bytes()
    content[content.rindex(plain[-20:-4]) + 4] ^= 1  # of the pixels
    path.write_bytes(content)
    found = read_credentials(path)
    assert found["state"] == "Invalid"
    assert any(one.startswith("assertion.dataHash.mismatch") for one in found["problems"])


@pytest.mark.slow
def test_inspect_says_that_a_file_was_changed_or_saved_again(generate, inspect, diffusion_run, signing):
    assert generate(f"checkpoint={diffusion_run / LAST}", "out=made", *FAST, *signing) == 0
    content = bytearray(Path("made/00000.png").read_bytes())
    content[content.index(b"IDAT") + 20] ^= 1
    Path("flipped.png").write_bytes(content)
    with Image.open("made/00001.png") as image:
        image.save("again.png")
    flipped, again = inspect("flipped.png", "again.png")
    assert (flipped["c2pa"]["state"], flipped["changed"]) == ("Invalid", "since it was signed")
    assert flipped["cannot be decoded"] == "the checksum of IDAT is wrong"
    assert flipped["source"] == "trainedAlgorithmicMedia"
    assert (again["c2pa"], again["changed"]) == ("not signed", "since it was generated")
    assert again["registry"]["details"]["seed"] == 1
    assert again["registry"]["has"].startswith("an image that it is a near copy of")


@pytest.mark.slow
def test_inputs_and_their_manifests_are_kept(generate, inspect, diffusion_run, signing, tmp_path):
    chain, key = certificate(tmp_path / "other", "Another Signer")
    given = ImageProvenance("trained", {}, MINED)
    picture(tmp_path / "input.jpg", provenance=given, certificate=chain, key=key)
    call = (f"checkpoint={diffusion_run / LAST}", "mode=img2img", "input=input.jpg", "out=made", *FAST, *signing)
    assert generate(*call) == 0
    (found,) = inspect("made/input_00000.png")
    assert found["c2pa"]["state"] == "Valid"
    own, of_input = found["c2pa"]["manifests"]
    assert own["signer"].startswith("A. Painter")
    assert of_input["signer"].startswith("Another Signer")
    assert own["inputs"] == ["input.jpg (parentOf)"]
    assert [one.partition(": mode")[0] for one in own["actions"]] == [
        "c2pa.opened",
        "c2pa.edited: compositeWithTrainedAlgorithmicMedia",
    ]
    mined = {"cawg.ai_training": "notAllowed", "cawg.ai_generative_training": "notAllowed"}
    assert own["training and data mining"] == of_input["training and data mining"] == mined
    assert (found["source"], found["opt-out"]) == ("compositeWithTrainedAlgorithmicMedia", MINED)


@pytest.mark.slow
def test_a_grid_of_several_inputs_has_them_as_components(generate, inspect, diffusion_run, signing, tmp_path):
    (tmp_path / "art").mkdir()
    for name in ("a.png", "b.bmp"):  # of a format that C2PA does not have
        picture(tmp_path / "art" / name)
    call = (f"checkpoint={diffusion_run / LAST}", "mode=img2img", "input=art", "out=made", *FAST, *signing)
    assert generate(*call) == 0
    (found,) = inspect("made/grid.png")
    assert found["c2pa"]["state"] == "Valid"
    assert sorted(found["c2pa"]["manifests"][0]["inputs"]) == ["a.png (componentOf)", "b.bmp (componentOf)"]


def test_manifest_has_caws_entries_for_each_term_of_plus():
    def entries(term: str) -> dict[str, str]:
        (entries,) = [
            one["data"]["entries"]
            for one in manifest("a.png", ImageProvenance("composite", {}, term))["assertions"]
            if one["label"] == "cawg.training-mining"
        ]
        return {name.removeprefix("cawg."): entry["use"] for name, entry in entries.items()}

    generative = {"ai_generative_training": "notAllowed"}
    training = {"ai_training": "notAllowed", **generative}
    assert entries("DMI-PROHIBITED-GENAIMLTRAINING") == generative
    assert entries(MINED) == training
    assert entries("DMI-PROHIBITED") == {"data_mining": "notAllowed", **training}
    assert set(entries("DMI-PROHIBITED-SEECONSTRAINT").values()) == {"constrained"}
    plain = manifest("a.png", ImageProvenance("trained", {}))["assertions"]
    assert [one["label"] for one in plain] == ["c2pa.actions.v2"]


@pytest.mark.parametrize("term", ["DMI-PROHIBITED", MINED, "DMI-PROHIBITED-GENAIMLTRAINING"])
def test_an_opt_out_that_is_signed_is_read_by_the_search_for_opt_outs(tmp_path, term):
    chain, key = certificate(tmp_path / "own")
    path = picture(tmp_path / "a.png", provenance=ImageProvenance("composite", {}, term), certificate=chain, key=key)
    with path.open("rb") as file, Image.open(file) as image:
        image.load()
        assert provenance_of(image, file).opt_out == term


@pytest.mark.parametrize("details", [{}, {"seed": 7}])
def test_a_source_that_is_signed_is_read_whatever_follows_it(tmp_path, details):
    chain, key = certificate(tmp_path / "own")
    path = picture(tmp_path / "a.png", provenance=ImageProvenance("trained", details), certificate=chain, key=key)
    with path.open("rb") as file, Image.open(file) as image:
        image.load()
        assert provenance_of(image, file).source == "trainedAlgorithmicMedia"


# ---------------------------------------------------------------- refusals


def refused(generate, capsys, diffusion_run, *settings: str) -> str:
    """The line of a refusal before sampling."""
    assert generate(f"checkpoint={diffusion_run / LAST}", "out=made", *FAST, *settings) == 2
    assert not Path("made").exists()
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


def test_a_certificate_that_has_expired_is_refused(generate, capsys, diffusion_run, tmp_path):
    chain, key = certificate(tmp_path / "old", days=0)
    line = refused(generate, capsys, diffusion_run, f"provenance.certificate={chain}", f"provenance.key={key}")
    assert line.startswith(f"provenance.certificate={chain}: cannot sign images with provenance.key={key} (")
    assert "not valid at time of signing" in line


@pytest.mark.slow
def test_files_that_do_not_fit_are_refused(generate, capsys, diffusion_run, tmp_path):
    chain, key = certificate(tmp_path / "own")
    _, other = certificate(tmp_path / "other")
    (words := tmp_path / "words.pem").write_text("words")
    for chosen, secret, reason in (
        (chain, other, "the signature does not match the provided data or public key"),
        (words, key, "Unable to load PEM file"),
        (chain, words, "Unable to load PEM file"),
    ):
        line = refused(generate, capsys, diffusion_run, f"provenance.certificate={chosen}", f"provenance.key={secret}")
        assert line.startswith(f"provenance.certificate={chosen}: cannot sign images with provenance.key={secret} (")
        assert reason in line
    line = refused(generate, capsys, diffusion_run, f"provenance.key={key}")
    assert line == "provenance.certificate: needs a value: provenance.certificate=FILE; a signature takes both\n"


def test_without_the_extra_it_is_named(generate, capsys, diffusion_run, signing, monkeypatch):
    monkeypatch.setitem(PACKAGES, "no_such_module", "c2pa-python")
    line = refused(generate, capsys, diffusion_run, *signing)
    assert line == "provenance.certificate: needs c2pa-python: pip install 'artart[provenance]'\n"


def test_a_certificate_of_an_authority_cannot_sign(generate, capsys, diffusion_run, tmp_path):
    """C2PA asks for a leaf that may sign, of a purpose that it lists."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    from artart.io import certificate as module

    secret = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    (tmp_path / "ca.pem").write_bytes(module._certificate("me", secret, secret, 3).public_bytes(pem))
    (tmp_path / "ca.key").write_bytes(
        secret.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    assert x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes())
    settings = ("provenance.certificate=ca.pem", "provenance.key=ca.key")
    line = refused(generate, capsys, diffusion_run, *settings)
    assert line.startswith(f"provenance.certificate={tmp_path / 'ca.pem'}: cannot sign images with provenance.key=")


@pytest.mark.slow
def test_new_certificate_says_that_it_is_untrusted_and_keeps_its_key_to_its_owner(call, tmp_path, monkeypatch, capsys):
    import artart.provenance

    monkeypatch.chdir(tmp_path)
    assert call(artart.provenance, "new-certificate", "name=Ada Painter") == 0
    out = capsys.readouterr().out
    assert "no verifier trusts it" in out
    assert "provenance.certificate=outputs/certificate/certificate.pem" in out
    assert (tmp_path / "outputs/certificate/key.pem").stat().st_mode & 0o077 == 0
    assert call(artart.provenance, "new-certificate") == 0
    assert (tmp_path / "outputs/certificate-2/key.pem").exists(), "no key is replaced"
    assert call(artart.provenance, "old-certificate") == 2


@pytest.mark.slow
def test_a_signature_that_has_expired_does_not_mean_that_the_file_was_changed(tmp_path, monkeypatch):
    from artart.io import certificate as module

    lengths = {"days": timedelta(hours=1, seconds=3), "hours": timedelta(hours=1)}
    monkeypatch.setattr(module, "timedelta", lambda **length: lengths[next(iter(length))])
    chain, key = certificate(tmp_path / "own")
    path = picture(tmp_path / "a.png", certificate=chain, key=key)
    time.sleep(4)
    found = describe_image(path, None)
    assert (found["c2pa"]["state"], found["changed"]) == ("Invalid", "not since it was signed")
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 20] ^= 1
    path.write_bytes(content)
    assert describe_image(path, None)["changed"] == "since it was signed"


@pytest.mark.parametrize("kind", ["EC", "RSA"])
def test_keys_in_the_older_form_of_openssl_sign(tmp_path, kind):
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    from artart.io import certificate as module

    authority = ec.generate_private_key(ec.SECP256R1())
    private = authority if kind == "EC" else rsa.generate_private_key(65537, 2048)
    own = module._certificate("me", private, ec.generate_private_key(ec.SECP256R1()), 3)
    (chain := tmp_path / "chain.pem").write_bytes(b"\xef\xbb\xbf" + own.public_bytes(Encoding.PEM))
    secret = private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    assert secret.startswith(f"-----BEGIN {kind} PRIVATE KEY".encode())
    (key := tmp_path / "key.pem").write_bytes(secret)
    assert read_credentials(picture(tmp_path / "a.png", certificate=chain, key=key))["state"] == "Valid"


def test_texts_that_are_not_utf8_are_signed(tmp_path):
    chain, key = certificate(tmp_path / "own")
    source = picture(tmp_path / os.fsdecode(b"\xff.png"))
    given = ImageProvenance("composite", {"prompt": os.fsdecode(b"\xff")}, "", [source])
    path = picture(tmp_path / os.fsdecode(b"\xfe.png"), "red", given, certificate=chain, key=key)
    (own,) = read_credentials(path)["manifests"]
    assert (own["title"], own["inputs"]) == ("?.png", ["?.png (parentOf)"])


def test_an_input_that_c2pa_cannot_read_is_an_ingredient(tmp_path):
    chain, key = certificate(tmp_path / "own")
    source = picture(tmp_path / "cut.png")
    source.write_bytes(source.read_bytes()[:-12])  # the end, which Pillow does without
    given = ImageProvenance("composite", {}, "", [source])
    found = read_credentials(picture(tmp_path / "a.png", "red", given, certificate=chain, key=key))
    assert (found["state"], found["manifests"][0]["inputs"]) == ("Valid", ["cut.png (parentOf)"])


def signed_by_others(path: Path, folder: Path, assertion: dict[str, object]) -> Path:
    """An image with an assertion that artart does not write."""
    chain, key = certificate(folder)
    signer, file = Signer(chain, key), io.BytesIO()
    made = {**manifest("a", ImageProvenance("trained", {}))}
    builder = c2pa.Builder({**made, "assertions": [*made["assertions"], assertion]}, context=signer.context)
    builder.sign(signer.signer, "image/png", io.BytesIO(picture(path).read_bytes()), file)
    path.write_bytes(file.getvalue())
    return path


def test_the_older_name_of_an_opt_out_is_read(tmp_path):
    data = {"entries": {"c2pa.ai_training": {"use": "notAllowed"}}}
    path = signed_by_others(tmp_path / "a.png", tmp_path / "own", {"label": "c2pa.training-mining", "data": data})
    (own,) = read_credentials(path)["manifests"]
    assert own["training and data mining"] == {"c2pa.ai_training": "notAllowed"}


@pytest.mark.parametrize("data", [{"entries": ["x"]}, {"entries": {"cawg.ai_training": "notAllowed"}}, [1]])
def test_assertions_of_an_unknown_form_are_reported(tmp_path, data):
    path = signed_by_others(tmp_path / "a.png", tmp_path / "own", {"label": "cawg.training-mining", "data": data})
    assert describe_image(path, None)["c2pa"] == f"{path}: its C2PA manifest has assertions of an unknown form"


def test_inspect_prints_what_comes_before_a_file_that_is_nothing(call, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "a.png")
    (tmp_path / "empty.png").touch()
    assert call(artart.inspect, "a.png", "empty.png") == 2
    printed = capsys.readouterr()
    assert printed.out.startswith(f"file: {tmp_path / 'a.png'}\n")
    assert printed.err.startswith(f"files: no image that artart reads, and no checkpoint: {tmp_path / 'empty.png'}: ")


def test_inspect_decodes_no_image_of_too_many_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(inspection, "MAX_PIXELS", 100)
    monkeypatch.setattr(inspection, "_damage", lambda path: "24 x 24 pixels")
    monkeypatch.setattr(PngImageFile, "load", lambda self: pytest.fail("it was decoded"))
    assert describe_image(picture(tmp_path / "a.png"), None)["cannot be decoded"] == "24 x 24 pixels"


def test_inspect_does_not_open_what_takes_much_memory_at_once(call, tmp_path, monkeypatch, capsys):
    (tmp_path / "a.gif").write_bytes(b"GIF89a" + b"\xff" * 4 + b"\0" * 30)
    monkeypatch.setattr(Image, "open", None)
    assert call(artart.inspect, str(tmp_path / "a.gif")) == 2
    line = f"files: {tmp_path / 'a.gif'}: too large (65535 x 65535 pixels); give another\n"
    assert capsys.readouterr().err == line


def test_inspect_leaves_formats_that_are_programs(tmp_path):
    (tmp_path / "a.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    assert not inspection.is_image(tmp_path / "a.eps")


def test_no_manifest_is_fetched_from_an_address_that_a_file_names(tmp_path):
    chain, key = certificate(tmp_path / "own")
    signer, file, path = Signer(chain, key), io.BytesIO(), tmp_path / "a.png"
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = "http://{}:{}/".format(*server.getsockname())
        builder = c2pa.Builder(manifest("a", ImageProvenance("trained", {})), context=signer.context)
        builder.set_no_embed()
        builder.set_remote_url(address)
        builder.sign(signer.signer, "image/png", io.BytesIO(picture(path).read_bytes()), file)
        path.write_bytes(file.getvalue())
        assert f"must fetch remote manifests from url {address}" in describe_image(path, None)["c2pa"]
        signer.sign(picture(tmp_path / "b.png").read_bytes(), "b.png", ImageProvenance("composite", {}, "", [path]))
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
