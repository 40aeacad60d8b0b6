"""``celery -A shop hake export …``: what the app needs in AWS, for infrastructure code."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from kombu_hake.cli.tools import ROLES, connected, note

__all__ = ["export"]

#: Of a template that is sent with the request; a larger one is uploaded to S3. CloudFormation counts bytes.
_INLINE_TEMPLATE_BYTES = 51_200
#: Managed policies that a role can have without a higher quota.
_POLICIES_OF_A_ROLE = 10


@click.group()
def export() -> None:
    """Write what the app needs in AWS for Terraform, CloudFormation or IAM, as JSON."""


def _to_file(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "-o",
        "--output",
        type=click.File("w", lazy=True),
        default="-",
        help="Write to a file instead of standard output.",
    )(command)


@export.command()
@click.option("--no-import", is_flag=True, help="Do not read AWS: no import blocks for existing resources.")
@_to_file
@click.pass_context
def terraform(ctx: click.Context, no_import: bool, output: Any) -> None:
    """Queues, topics and subscriptions as Terraform JSON, a .tf.json file.

    What AWS has already gets an import block, and is written as it is there: terraform plan then shows no change.
    """
    with connected(ctx, offline=no_import) as broker:
        document = broker.export_terraform(imports=not no_import)
    count = sum(len(found) for found in document["resource"].values())
    existing = "" if no_import else f", {len(document.get('import', ()))} of them exist and are to be imported"
    note(f"{count} resources{existing}.")
    _write(document, output)


@export.command()
@_to_file
@click.pass_context
def cloudformation(ctx: click.Context, output: Any) -> None:
    """Queues, topics and subscriptions as a CloudFormation template."""
    with connected(ctx, offline=True) as broker:
        document = broker.export_cloudformation()
    _note_size(document)
    _write(document, output)


@export.command()
@click.option("--role", type=click.Choice(ROLES), help="Only this role.")
@_to_file
@click.pass_context
def iam(ctx: click.Context, role: str | None, output: Any) -> None:
    """IAM policies of each role, with the ARNs of this app.

    With --role, one policy document; without, an object with the document of each role. Where a document would be too
    long for a managed policy, there is a list of several to attach together.
    """
    found: dict[str, Any] = {}
    with connected(ctx, offline=True) as broker:
        for each in (role,) if role is not None else ROLES:
            documents = broker.export_iam(each)  # type: ignore[arg-type]  # one of ROLES
            found[each] = documents[0] if len(documents) == 1 else documents
            if len(documents) > 1:
                note(f"The rights of a {each} take {len(documents)} managed policies: attach all of them.")
            if len(documents) > _POLICIES_OF_A_ROLE:
                note(
                    f"A role has at most {_POLICIES_OF_A_ROLE} by default. Give parts of the app roles of their own, "
                    "or allow a pattern of the namespace, as the documentation does."
                )
    _write(found if role is None else found[role], output)


@export.command()
@_to_file
@click.pass_context
def alarms(ctx: click.Context, output: Any) -> None:
    """CloudWatch alarms for queues and topics as a CloudFormation template."""
    with connected(ctx, offline=True) as broker:
        document = broker.export_alarms()
    note(f"{len(document['Resources'])} alarms, which AWS charges for each month.")
    _note_size(document)
    _write(document, output)


def _note_size(document: dict[str, Any]) -> None:
    size = len(_text(document).encode())
    if size > _INLINE_TEMPLATE_BYTES:
        note(f"The template has {size:,} bytes. Above {_INLINE_TEMPLATE_BYTES:,} it has to be uploaded to S3 first.")


def _write(document: Any, output: Any) -> None:
    # ASCII: what others wrote into tags and policies can't reach a terminal as control characters.
    output.write(_text(document) + "\n")


def _text(document: Any) -> str:
    return json.dumps(document, indent=2)
