"""Shared access signatures, made here so that the hub's own maker is not what tests the hub."""

import base64
import hashlib
import hmac
import time
from urllib.parse import quote


def parse(connection_string):
    """`HostName=…;DeviceId=…` as a dict."""
    return dict(part.split("=", 1) for part in connection_string.split(";"))


def token(resource, key, policy=None, lifetime=3600):
    """A token for `resource` (`hub.test/devices/x`); a negative lifetime makes an expired one."""
    scope, expiry = quote(resource, safe=""), int(time.time()) + lifetime
    mac = hmac.new(base64.b64decode(key), f"{scope}\n{expiry}".encode(), hashlib.sha256)
    signature = quote(base64.b64encode(mac.digest()), safe="")
    named = f"&skn={policy}" if policy else ""
    return f"SharedAccessSignature sr={scope}&sig={signature}&se={expiry}{named}"
