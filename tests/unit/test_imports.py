"""Imports go down only, AWS is behind one seam, and importing the package is light."""

import ast
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import kombu_hake

PACKAGE = Path(kombu_hake.__file__).parent
#: A module imports from the lines above its own. A new module goes where its imports allow, as high up as it can.
LAYERS = (
    "quoting",
    "_version aws_clock tasks cli_graph cli_tables exceptions forksafe limits mailbox numeric",
    "answers contents documents envelope ownership plugin priorities sigv4 signals task_check worker",
    "bindings concurrency costs credit globs naming parking policy senders",
    "dead_names lease listeners options routing stopping trouble",
    "admission group_registry settings",
    "error_table events group_setup",
    "groups wire",
    "clients",
    "home lost_tasks settling testing",
    "leases pytest_plugin queues",
    "inbox signs",
    "presence receiver topics",
    "dead_queues",
    "subscriptions verification",
    "binder janitor",
    "removal repair",
    "topology",
    "messages operations routes temporaries",
    "cli_tools deadletters declaring group_messages protocol_1 publisher unknown_tasks",
    "batching group_failures operations_dlq safeguard",
    "cli_cost cli_dlq cli_janitor dispatch group_worker",
    "cli gate",
    "channel",
    "transport",
)
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names.split()}

#: The seam: whatever else talks to AWS goes through :class:`kombu_hake.clients.Clients`.
SEAM = {"clients", "wire", "error_table"}
AWS_LIBRARIES = {"boto3", "botocore", "urllib3", "s3transfer"}
#: Where kombu meets us; nothing below knows a channel or a connection.
KOMBU_SIDE = {"channel", "transport"}


def module_names() -> list[str]:
    return sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


@cache
def parsed(name: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))


def imports_of(name: str, *, late: bool = True) -> set[str]:
    """Modules that a module of ours imports, as ``boto3`` or ``kombu_hake.clients``; not those for type checkers.

    Args:
        late: Those inside functions too.
    """
    tree = parsed(name)
    found: set[str] = set()
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not late:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}.py: relative import"
            if node.module == "kombu_hake":
                found |= {f"kombu_hake.{alias.name}" for alias in node.names}
            else:
                found.add(str(node.module))
        waiting += ast.iter_child_nodes(node)
    return found


def ours(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("kombu_hake.")} & set(module_names())


def libraries(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def test_every_module_has_a_layer() -> None:
    assert set(LAYER_OF) == set(module_names())


def offenders(names: set[str], offence: Callable[[str], set[str]]) -> dict[str, set[str]]:
    return {name: offence(name) for name in sorted(names) if offence(name)}


def test_a_module_imports_lower_layers_only() -> None:
    def higher(name: str) -> set[str]:
        return {other for other in ours(imports_of(name)) if LAYER_OF[other] >= LAYER_OF[name]}

    assert not offenders(set(module_names()), higher)


def test_only_the_seam_knows_the_libraries_for_aws_and_imports_them_late() -> None:
    def known(name: str) -> set[str]:
        return libraries(imports_of(name, late=name not in SEAM)) & AWS_LIBRARIES

    assert not offenders(set(module_names()) - {"testing"}, known)


def test_only_clients_makes_boto3_clients() -> None:
    assert [name for name in module_names() if "boto3" in libraries(imports_of(name))] == ["clients"]


def test_nothing_below_knows_a_channel_or_a_connection() -> None:
    assert not offenders(set(module_names()) - KOMBU_SIDE, lambda name: ours(imports_of(name)) & KOMBU_SIDE)


def test_celery_is_not_needed_to_publish_and_consume() -> None:
    found, waiting = set(), {"plugin", "transport"}
    while waiting:
        name = waiting.pop()
        found.add(name)
        imported = imports_of(name, late=False)
        assert "celery" not in libraries(imported), name
        waiting |= ours(imported) - found
    assert "leases" in found


def loaded_by(statement: str) -> set[str]:
    script = f"{statement}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(result.stdout.split())


def test_importing_the_package_loads_no_library_for_aws() -> None:
    loaded = loaded_by("import kombu_hake, kombu.serialization")
    assert "kombu_hake" in loaded
    assert not loaded & (AWS_LIBRARIES | {"celery", "moto"})


def test_making_a_connection_loads_no_library_for_aws() -> None:
    loaded = loaded_by("import kombu, kombu_hake\nkombu.Connection('hake://').transport")
    assert not loaded & (AWS_LIBRARIES | {"celery", "moto"})


#: Commands and tests, not a worker; Django and Celery are there before, where they are used.
_NO_WORKER = ("cli", "testing", "pytest_plugin", "__init__")
_WARM_UP = """
import sys
import celery.worker.state, celery.worker.consumer
from kombu_hake import stopping, transport
from kombu_hake.clients import Clients
from kombu_hake.settings import load, split_url
url = "hake://k:s@127.0.0.1:1?region=us-east-1&role_arn=arn:aws:iam::123456789012:role/r&connect_timeout=0.1"
clients = Clients(load(split_url(url), {}, {}))
stopping.watch()
for call in (lambda: clients.sqs("send_message", QueueUrl="u", MessageBody="b"),
             lambda: clients.sns("publish", TopicArn="arn:aws:sns:r:123456789012:t", Message="m")):
    try:
        call()
    except Exception:
        pass
print(*sys.modules)
"""


def test_a_worker_that_has_used_aws_imports_nothing_more() -> None:
    """A late import needs a file descriptor, of which a worker may have none left."""
    command = [sys.executable, "-c", _WARM_UP]
    loaded = set(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.split())
    late = {
        (name, module)
        for name in module_names()
        if not name.startswith(_NO_WORKER)
        for module in imports_of(name) - imports_of(name, late=False)
        if module not in loaded and module.partition(".")[0] != "django"
    }
    assert late == set()
