"""An id of this machine, so that machines of the same name can be told apart in a shared tracking store."""

import hashlib
import platform
import re
import subprocess
import sys
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path

MACHINE_IDS = Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id")  # machine-id(5), which says to publish a hash


@cache
def machine_id() -> str:
    """Returns 16 hexadecimal digits, the same after a restart of the machine: a hash, since others may see it.

    On macOS the name of the host changes with the network, so the hardware's id stands alone. Elsewhere the name is
    part of it, and on Linux the network card's address: copies of a virtual machine, and nodes that start from one
    image, share the id of the installation.
    """
    if sys.platform == "darwin":
        known = [_hardware_uuid() or platform.node()]
    elif sys.platform == "win32":
        known = [_registry_guid(), platform.node()]
    else:
        found = [path.read_text(encoding="utf-8").strip() for path in MACHINE_IDS if path.is_file()]
        known = [*found[:1], f"{uuid.getnode():x}", platform.node()]
    return hashlib.sha256(" ".join(["initlab", *known]).encode()).hexdigest()[:16]


def _hardware_uuid() -> str | None:
    """Returns the hardware's id on macOS."""
    with suppress(OSError):
        words = ["/usr/sbin/ioreg", "-rd1", "-c", "IOPlatformExpertDevice"]
        text = subprocess.run(words, capture_output=True, encoding="utf-8", check=False).stdout
        if found := re.search(r'"IOPlatformUUID" = "(.+?)"', text):
            return found[1]
    return None


def _registry_guid() -> str:
    """Returns the id of the installation on Windows; nothing if it has none."""
    if sys.platform == "win32":
        import winreg

        access = winreg.KEY_READ | winreg.KEY_WOW64_64KEY
        with (
            suppress(OSError),
            winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"SOFTWARE\Microsoft\Cryptography", 0, access) as key,
        ):
            return str(winreg.QueryValueEx(key, "MachineGuid")[0])
    return ""
