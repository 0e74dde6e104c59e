"""python -m artart.provenance new-certificate: make a certificate for tests of signed images."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from artart.config.cli import command
from artart.config.schema import check

log = logging.getLogger(__name__)


@command("provenance")
def run(cfg: DictConfig) -> None:
    """Write a certificate and its key into a new folder."""
    config = check(cfg)

    from artart.io.files import create, new_folder
    from artart.io.signing import check_packages
    from artart.io.terminal import pasteable

    check_packages("new-certificate")
    from artart.io.certificate import new_certificate

    chain, key = new_certificate(config["name"], config["days"])
    folder = new_folder(Path(config["out"] or "outputs/certificate"))
    certificate, secret = folder / "certificate.pem", folder / "key.pem"
    create(certificate, chain)
    secret.touch(mode=0o600)
    secret.write_bytes(key)
    log.warning("%s: for tests alone: no verifier trusts it; C2PA's programme issues certificates", certificate)
    settings = f"provenance.certificate={pasteable(certificate)} provenance.key={pasteable(secret)}"
    log.info("try next\n  python -m artart.generate checkpoint=latest %s", settings)


if __name__ == "__main__":
    run()
