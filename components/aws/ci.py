"""What CI needs in IAM: whom its two roles trust, and what they may do with state and secrets. Pure.

GitHub's OIDC tokens name a repository in their subject: `repo:OWNER/NAME:…`, and for repositories that were
made, renamed or moved since July 2026, or asked for it, with ids: `repo:OWNER@OWNER_ID/NAME@REPOSITORY_ID:…`
(https://github.blog/changelog/2026-04-23-immutable-subject-claims-for-github-actions-oidc-tokens).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ISSUER = "token.actions.githubusercontent.com"
AUDIENCE = "sts.amazonaws.com"
REVIEW = ("pull_request", "ref:refs/heads/main")
"""Where a review runs: for a pull request of this repository's own branches, and by hand on `main`."""


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository of GitHub, with its ids."""

    owner: str
    name: str
    owner_id: int
    id: int

    def subjects(self, where: Sequence[str]) -> list[str]:
        """The subjects of its tokens at these places, in both forms."""
        forms = (f"{self.owner}/{self.name}", f"{self.owner}@{self.owner_id}/{self.name}@{self.id}")
        return [f"repo:{form}:{each}" for form in forms for each in where]


def apply_places(stacks: Sequence[str]) -> list[str]:
    """Where an apply runs: in the environment that is called as its stack, for `main` only."""
    return [f"environment:{stack}" for stack in stacks]


def trust(repository: Repository, where: Sequence[str], account: str) -> dict[str, Any]:
    """A role's trust policy: tokens of this repository at these places, and no others."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Federated": f"arn:aws:iam::{account}:oidc-provider/{ISSUER}"},
                "Action": "sts:AssumeRoleWithWebIdentity",
                "Condition": {
                    "StringEquals": {
                        f"{ISSUER}:aud": AUDIENCE,
                        f"{ISSUER}:sub": repository.subjects(where),
                    }
                },
            }
        ],
    }


def state(where: str, key_alias: str, account: str, *, changes: bool) -> dict[str, Any]:
    """What a role may do with Pulumi's state in a bucket or in a folder of one (`NAME/FOLDER`), and with the
    key of its secrets.

    A preview takes no lock and writes nothing.
    """
    bucket = where.partition("/")[0]
    objects = ["s3:GetObject", *(["s3:PutObject", "s3:DeleteObject"] if changes else [])]
    crypt = ["kms:Decrypt", *(["kms:Encrypt"] if changes else [])]
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": f"arn:aws:s3:::{bucket}"},
            {"Effect": "Allow", "Action": objects, "Resource": f"arn:aws:s3:::{where}/.pulumi/*"},
            {
                "Effect": "Allow",
                "Action": crypt,
                # an alias is no resource to these actions: the key is found by what it is called
                "Resource": f"arn:aws:kms:*:{account}:key/*",
                "Condition": {"ForAnyValue:StringEquals": {"kms:ResourceAliases": key_alias}},
            },
        ],
    }
