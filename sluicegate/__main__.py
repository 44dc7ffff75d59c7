"""The command line: ``python -m sluicegate serve | check | describe | classify | validate | …``; ``--help`` lists all."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path

from sluicegate import __version__
from sluicegate.cli import classify, control_plane, encryption, job, modified_filters, receipts, validate
from sluicegate.errors import SluicegateError, StartupError

ROOT = Path(__file__).resolve().parent.parent

SNIPPETS = """\
Sluicegate {version} listens on {endpoint} (Ctrl-C stops it).
Keys and names are in {path}, readable by you alone.

With curl:

  KEY=$(python3 -c 'import json; print(json.load(open("{path}"))["api_key"])')
  curl {endpoint}/openai/v1/chat/completions -H "api-key: $KEY" -H "content-type: application/json" \\
    -d '{{"model": "chat", "temperature": 0, "messages": [{{"role": "user", "content": "What is the capital of France?"}}]}}'

With Python (.venv/bin/python has the openai package):

  import json, openai
  c = json.load(open("{path}"))
  client = openai.AzureOpenAI(azure_endpoint=c["endpoint"], api_key=c["api_key"], api_version="2024-10-21")
  question = [{{"role": "user", "content": "What is the capital of France?"}}]
  answer = client.chat.completions.create(model=c["chat_deployment"], messages=question, temperature=0)
  print(answer.choices[0].message.content)
