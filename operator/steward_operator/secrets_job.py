"""``steward-secrets``: makes the Secrets of generated values that are not there yet. Keeps every one that is.

Runs once at install and upgrade, with the right to create Secrets and no other.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import secrets
import sys

from steward_operator.kube.api import Json, KubeError
from steward_operator.kube.client import HttpKubeApi, connection

ALPHABET = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
PASSWORD_LENGTH = 40
HEX_BYTES = 32


def password() -> str:
    """40 characters without the ones that look alike; over 230 bits."""
    return "".join(secrets.choice(ALPHABET) for _ in range(PASSWORD_LENGTH))


def secret(name: str, release: str, value: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/part-of": "hub-steward", "release": release},
            # Helm does not own it, and a tool that prunes must not take it for left over.
            "annotations": {"helm.sh/resource-policy": "keep", "argocd.argoproj.io/sync-options": "Prune=false"},
        },
        "type": "Opaque",
        "data": {"value": base64.b64encode(value.encode()).decode()},
    }


async def make(namespace: str, release: str, values: dict[str, str]) -> None:
    kube = HttpKubeApi(connection(), namespace)
    try:
        for name, value in values.items():
            try:
                await kube.create_secret(secret(name, release, value))
                print(f"made the Secret {name}", flush=True)
            except KubeError as error:
                if not error.is_already_there:
                    raise
                print(f"kept the Secret {name}", flush=True)
    finally:
        await kube.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="steward-secrets", description=__doc__)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--release", required=True)
    parser.add_argument("--hex", action="append", default=[], metavar="NAME", help="Secret with 32 random bytes in hex")
    parser.add_argument("--password", action="append", default=[], metavar="NAME", help="Secret with a password")
    arguments = parser.parse_args()
    values = {name: secrets.token_hex(HEX_BYTES) for name in arguments.hex}
    values |= {name: password() for name in arguments.password}
    try:
        asyncio.run(make(arguments.namespace, arguments.release, values))
    except KubeError as error:
        print(f"The Secrets could not be made: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
