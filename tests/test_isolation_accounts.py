"""Two accounts that do everything at once, in one process and in two: neither ever sees anything of the other."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.inside import ARM, REASON, Calls, Tenant, folders, open_app

TERMS = {"alpha": "apple", "beta": "pear"}
"""What each account's blocklist forbids; policy and list have the same names in both."""
OPERATIONS = (
    "say", "stream", "refused", "others-term", "list", "export", "receipts", "audit", "read-theirs", "delete-theirs",
    "receipt-theirs", "deployment-theirs", "regenerate", "redeploy", "delete-record", "delete-user", "delete-all",
)  # fmt: skip
DELETIONS = {"delete-record", "delete-user", "delete-all"}
STEPS = st.lists(
    st.tuples(st.sampled_from(sorted(TERMS)), st.integers(0, 1), st.sampled_from(OPERATIONS)), min_size=4, max_size=24
)


class Side:
    """One account, what is known of it, and everything it was ever answered."""

    def __init__(self, tenants: list[Tenant], kind: str) -> None:
        self.tenants = tenants
        self.kind = kind
        self.secret = f"canary{uuid.uuid4().hex[:12]}"
        self.term = TERMS[kind]
        self.other: Side
        self.kept: list[str] = []
        self.receipts: list[str] = []
        self.seen: list[str] = []
        self.asked: set[str] = set()

    @property
    def marks(self) -> tuple[str, ...]:
        """What nobody else may see."""
        return (self.secret, self.tenants[0].name, f"only-{self.kind}", *self.kept, *self.receipts)

    async def do(self, process: int, operation: str) -> None:
        """Do one thing through one process, and check what can be checked at once."""
        tenant = self.tenants[process]
        match operation:
            case "say" | "stream":
                response = await tenant.say(f"{self.secret} spoke", user=self.secret, stream=operation == "stream")
                assert response.status_code == 200
                assert self.secret in response.text
                self.kept.append(response.headers["x-request-id"])
            case "refused":
                response = await tenant.say(f"an {self.term}", user=self.secret)
                assert response.status_code == 400
            case "others-term":
                response = await tenant.say(f"an {self.other.term}", user=self.secret)
                assert response.status_code == 200
            case "list" | "export" | "audit" | "receipts":
                path = {"list": "retained?limit=100", "audit": "audit?limit=100"}.get(operation, operation)
                response = await tenant.officer.get(f"/governance/{path}", params=None if "?" in path else REASON)
                if operation == "list":
                    response = await tenant.officer.get("/governance/retained", params={**REASON, "limit": 100})
                assert response.status_code == 200
            case "read-theirs" | "delete-theirs":
                id = (self.other.kept or [uuid.uuid4().hex])[-1]
                method = "GET" if operation == "read-theirs" else "DELETE"
                response = await tenant.officer.request(method, f"/governance/retained/{id}", params=REASON)
                unknown = await tenant.officer.request(
                    method, f"/governance/retained/{uuid.uuid4().hex}", params=REASON
                )
                assert response.status_code == unknown.status_code
                self.asked.add(id)
                self.seen.append(response.text)
                return
            case "receipt-theirs":
                id = (self.other.receipts or [f"{9:013d}-{uuid.uuid4().hex}"])[-1]
                response = await tenant.officer.get(f"/governance/receipts/{id}")
                assert response.status_code == 404
            case "deployment-theirs":
                path = f"/openai/deployments/only-{self.other.kind}/chat/completions"
                body = {"messages": [{"role": "user", "content": self.secret}]}
                response = await tenant.caller.post(path, params={"api-version": "2024-10-21"}, json=body)
                assert response.status_code == 404
                # The answer names what was asked for.
                self.asked.add(f"only-{self.other.kind}")
            case "regenerate":
                response = await tenant.operator.post(
                    f"{tenant.path}/regenerateKey", params=ARM, json={"keyName": "Key2"}
                )
                assert response.status_code == 200
            case "redeploy":
                response = await tenant.use_policy("strict")
                # Of two at once, one may be refused.
                assert response.status_code in (200, 201, 409)
            case _:
                await self.delete(tenant, operation)
                return
        self.seen.append(response.text + str(response.headers))

    async def delete(self, tenant: Tenant, operation: str) -> None:
        record = (self.kept or [uuid.uuid4().hex])[-1]
        path = f"/governance/retained/{record}" if operation == "delete-record" else "/governance/retained"
        scope = {"delete-user": {"user": self.secret}, "delete-all": {"all": "true"}}.get(operation, {})
        response = await tenant.officer.delete(path, params={**REASON, **scope})
        assert response.status_code in (200, 404)
        if response.status_code == 200:
            self.receipts.append(response.json()["receipt"])
        self.seen.append(response.text)


