"""Gives every request that schemathesis makes a real token and a real proof of possession.

The tokens are CWTs (RFC 8392) in COSE_Sign1 (RFC 9052), written here a second time, from the specification: what
this does not write as the host reads it is refused by the host.
"""

import base64
import hashlib
import json
import os
import random
import re
import time
from urllib.parse import parse_qsl

import cbor2
import schemathesis
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from requests.auth import AuthBase
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation.modes import GenerationMode


def key(name):
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(os.environ[name]))


ISSUER, HOLDER = key("AZOTE_ISSUER"), key("AZOTE_HOLDER")
HOST = os.environ["AZOTE_HOST"]
VOLUMES = os.environ["AZOTE_VOLUMES"].split()
with open(os.environ["AZOTE_DOCUMENT"], encoding="utf-8") as file:
    PATHS = json.load(file)["paths"]
OPERATIONS = {
    (method.upper(), path): operation["operationId"]
    for path, methods in PATHS.items()
    for method, operation in methods.items()
}
ID = re.compile(r"(volume|instance)/(vol|i)-[0-9a-f]{17}")


def sign(signer, payload, context):
    protected = cbor2.dumps({1: -8})
    message = cbor2.dumps(["Signature1", protected, context, payload])
    return cbor2.dumps(cbor2.CBORTag(18, [protected, {}, payload, signer.sign(message)]))


def text(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(operation, resources):
    now = int(time.time())
    public = HOLDER.public_key().public_bytes_raw()
    claims = {
        1: "azote:service/tokens",
        2: "azote:service/control-plane",
        3: HOST,
        4: now + 60,
        5: now - 1,
        6: now - 1,
        7: os.urandom(16),
        8: {1: {1: 1, -1: 6, -2: public}},
        "azote:apis": [operation],
        "azote:resources": resources,
        "azote:uses": 1,
    }
    return text(sign(ISSUER, cbor2.dumps(claims), b""))


def proof(method, target, body, bearer):
    digest = lambda data: hashlib.sha256(data).digest()
    payload = [method, target, digest(body), int(time.time()), os.urandom(16), digest(bearer.encode())]
    return text(sign(HOLDER, cbor2.dumps(payload), b"azote/proof/1"))


def touched(query, body):
    """The resources that a request names, whatever else is wrong with it."""
    try:
        fields = json.loads(body)
    except ValueError:
        fields = None
    fields = fields if isinstance(fields, dict) else dict(parse_qsl(query))
    kinds = {"volume": "volume", "root": "volume", "instance": "instance"}
    named = {f"{kind}/{fields[name]}" for name, kind in kinds.items() if isinstance(fields.get(name), str)}
    return sorted({f"host/{HOST}"} | {resource for resource in named if ID.fullmatch(resource)})


class Proven(AuthBase):
    def __call__(self, request):
        body = request.body or b""
        body = body.encode() if isinstance(body, str) else body
        path, _, query = request.path_url.partition("?")
        operation = OPERATIONS.get((request.method, path), "HostStatus")
        bearer = token(operation, touched(query, body))
        request.headers["Authorization"] = f"Bearer {bearer}"
        request.headers["Azote-Proof"] = proof(request.method, request.path_url, body, bearer)
        return request


@schemathesis.hook
def before_call(context, case, kwargs):
    # Where schemathesis spoils the headers to see whether that is refused, they stay spoiled.
    headers = case.meta.components.get(ParameterLocation.HEADER) if case.meta else None
    if headers is None or headers.mode != GenerationMode.NEGATIVE:
        kwargs["auth"] = Proven()


@schemathesis.hook
def map_body(context, body):
    """Every other request is about a volume that is there."""
    if isinstance(body, dict):
        for name in ("volume", "root"):
            if isinstance(body.get(name), str) and random.random() < 0.5:
                body[name] = random.choice(VOLUMES)
    return body
