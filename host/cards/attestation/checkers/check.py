"""Checks documents of the attestation card with cbor2 and cryptography, from the published description alone.

check.py FOLDER verifies every document in FOLDER under the root there, and each again with every byte changed.
"""

import datetime
import json
import pathlib
import sys
import warnings

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

KEYS = [
    "module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle", "public_key", "user_data", "nonce",
]
CHANGES = (0x01, 0x80, 0xFF)


class Refused(Exception):
    """The document does not verify."""


def need(condition, what):
    if not condition:
        raise Refused(what)


def certificate(der):
    need(isinstance(der, bytes) and 1 <= len(der) <= 1024, "a certificate's length")
    found = x509.load_der_x509_certificate(der)
    key = found.public_key()
    need(isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp384r1", "a key that is not P-384")
    need(found.signature_hash_algorithm.name == "sha384", "a signature that is not with SHA-384")
    return found


def signature(parts):
    """The COSE signature, by the key in the payload's certificate."""
    need(isinstance(parts, list) and len(parts) == 4, "not four parts")
    protected, unprotected, payload, value = parts
    need(cbor2.loads(protected) == {1: -35} and unprotected == {}, "the header")
    need(isinstance(payload, bytes) and 1 <= len(payload) <= 16384, "the payload's length")
    need(isinstance(value, bytes) and len(value) == 96, "the signature's length")
    found = cbor2.loads(payload)
    need(isinstance(found, dict) and list(found) == KEYS, "the entries and their order")
    leaf = certificate(found["certificate"])
    r, s = int.from_bytes(value[:48], "big"), int.from_bytes(value[48:], "big")
    signed = cbor2.dumps(["Signature1", protected, b"", payload])
    leaf.public_key().verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA384()))
    return found, leaf


def chain(found, leaf, root, now):
    bundle = [certificate(der) for der in found["cabundle"]]
    need(bundle and found["cabundle"][0] == root, "another root")
    for depth, (above, below) in enumerate(zip(bundle, bundle[1:] + [leaf])):
        below.verify_directly_issued_by(above)
        basic = above.extensions.get_extension_for_class(x509.BasicConstraints).value
        between = len(bundle) - depth - 1
        need(basic.ca and (basic.path_length is None or basic.path_length >= between), "a path that is too long")
        usage = above.extensions.get_extension_for_class(x509.KeyUsage).value
        need(usage.key_cert_sign, "a certificate that may sign none")
    for one in bundle + [leaf]:
        need(one.not_valid_before_utc <= now <= one.not_valid_after_utc, "a time at which it is not valid")
    need(not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca, "an authority's own key")
    need(leaf.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature, "a key that may not sign")


def verify(document, root, now):
    """Gives what a document says, or raises."""
    found, leaf = signature(cbor2.loads(document))
    need(isinstance(found["module_id"], str) and found["module_id"], "the module")
    need(found["digest"] == "SHA384" and found["timestamp"] > 0, "digest or timestamp")
    need(1 <= len(found["pcrs"]) <= 32 and list(found["pcrs"]) == sorted(found["pcrs"]), "the registers")
    for register, value in found["pcrs"].items():
        need(0 <= register < 32 and isinstance(value, bytes) and len(value) == 48, "a register")
    for field in ("public_key", "user_data", "nonce"):
        value = found[field]
        need(value is None or (isinstance(value, bytes) and len(value) <= 1024), field)
    chain(found, leaf, root, now)
    return found


def refuses(document, root, now):
    """Whatever a library raises is a refusal; only what verifies is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            verify(document, root, now)
    except Exception:  # noqa: BLE001
        return True
    return False


def main(folder):
    expected = json.loads((folder / "expected.json").read_text())
    root = (folder / "root.der").read_bytes()
    now = datetime.datetime.fromtimestamp(expected["now"] / 1000, datetime.timezone.utc)
    for wanted in expected["documents"]:
        document = (folder / wanted["file"]).read_bytes()
        found = verify(document, root, now)
        assert found["module_id"] == wanted["module_id"], found["module_id"]
        assert {str(k): v.hex() for k, v in found["pcrs"].items()} == wanted["pcrs"], found["pcrs"]
        assert (found["nonce"].hex() if found["nonce"] is not None else None) == wanted["nonce"]
        for name, shift in (("early", -1), ("late", 4)):
            assert refuses(document, root, now + datetime.timedelta(hours=shift)), name
        refused = 0
        for at in range(len(document)):
            for change in CHANGES:
                changed = document[:at] + bytes([document[at] ^ change]) + document[at + 1 :]
                assert refuses(changed, root, now), f"byte {at} can be changed by {change:#04x}"
                refused += 1
        print(f"{wanted['file']}: verified by cbor2 and cryptography; {refused} changed ones refused")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
