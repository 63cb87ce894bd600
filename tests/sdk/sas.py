"""Shared access signatures, made here so that the hub's own maker is not what tests the hub."""

import base64
import hashlib
import hmac
import time
from urllib.parse import quote


# Every key and signature of the session: no log may have one of them.
SECRETS = set()


def keep(value):
    """Remembers the keys in a JSON value, which is returned."""
    if isinstance(value, list):
        for one in value:
            keep(one)
    elif isinstance(value, dict):
        for name, one in value.items():
            if name in ("primaryKey", "secondaryKey") and isinstance(one, str) and len(one) > 20:
                SECRETS.add(one)
            keep(one)
    return value


def parse(connection_string):
    """`HostName=…;DeviceId=…` as a dict."""
    parts = dict(part.split("=", 1) for part in connection_string.split(";"))
    if "SharedAccessKey" in parts:
        SECRETS.add(parts["SharedAccessKey"])
    return parts


def token(resource, key, policy=None, lifetime=3600):
    """A token for `resource` (`hub.test/devices/x`); a negative lifetime makes an expired one."""
    scope, expiry = quote(resource, safe=""), int(time.time()) + lifetime
    mac = hmac.new(base64.b64decode(key), f"{scope}\n{expiry}".encode(), hashlib.sha256)
    signature = quote(base64.b64encode(mac.digest()), safe="")
    SECRETS.update((key, signature, base64.b64encode(mac.digest()).decode()))
    named = f"&skn={policy}" if policy else ""
    return f"SharedAccessSignature sr={scope}&sig={signature}&se={expiry}{named}"
