#!/usr/bin/env python3
"""Verifies an audit log from its files: a second reading of RFC 9162 and of C2SP tlog-tiles, tlog-checkpoint and
tlog-cosignature, sharing no code with the service. Usage: verify.py FOLDER LOG-KEY [WITNESS-KEY [NOTE]]. The
signature is checked by OpenSSL; where sigstore-python 4.5 is installed, its code checks the inclusion proofs too."""
import base64, hashlib, os, subprocess, sys, tempfile
from types import SimpleNamespace as Object

try:
    from sigstore._internal.merkle import verify_merkle_inclusion as sigstore
    from sigstore.errors import VerificationError
except ImportError:
    sigstore = None

h = lambda b: hashlib.sha256(b).digest()
leaf = lambda entry: h(b"\0" + entry)
node = lambda l, r: h(b"\1" + l + r)


def root(leaves):  # MTH, RFC 9162 2.1.1
    if len(leaves) < 2:
        return leaves[0] if leaves else h(b"")
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return node(root(leaves[:k]), root(leaves[k:]))


def inclusion(index, size, hash, proof, root):  # RFC 9162 2.1.3.2
    fn, sn, r = index, size - 1, hash
    for p in proof:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            r = node(p, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node(r, p)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and r == root


def consistency(old, new, first, second, proof):  # RFC 9162 2.1.4.2
    if old & (old - 1) == 0:
        proof = [first] + proof
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = proof[0]
    for c in proof[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = node(c, fr), node(c, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node(sr, c)
        fn, sn = fn >> 1, sn >> 1
    return fr == first and sr == second and sn == 0


def path(kind, n, width):
    groups = ["%03d" % (n % 1000)]
    while n >= 1000:
        n //= 1000
        groups.insert(0, "x%03d" % (n % 1000))
    return "tile/%s/%s%s" % (kind, "/".join(groups), ".p/%d" % width if width < 256 else "")


def signed(note, vkey, kind):
    text, lines = note.rsplit("\n\n", 1)
    text += "\n"
    name, _, key = vkey.split("+", 2)
    key = base64.b64decode(key)
    assert key[0] == kind, "not a key for this"
    keyid = h(name.encode() + b"\n" + key)[:4]
    for line in lines.splitlines():
        dash, who, sig = line.split(" ")
        sig = base64.b64decode(sig)
        if dash != "\u2014" or who != name or sig[:4] != keyid:
            continue
        message, sig = text.encode(), sig[4:]
        if kind == 4:
            message = b"cosignature/v1\ntime %d\n" % int.from_bytes(sig[:8], "big") + message
            sig = sig[8:]
        with tempfile.TemporaryDirectory() as d:
            der = bytes.fromhex("302a300506032b6570032100") + key[1:]
            for n, b in ("k", der), ("m", message), ("s", sig):
                open(os.path.join(d, n), "wb").write(b)
            run = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-keyform", "DER", "-inkey", "k", "-in", "m", "-sigfile", "s"]
            if subprocess.run(run, cwd=d, stdout=subprocess.DEVNULL).returncode == 0:
                return text
    raise SystemExit("not signed by " + name)


def by_sigstore(index, size, root, proof, entry):
    proof = Object(log_index=index, tree_size=size, hashes=proof, root_hash=root)
    try:
        sigstore(Object(_inner=Object(inclusion_proof=proof, canonicalized_body=entry)))
        return True
    except VerificationError:
        return False


def main(folder, vkey, witness=None, cosigned=None):
    read = lambda name: open(os.path.join(folder, name), "rb").read()
    text = signed(read("checkpoint").decode(), vkey, 1)
    origin, size, head = text.splitlines()[:3]
    size, head = int(size), base64.b64decode(head)
    assert origin == vkey.split("+")[0]
    entries = []
    for n in range((size + 255) // 256):
        data, at, width = read(path("entries", n, min(256, size - n * 256))), 0, 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 2], "big")
            entries.append(data[at + 2 : at + 2 + length])
            at, width = at + 2 + length, width + 1
        assert at == len(data) and width == min(256, size - n * 256)
    leaves = [leaf(entry) for entry in entries]
    assert root(leaves) == head, "the root is not that of the entries"
    level, hashes = 0, leaves
    while hashes:
        for n in range((len(hashes) + 255) // 256):
            part = hashes[n * 256 : n * 256 + 256]
            assert read(path(level, n, len(part))) == b"".join(part), "tile %d/%d" % (level, n)
        hashes = [root(hashes[n : n + 256]) for n in range(0, len(hashes) - 255, 256)]
        level += 1
    others = 0
    for line in sys.stdin:  # proofs that the service gave: inclusion INDEX SIZE ROOT HASH..., consistency OLD NEW OLD-ROOT NEW-ROOT HASH...
        kind, a, b, *rest = line.split()
        rest = [base64.b64decode(r) for r in rest]
        if kind == "inclusion":
            assert inclusion(int(a), int(b), leaves[int(a)], rest[1:], rest[0]), line
            assert not inclusion(int(a), int(b), leaf(b"forged"), rest[1:], rest[0]), line
            if sigstore:
                assert by_sigstore(int(a), int(b), rest[0], rest[1:], entries[int(a)]), line
                assert not by_sigstore(int(a), int(b), rest[0], rest[1:], b"forged"), line
                others += 1
        else:
            assert consistency(int(a), int(b), rest[0], rest[1], rest[2:]), line
            assert not consistency(int(a), int(b), leaf(b"forged"), rest[1], rest[2:]), line
    if witness:
        signed(open(cosigned).read(), vkey, 1)
        signed(open(cosigned).read(), witness, 4)
    print("verified %d entries; sigstore: %s" % (size, "%d proofs" % others if sigstore else "not run"))


main(*sys.argv[1:])
