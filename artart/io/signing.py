"""Signed provenance: Content Credentials of C2PA in image files, written and read.

Source: C2PA Technical Specification 2.2, https://spec.c2pa.org; CAWG Training and Data Mining 1.1,
https://cawg.io/training-and-data-mining/. Needs c2pa-python and cryptography: pip install 'artart[provenance]'.
"""

import io
import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from PIL import Image

from artart import ArtError, __version__
from artart.io.provenance import IPTC_SOURCE, MINING, PLUS, ImageProvenance, in_words
from artart.io.terminal import printable

PACKAGES: Final = {"c2pa": "c2pa-python", "cryptography": "cryptography"}  # by module
AGENT: Final = {"name": "artart", "version": __version__}
ALGORITHMS: Final = {  # of signatures, by elliptic curve or kind of private key
    "secp256r1": "ES256",
    "secp384r1": "ES384",
    "secp521r1": "ES512",
    "RSAPrivateKey": "PS256",
    "Ed25519PrivateKey": "ED25519",
}
UNKNOWN: Final = "application/octet-stream"
SETTINGS: Final = {  # of c2pa: no thumbnails, and no connection to an address that a file names
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"remote_manifest_fetch": False},
}


def check_packages(key: str) -> None:
    """Raise ArtError, which begins with `key`, if a package is missing."""
    if missing := [package for module, package in PACKAGES.items() if find_spec(module) is None]:
        raise ArtError(f"{key}: needs {' and '.join(missing)}: pip install 'artart[provenance]'")


def signer_for(certificate: str | None, key: str | None) -> Callable[[bytes, str, ImageProvenance], bytes] | None:
    """What signs image files; None without a certificate. Raises the errors of `check_packages` and `Signer`."""
    if certificate is None or key is None:
        return None
    check_packages("provenance.certificate")
    return Signer(Path(certificate), Path(key)).sign


class Signer:
    """Signs image files with a certificate."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Read a certificate, or a chain that begins with it, and its private key without a password: PEM both.

        Raises ArtError if one cannot be used or has expired, or they do not belong together.
        """
        import c2pa
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization as to

        self.context = c2pa.Context(c2pa.Settings.from_dict(SETTINGS))
        file = io.BytesIO()
        Image.new("RGB", (1, 1)).save(file, "PNG")
        try:
            chain = x509.load_pem_x509_certificates(certificate.read_bytes())
            private: Any = to.load_pem_private_key(key.read_bytes(), password=None)
            kind = private.curve.name if hasattr(private, "curve") else type(private).__name__
            if kind not in ALGORITHMS:
                raise ValueError(f"C2PA takes no key of kind {kind}, but ECDSA (P-256, P-384, P-521), Ed25519, RSA")
            algorithm = getattr(c2pa.C2paSigningAlg, ALGORITHMS[kind])
            public = b"".join(one.public_bytes(to.Encoding.PEM) for one in chain)
            secret = private.private_bytes(to.Encoding.PEM, to.PrivateFormat.PKCS8, to.NoEncryption())  # c2pa's form
            self.signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(algorithm, public, secret, None))
            self.sign(file.getvalue(), "test.png", ImageProvenance("trained", {}))
        except (ValueError, TypeError, c2pa.C2paError) as error:
            raise ArtError(
                f"provenance.certificate={certificate}: cannot sign images with provenance.key={key} "
                f"({printable(error)}); name a valid certificate and its own key, in PEM without a password"
            ) from None

    def sign(self, content: bytes, name: str, provenance: ImageProvenance) -> bytes:
        """An image file with a signed manifest: how it was made, the files it was made from, and its opt-out."""
        import c2pa

        builder = c2pa.Builder(manifest(name, provenance), context=self.context)
        relationship = "parentOf" if len(provenance.inputs) == 1 else "componentOf"
        for k, path in enumerate(provenance.inputs):
            with path.open("rb") as file:
                ingredient = {"title": _encodable(path.name), "relationship": relationship, "label": f"input{k}"}
                try:
                    builder.add_ingredient(ingredient, mime_type(path), file)
                except c2pa.C2paError:  # the file or its manifest is damaged, or the latter is elsewhere
                    builder.add_ingredient(ingredient, UNKNOWN, file)
        signed = io.BytesIO()
        builder.sign(self.signer, mime_type(io.BytesIO(content)), io.BytesIO(content), signed)
        return signed.getvalue()


def mime_type(file: Path | io.BytesIO) -> str:
    """The type of an image file by its content, such as image/png."""
    with Image.open(file) as image:
        return Image.MIME.get(image.format or "", UNKNOWN)