"""


def main() -> int:
    """Run one command; the exit status is 1 when the app cannot start. ``classify`` and ``validate`` have others: ``--help``."""
    parser = argparse.ArgumentParser(
        prog="python -m sluicegate", description="Azure OpenAI's data process, in the open."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    serve = commands.add_parser("serve", help="serve the app on this machine")
    serve.add_argument("--port", type=_port, default=7071, help="0 for any free port")
    serve.add_argument("--host", default="127.0.0.1", help="an address of this machine")
    commands.add_parser("check", help="load every plugin and setting, look whether deletion is final, serve nothing")
    described = commands.add_parser("describe", help="say what happens to data here, or to one account's, in order")
    described.add_argument("account", nargs="?", help="the account; without it the whole deployment")
    classify.add_command(commands)
    validate.add_command(commands)
    job.add_command(commands)
    modified_filters.add_command(commands)
    encryption.add_commands(commands)
    commands.add_parser("demo", help="a guided tour against a throw-away data folder")
    receipts.add_commands(commands)
    control_plane.add_commands(commands)
    for name in ("serve", "check", "describe", "receipts"):
        commands.choices[name].add_argument(
            "--data", type=Path, default=Path(".data"), help="folder of the embedded storage and keys"
        )
    arguments = parser.parse_args()
    if arguments.command == "verify-receipt":
        # Before any setting is read: whoever checks a receipt may have nothing else of ours.
        return receipts.verify_receipt_command(arguments)
    if arguments.command == "validate":
        return validate.validate_command(arguments, ROOT)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # It reports every credential that it has tried, at each try; the commands say what is missing once.
    logging.getLogger("azure.identity").setLevel(logging.ERROR)
    try:
        if arguments.command == "classify":
            return classify.classify_command(arguments, ROOT / "plugins")
        if arguments.command == "job":
            return job.job_command(arguments)
        if arguments.command == "demo":
            from sluicegate import demo

            return demo.main(ROOT)
        from sluicegate.host.settings import apply_local_settings
        from sluicegate.tenancy import first_run

        apply_local_settings(ROOT, os.environ)
        arguments.data = arguments.data.resolve()
        first_run.use_embedded_settings(os.environ, arguments.data)
        run = {
            "serve": _serve,
            "check": _check,
            "describe": _describe,
            "receipts": _receipts,
            "modified-filters": _modified_filters,
            "encryption": _encryption,
            "rewrap": _encryption,
            **dict.fromkeys(control_plane.COMMANDS, _control_plane),
        }
        return run[arguments.command](arguments)
    except SluicegateError as error:
        print(f"sluicegate: {error}", file=sys.stderr)
        return 1


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, not {text!r}")
    return int(text)


def _serve(arguments: argparse.Namespace) -> int:
    from sluicegate import host
    from sluicegate.tenancy import first_run

    if not host.is_loopback(arguments.host) and os.environ["SLUICEGATE_KEYS"].startswith(first_run.EMBEDDED_KEYS):
        raise StartupError(
            f"refusing to serve on {arguments.host} with keys in a local folder: use 127.0.0.1, or set SLUICEGATE_KEYS"
        )

    try:
        arguments.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartupError(
            f"{arguments.data} cannot be the data folder: {error.strerror}; choose another: DATA=... make run, or --data"
        ) from None

    async def announce(endpoint: str) -> None:
        gate = sys.modules["function_app"].gate
        await gate.start()
        path = await first_run.write_credentials(gate, arguments.data, endpoint)
        print(SNIPPETS.format(version=__version__, endpoint=endpoint, path=_short(path)), flush=True)

    async def stop() -> None:
        await sys.modules["function_app"].gate.shutdown()

    host.run(ROOT, host=arguments.host, port=arguments.port, on_ready=announce, on_stop=stop)
    return 0


def _short(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def _check(_: argparse.Namespace) -> int:
    from sluicegate import host
    from sluicegate.app import Sluicegate

    host.LocalHost.load(ROOT)
    gate: Sluicegate = sys.modules["function_app"].gate

    async def look() -> None:
        try:
            for region in gate.regions:
                await region.weaknesses.check()
        finally:
            await gate.shutdown()

    asyncio.run(look())
    print(f"ok: {len(gate.plugins.names())} plugins, {len(gate.plugins.models())} models")
    return 0


def _describe(arguments: argparse.Namespace) -> int:
    from sluicegate.app import Sluicegate
    from sluicegate.describe import describe, of_account, with_accounts

    gate = Sluicegate(ROOT)
    if arguments.account is not None:
        print(asyncio.run(of_account(gate, arguments.account)))
        return 0
    print(describe(gate))
    print(asyncio.run(with_accounts(gate)))
    return 0


def _encryption(arguments: argparse.Namespace) -> int:
    from sluicegate.app import Sluicegate

    async def change() -> str:
        gate = Sluicegate(ROOT)
        try:
            if arguments.command == "rewrap":
                return await encryption.rewrap(gate)
            return await encryption.set_encryption(gate, arguments)
        finally:
            await gate.shutdown()

    print(asyncio.run(change()))
    return 0


def _control_plane(arguments: argparse.Namespace) -> int:
    from sluicegate.app import Sluicegate

    async def work() -> str:
        gate = Sluicegate(ROOT)
        try:
            return await control_plane.run(gate, arguments)
        finally:
            await gate.shutdown()

    print(asyncio.run(work()))
    return 0


def _modified_filters(arguments: argparse.Namespace) -> int:
    from sluicegate.app import Sluicegate

    async def decide() -> None:
        gate = Sluicegate(ROOT)
        try:
            await modified_filters.set_approval(
                gate, arguments.account, approved=arguments.approve, days=arguments.days, reason=arguments.reason
            )
        finally:
            await gate.shutdown()

    asyncio.run(decide())
    print(f"{arguments.account}: {'approved for' if arguments.approve else 'no longer approved for'} modified filters")
    return 0


def _receipts(arguments: argparse.Namespace) -> int:
    from sluicegate.app import Sluicegate

    async def save() -> int:
        gate = Sluicegate(ROOT)
        try:
            status = 0
            for region in gate.regions:
                folder = arguments.save if region is gate.regions.home else arguments.save / region.name
                status = max(status, await receipts.save_receipts(region.receipts, folder))
            return status
        except OSError as error:
            raise SluicegateError(f"{arguments.save}: cannot be written to: {error.strerror}") from None
        finally:
            await gate.shutdown()

    return asyncio.run(save())


if __name__ == "__main__":
    sys.exit(main())
