"""The embedded local host: serves function_app.py without the Core Tools, for development, demos and tests."""

from sluicegate.host.local_host import LocalHost
from sluicegate.host.loopback import is_loopback
from sluicegate.host.server import run, serve

__all__ = ["LocalHost", "is_loopback", "run", "serve"]