def manifest(name: str, provenance: ImageProvenance) -> dict[str, Any]:
    """The manifest of an image: actions, and an assertion on training and data mining if an input had an opt-out."""
    labels, description = [f"input{k}" for k in range(len(provenance.inputs))], _encodable(in_words(provenance.details))
    made = {"digitalSourceType": IPTC_SOURCE[provenance.source], "softwareAgent": AGENT, "description": description}
    inputs = {"parameters": {"ingredientIds": labels}}
    actions: list[dict[str, Any]] = [{"action": "c2pa.created", **made}]
    if len(labels) == 1:
        actions = [{"action": "c2pa.opened", **inputs}, {"action": "c2pa.edited", **made}]
    elif labels:
        actions.append({"action": "c2pa.placed", **inputs})
    assertions: list[dict[str, Any]] = [{"label": "c2pa.actions.v2", "data": {"actions": actions}}]
    if provenance.opt_out:
        assertions.append({"label": "cawg.training-mining", "data": {"entries": _entries(provenance.opt_out)}})
    return {"claim_generator_info": [AGENT], "title": _encodable(name), "assertions": assertions}


def _encodable(text: str) -> str:
    """A text without bytes of a file name that are not UTF-8."""
    return text.encode(errors="replace").decode()


def _entries(opt_out: str) -> dict[str, dict[str, str]]:
    """CAWG's entries for a term of PLUS; a term with conditions constrains every use."""
    uses, terms = [f"cawg.{use.decode()}" for use in MINING], [*MINING.values()]  # the broadest first
    if opt_out in terms:
        return {use: {"use": "notAllowed"} for use in uses[terms.index(opt_out) :]}
    return {use: {"use": "constrained", "constraint_info": f"{PLUS}{opt_out}"} for use in uses}


def read_credentials(path: Path) -> dict[str, Any] | None:
    """Read and verify the manifests in an image file, as plain data; None if there is none.

    `state` is Trusted (by a list of certificates that c2pa has been given), Valid or Invalid; `problems` are those of
    the active manifest, which comes first in `manifests`, before those of its inputs.

    Raises ArtError if they are damaged.
    """
    import c2pa

    try:
        with path.open("rb") as file:
            context = c2pa.Context(c2pa.Settings.from_dict(SETTINGS))
            store = json.loads(c2pa.Reader(mime_type(path), file, context=context).json())
    except c2pa.C2paError as error:
        if type(error).__name__.endswith(("ManifestNotFound", "NotSupported")):
            return None
        raise ArtError(f"{path}: its C2PA manifest cannot be read ({printable(error)})") from None
    failures = store.get("validation_results", {}).get("activeManifest", {}).get("failure", [])
    active = store["active_manifest"]
    names = [active, *(name for name in store["manifests"] if name != active)]
    try:
        manifests = [_described(store["manifests"][name]) for name in names]
    except (AttributeError, TypeError):  # c2pa does not check the form of every assertion
        raise ArtError(f"{path}: its C2PA manifest has assertions of an unknown form") from None
    problems = [f"{one['code']}: {one.get('explanation', '')}" for one in failures]
    return {"state": store["validation_state"], "problems": problems, "manifests": manifests}


def _described(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a manifest that people ask for."""
    data = {one["label"].partition("__")[0]: one.get("data", {}) for one in manifest.get("assertions", [])}
    mining = data.get("cawg.training-mining", data.get("c2pa.training-mining", {}))  # the latter until C2PA 2.0
    signature, entries = manifest.get("signature_info", {}), mining.get("entries", {})
    actions = data.get("c2pa.actions.v2", data.get("c2pa.actions", {})).get("actions", [])
    makers = (f"{one.get('name')} {one.get('version', '')}" for one in manifest.get("claim_generator_info", []))
    return {
        "title": manifest.get("title"),
        "signer": ", ".join(filter(None, (signature.get("common_name"), signature.get("issuer")))),
        "made by": ", ".join(map(str.strip, makers)),
        "actions": [_action(one) for one in actions],
        "inputs": [f"{one.get('title')} ({one.get('relationship')})" for one in manifest.get("ingredients", [])],
        "training and data mining": {name: entry.get("use") for name, entry in entries.items()},
    }


def _action(action: Mapping[str, Any]) -> str:
    source = str(action.get("digitalSourceType", "")).rpartition("/")[2]
    return ": ".join(filter(None, (action.get("action"), source, action.get("description"))))
