"""C2PA manifests (specification 2.2) in PNG, JPEG, WebP and GIF: signed claims of how an image was
made.

With the extra `provenance` (c2pa-python). Nothing is fetched: neither timestamps nor certificates
nor manifests that lie elsewhere.
"""

import datetime
import json
import mimetypes
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from unclip.checks import printable
from unclip.files import whole

KINDS = ("image/png", "image/jpeg", "image/webp", "image/gif")
_SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_GENERATED = f"{_SOURCE}trainedAlgorithmicMedia"
_COMPOSITE = f"{_SOURCE}compositeWithTrainedAlgorithmicMedia"
SOFT_BINDING = "io.github.unclip.watermark.1"
"""The name of our mark in manifests, whose value there is the number of `outputs/watermark.py`."""
_EDITS = ("edit", "inpaint", "upscale")  # commands whose first image is what was edited
_SETTINGS = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": True},
    "builder": {"thumbnail": {"enabled": False}},
}
_YEARS = 10  # that a certificate of ours holds


@dataclass(frozen=True)
class Identity:
    """Who signs."""

    chain: str
    """Certificates in PEM, the signer's first."""
    key: str
    """The private key in PEM (PKCS #8)."""
    algorithm: str = "es256"


@dataclass(frozen=True)
class Manifest:
    """What an image's manifest comes to."""

    valid: bool
    """Signature and hashes hold: it is of these bytes, and nothing was changed since."""
    generated: bool
    """It says that the image, or a part of it, was made by a model."""
    signer: str = ""
    """Whom the signer's certificate names."""
    trusted: bool = False
    """Whether the certificate comes from one of those that are trusted."""
    problem: str = ""
    """Why it does not hold."""


def sign(
    data: bytes,
    kind: str,
    notes: Mapping[str, Any],
    identity: Identity,
    made_from: Sequence[Path] = (),
    with_prompt: bool = False,
) -> bytes:
    """The encoded image with a manifest.

    Args:
        kind: one of `KINDS`.
        notes: those of the image: `model`, `version`, `watermark` (a number is the soft binding),
            `command` (its first word says whether the first file was edited).
        made_from: files, ingredients of it.
        with_prompt: say the prompt, or the command, too.

    Raises:
        ValueError: the key does not sign, or an ingredient cannot be read.
    """
    c2pa = _library()
    if kind not in KINDS:
        raise ValueError(f"a manifest goes into {', '.join(KINDS)}, not {kind}")
    signed = BytesIO()
    try:
        words = (identity.algorithm, identity.chain, identity.key)
        info = c2pa.C2paSignerInfo(*(word.encode() for word in words), None)
        with (
            c2pa.Signer.from_info(info) as signer,
            _context(c2pa, _SETTINGS) as context,
            c2pa.Builder(_claims(kind, notes, len(made_from), with_prompt), context) as builder,
        ):
            for i, file in enumerate(made_from):
                described, like = _ingredient(file, i, str((notes.get("command") or [""])[0]))
                with file.open("rb") as stream:
                    builder.add_ingredient(described, like, stream)
            builder.sign(signer, kind, BytesIO(data), signed)
    except (c2pa.C2paError, OSError) as error:
        raise ValueError(f"the image cannot be signed: {printable(str(error))[:200]}") from None
    return signed.getvalue()


def read(data: bytes, kind: str, trusted: str = "") -> Manifest | None:
    """The manifest of an encoded image; None if there is none.

    Args:
        kind: one of `KINDS`.
        trusted: certificates in PEM, who vouch for signers.
    """
    c2pa = _library()
    settings = _SETTINGS | ({"trust": {"user_anchors": trusted}} if trusted else {})
    try:
        with (
            _context(c2pa, settings) as context,
            c2pa.Reader(kind, BytesIO(data), context=context) as reader,
        ):
            found, state = json.loads(reader.json()), str(reader.get_validation_state())
    except c2pa.C2paError as error:
        text = printable(str(error))[:200]
        missing = "ManifestNotFound" in text or "no JUMBF data" in text
        return None if missing else Manifest(False, False, problem=text)
    try:
        return _told(found, state)
    except (KeyError, TypeError, AttributeError):  # of a manifest whose parts do not fit
        return Manifest(False, False, problem="it is damaged")


def _told(found: Mapping[str, Any], state: str) -> Manifest:
    """What the library's report comes to."""
    active = found["manifests"][found["active_manifest"]]
    failures = [
        status["code"]
        for status in found.get("validation_status") or []
        if status["code"] != "signingCredential.untrusted"
    ]
    signature = active.get("signature_info") or {}
    return Manifest(
        valid=state in ("Valid", "Trusted"),
        generated=any(_says_generated(one) for one in active.get("assertions") or []),
        signer=str(signature.get("common_name") or signature.get("issuer") or "nobody"),
        trusted=state == "Trusted",
        problem=", ".join(failures)[:200],
    )