class Lines(logging.Handler):
    """What was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class World:
    """Two processes on one storage."""

    def __init__(self, folder: Path) -> None:
        self.runner = asyncio.Runner()
        self.apps = [open_app(folder, folders(folder, "local")) for _ in range(2)]
        self.logged = Lines()
        logging.getLogger().addHandler(self.logged)

    async def sides(self) -> dict[str, Side]:
        """Return two new accounts with the same names in them and different terms."""
        sides = {}
        for kind, term in TERMS.items():
            tenant = await Tenant.create(self.apps[0], f"{kind}-{uuid.uuid4().hex[:10]}", "local")
            await tenant.write_list("codenames", term)
            await tenant.write_policy("strict", "codenames")
            assert (await tenant.use_policy("strict")).status_code in (200, 201)
            only = await tenant.operator.put(
                f"{tenant.path}/deployments/only-{kind}",
                params=ARM,
                json=(await tenant.operator.get(f"{tenant.path}/deployments/chat", params=ARM)).json()
                | {"id": None, "name": None, "etag": None, "type": None, "systemData": None},
            )
            assert only.status_code in (200, 201), only.text
            sides[kind] = Side([tenant, tenant.by(self.apps[1])], kind)
        sides["alpha"].other, sides["beta"].other = sides["beta"], sides["alpha"]
        return sides

    def close(self) -> None:
        logging.getLogger().removeHandler(self.logged)

        async def stop() -> None:
            for app in self.apps:
                await app.shutdown()

        self.runner.run(stop())
        self.runner.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("two"))
    yield world
    world.close()


@settings(max_examples=10, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(steps=STEPS, processes=st.integers(1, 2), at_once=st.integers(2, 8))
def test_two_accounts_at_once_never_see_each_others_bytes(world, steps, processes, at_once):
    async def run() -> None:
        sides = await world.sides()
        for start in range(0, len(steps), at_once):
            group = steps[start : start + at_once]
            await asyncio.gather(*(sides[kind].do(process % processes, what) for kind, process, what in group))
        for kind, side in sides.items():
            await side.do(0, "list")
            await side.do(processes - 1, "export")
            await side.do(0, "audit")
            # Its own audit log and answers have what it asked for itself.
            assert not [mark for mark in {*side.other.marks} - side.asked if mark in "\n".join(side.seen)]
            if not {what for of, _, what in steps if of == kind} & DELETIONS:
                assert {id for id in side.kept if id in "\n".join(side.seen[-2:])} == set(side.kept)
        secrets = {side.secret for side in sides.values()}
        assert not [line for line in world.logged.lines if any(secret in line for secret in secrets)]
        names = [side.tenants[0].name for side in sides.values()]
        assert not [line for line in world.logged.lines if all(name in line for name in names)]

    world.runner.run(run())


# --- a foreign id is an unknown one ------------------------------------------------------------------------------------


BODY = {"messages": [{"role": "user", "content": "hello"}]}
ITEM = {"properties": {"pattern": "plum", "isRegex": False}}
KINDS = {
    "record": ("officer", "/governance/retained/{id}", REASON, {"GET": None, "DELETE": None}),
    "receipt": ("officer", "/governance/receipts/{id}", {}, {"GET": None}),
    "deployment": ("caller", "/openai/deployments/{id}/chat/completions", {"api-version": "2024-10-21"}, {"POST": BODY}),
    "deployments": ("operator", "{account}/deployments/{id}", ARM, {"GET": None, "DELETE": None}),
    "raiPolicies": ("operator", "{account}/raiPolicies/{id}", ARM, {"GET": None, "DELETE": None}),
    "raiBlocklists": ("operator", "{account}/raiBlocklists/{id}", ARM, {"GET": None, "DELETE": None}),
    "items": ("operator", "{account}/raiBlocklists/{id}/raiBlocklistItems/item0", ARM, {"GET": None, "DELETE": None, "PUT": ITEM}),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "method"), [(kind, method) for kind, row in KINDS.items() for method in row[3]])
async def test_a_foreign_id_is_answered_as_an_unknown_one_with_the_same_calls_of_storage(
    tmp_path, monkeypatch, kind, method
):
    foreign, unknown = [
        await answered(tmp_path / which, monkeypatch, kind, method, foreign=which == "foreign")
        for which in ("foreign", "unknown")
    ]

    (status, text), calls = foreign
    assert foreign == unknown
    assert calls
    assert status in ((404,) if method != "DELETE" else (200, 204, 404))
    assert "fabrikam" not in text


async def answered(folder, monkeypatch, kind, method, *, foreign):
    """Return the answer to a request with an id that another account has, or nobody, and the calls of storage it took."""
    folder.mkdir()
    gate = open_app(folder, folders(folder, "local"))
    mine, theirs = await Tenant.create(gate, "contoso", "local"), await Tenant.create(gate, "fabrikam", "local")
    await theirs.write_list("codenames", "apple")
    await theirs.write_policy("strict", "codenames")
    await theirs.operator.put(f"{theirs.path}/deployments/theirs", params=ARM, json=(await plain(theirs)))
    said = (await theirs.say("hello")).headers["x-request-id"]
    receipt = (await theirs.officer.delete("/governance/retained", params={**REASON, "user": "nobody"})).json()[
        "receipt"
    ]
    ids = {
        "record": (said, uuid.uuid4().hex),
        "receipt": (receipt, receipt[:14] + uuid.uuid4().hex),
        "raiPolicies": ("strict", "nobody"),
        "raiBlocklists": ("codenames", "nobodyhas"),
        "items": ("codenames", "nobodyhas"),
    }
    id = ids.get(kind, ("theirs", "nobody"))[not foreign]
    who, path, query, methods = KINDS[kind]
    await gate.observer.flush()
    calls = Calls(gate.regions.home.blobs, monkeypatch)

    response = await getattr(mine, who).request(
        method, path.format(id=id, account=mine.path), params=query, json=methods[method]
    )

    await gate.shutdown()
    text = re.sub(r"[0-9]{13}-[0-9a-f]{32}", "RECEIPT", response.text.replace(id, "ID"))
    return (response.status_code, text), calls.made


async def plain(tenant: Tenant) -> dict:
    """Return the body that makes another deployment like ``chat``."""
    assert (await tenant.use_policy(None)).status_code in (200, 201)
    found = (await tenant.operator.get(f"{tenant.path}/deployments/chat", params=ARM)).json()
    return {name: found[name] for name in ("sku", "properties")}
