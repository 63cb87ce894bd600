"""Certificates made with the openssl command."""

import subprocess

EC = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]


def _openssl(*args):
    subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)


def self_signed(folder, name):
    """An EC certificate that vouches for itself, as (certificate, key)."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    _openssl("req", "-x509", *EC, "-keyout", key, "-out", cert, "-subj", f"/CN={name}")
    return cert, key


def issued(folder, name, ca, host):
    """A server certificate for `host`, issued by `ca` (certificate, key), as (certificate, key)."""
    return signed(folder, name, ca, f"subjectAltName=DNS:{host}\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:false\n")


def signed(folder, name, ca, extensions_text="basicConstraints=CA:false\n", subject=None):
    """A certificate issued by `ca` (certificate, key), as (certificate, key)."""
    cert, key, request, extensions = (folder / f"{name}.{kind}" for kind in ("pem", "key", "csr", "ext"))
    extensions.write_text(extensions_text)
    _openssl("req", "-new", *EC[:-2], "-keyout", key, "-out", request, "-subj", f"/CN={subject or name}")
    _openssl("x509", "-req", "-in", request, "-CA", ca[0], "-CAkey", ca[1], "-CAcreateserial", "-days", "2",
             "-extfile", extensions, "-out", cert)
    return cert, key
