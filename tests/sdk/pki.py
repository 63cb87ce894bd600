"""Certificates made with the openssl command."""

import subprocess

KEYS = {"ec": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"], "rsa": ["-newkey", "rsa:2048"]}


def _openssl(*args):
    subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)


def self_signed(folder, name, key_type="ec"):
    """A certificate that vouches for itself, as (certificate, key)."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    _openssl("req", "-x509", *KEYS[key_type], "-nodes", "-days", "2", "-keyout", key, "-out", cert, "-subj", f"/CN={name}")
    return cert, key


def issued(folder, name, ca, host):
    """A server certificate for `host`, issued by `ca` (certificate, key), as (certificate, key)."""
    return signed(folder, name, ca, f"subjectAltName=DNS:{host}\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:false\n")


def signed(folder, name, ca, extensions_text="basicConstraints=CA:false\n", subject=None, key_type="ec"):
    """A certificate issued by `ca` (certificate, key), as (certificate, key)."""
    cert, key, request, extensions = (folder / f"{name}.{kind}" for kind in ("pem", "key", "csr", "ext"))
    extensions.write_text(extensions_text)
    common_name = (subject or name).replace("/", "\\/")
    _openssl("req", "-new", *KEYS[key_type], "-nodes", "-keyout", key, "-out", request, "-subj", f"/CN={common_name}")
    _openssl("x509", "-req", "-in", request, "-CA", ca[0], "-CAkey", ca[1], "-CAcreateserial", "-days", "2",
             "-extfile", extensions, "-out", cert)
    return cert, key


def chained(folder, ca, subject, key_type="ec"):
    """A certificate that an intermediate of `ca` has issued, as (chain, key)."""
    authority = "basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign\n"
    between = signed(folder, "between", ca, authority, key_type=key_type)
    leaf, key = signed(folder, "leaf", between, subject=subject, key_type=key_type)
    chain = folder / "chain.pem"
    chain.write_text(leaf.read_text() + between[0].read_text())
    return chain, key
