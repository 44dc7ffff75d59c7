"""Classify text for hate, sexual content, violence, self-harm and prompt attacks, offline."""

from __future__ import annotations

from sluicegate import PluginConfig, hookimpl


@hookimpl
def register_config() -> type[PluginConfig]:
    return PluginConfig