def _claims(kind: str, notes: Mapping[str, Any], ingredients: int, with_prompt: bool) -> str:
    """The manifest to be signed, as JSON."""
    agent = {"name": "unclip", "version": str(notes.get("version", ""))}
    edited = bool(ingredients) and (notes.get("command") or [""])[0] in _EDITS
    used = {"parameters": {"ingredientIds": [f"made-from-{i}" for i in range(ingredients)]}}
    used = used if ingredients else {}
    if edited:
        actions = [
            {"action": "c2pa.opened", **used},
            {"action": "c2pa.edited", "digitalSourceType": _COMPOSITE, "softwareAgent": agent},
        ]
    else:
        created = {"action": "c2pa.created", "digitalSourceType": _GENERATED}
        actions = [created | {"softwareAgent": agent}]
        if used:
            actions.append({"action": "c2pa.placed", **used})
    assertions: list[dict[str, Any]] = [{"label": "c2pa.actions.v2", "data": {"actions": actions}}]
    number = str(notes.get("watermark", ""))
    if len(number) == 8:
        block = {"scope": {}, "value": number}
        binding = {"alg": SOFT_BINDING, "blocks": [block]}
        assertions.append({"label": "c2pa.soft-binding", "data": binding})
    made = {"model": notes.get("model")}
    if with_prompt:
        made |= {name: notes[name] for name in ("prompt", "command") if name in notes}
    assertions.append({"label": "io.github.unclip.made", "data": made})
    return json.dumps({"claim_generator_info": [agent], "format": kind, "assertions": assertions})


def _ingredient(file: Path, number: int, command: str) -> tuple[str, str]:
    """An ingredient's description as JSON, and what kind of file it is."""
    like = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    parent = number == 0 and command in _EDITS
    described = {
        "title": f"image {number + 1}",  # names of files are nobody's business
        "format": like,
        "relationship": "parentOf" if parent else "componentOf",
        "instance_id": f"made-from-{number}",
        "label": f"made-from-{number}",
    }
    return json.dumps(described), like


def _says_generated(assertion: Mapping[str, Any]) -> bool:
    if not str(assertion.get("label", "")).startswith("c2pa.actions"):
        return False
    actions = (assertion.get("data") or {}).get("actions") or []
    return any(one.get("digitalSourceType") in (_GENERATED, _COMPOSITE) for one in actions)


# --- who signs ----------------------------------------------------------------------------------


def open_identity(file: Path) -> Identity:
    """The chain and key of a PEM file; one that is not there is made, for this file alone.

    Raises:
        ValueError: it holds no certificate or no key that can sign.
    """
    if not os.path.lexists(file):
        _make_chain(file)
    try:
        text = file.read_text("ascii")
    except (OSError, UnicodeError):
        raise ValueError(f"{file} cannot be read as a PEM file") from None
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    try:
        chain = x509.load_pem_x509_certificates(text.encode())
        start = text.index("-----BEGIN", max(text.find("PRIVATE KEY") - 40, 0))
        key = serialization.load_pem_private_key(text[start:].encode(), None)
    except (ValueError, TypeError):
        raise ValueError(
            f"{file} is no PEM file of certificates, the signer's first, and a key without password"
        ) from None
    written = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
    encoding = serialization.Encoding.PEM
    certificates = "".join(one.public_bytes(encoding).decode() for one in chain)
    return Identity(certificates, written, _algorithm(key, file))


def _algorithm(key: Any, file: Path) -> str:
    """C2PA's name of what a key signs with."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    sizes = {256: "es256", 384: "es384", 521: "es512"}
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.key_size in sizes:
        return sizes[key.curve.key_size]
    raise ValueError(f"{file} holds a key of a kind that signs no manifests")


def _make_chain(file: Path) -> None:
    """Write a new key with the certificate of an authority of its own, that only we can read.

    The authority's key is forgotten at once: it vouches for this signer alone.
    """
    _library()
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def named(name: str) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, name),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "self-made"),
            ]
        )

    now = datetime.datetime.now(datetime.UTC)
    root, leaf = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = x509.SubjectKeyIdentifier.from_public_key(root.public_key())

    def certificate(name: str, key: ec.EllipticCurvePrivateKey, issuing: bool) -> x509.Certificate:
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "encipher_only", "decipher_only", "crl_sign"), False,
        )  # fmt: skip
        builder = (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named("unclip authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=365 * _YEARS))
            .add_extension(x509.BasicConstraints(issuing, 0 if issuing else None), critical=True)
            .add_extension(
                x509.KeyUsage(digital_signature=not issuing, key_cert_sign=issuing, **usage),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority), False
            )
        )
        if not issuing:
            purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(purposes, critical=False)
        return builder.sign(root, hashes.SHA256())

    encoding = serialization.Encoding.PEM
    parts = [
        certificate("unclip signer", leaf, False).public_bytes(encoding),
        certificate("unclip authority", root, True).public_bytes(encoding),
        leaf.private_bytes(
            encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    ]

    def put(partial: Path, place: Path) -> None:
        partial.chmod(0o600)
        partial.replace(place)

    with whole(file, put) as partial:
        partial.write_bytes(b"".join(parts))


def _context(c2pa: Any, settings: Mapping[str, Any]) -> Any:
    return c2pa.Context.from_dict(dict(settings))


def _library() -> Any:
    try:
        import c2pa
    except ImportError:
        raise ValueError(
            "C2PA manifests need the extra: pip install 'unclip[provenance]'"
        ) from None
    return c2pa
