"""``make audit``: known vulnerabilities of what is installed, by pip-audit. Needs its service: no part of ``make test``.

Exit status: 0 none known, 1 some are, 75 (try again) the service cannot be reached, 2 anything else.
Arguments go on to
pip-audit; without any, this environment is looked at.
"""

from __future__ import annotations

import json
import subprocess
import sys

FOUND, BROKEN, UNREACHED = 1, 2, 75
_NETWORK = (
    "ServiceError",
    "ConnectionError",
    "Connection refused",
    "Max retries",
    "timed out",
    "Could not connect",
)
_NETWORK += (
    "Failed to establish",
    "NameResolutionError",
    "Name or service not known",
    "ProxyError",
    "SSLError",
    "HTTPError",
)


def main(arguments: list[str]) -> int:
    command = [sys.executable, "-m", "pip_audit", "--progress-spinner", "off"]
    arguments = arguments or ["--local", "--skip-editable"]
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [*command, "--format", "json", *arguments], capture_output=True, text=True, check=False
    )
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        if any(sign in done.stderr for sign in _NETWORK):
            print(f"audit: the vulnerability service cannot be reached, so nothing is known: {reason[0]}")
            return UNREACHED
        print(f"audit: pip-audit failed: {reason[0]}")
        return BROKEN
    found = [(each, bad) for each in packages for bad in each.get("vulns", [])]
    for package, bad in found:
        fixed = ", ".join(bad["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {bad['id']}, fixed in {fixed}")
    print(f"audit: {len(packages)} packages, {len(found)} known vulnerabilities")
    return FOUND if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
