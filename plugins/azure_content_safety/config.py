"""The settings of this plugin."""

from __future__ import annotations

import os

from pydantic import Field, PrivateAttr, field_validator

from sluicegate import PluginConfig
from sluicegate.errors import StartupError

from .asking import Asking
from .service import ContentSafety


class Config(PluginConfig):
    endpoint: str = Field(pattern=r"^https://[A-Za-z0-9.-]+(:\d+)?/?$")
    """Of the Content Safety or AI Services resource: ``https://NAME.cognitiveservices.azure.com``."""
    key_setting: str = ""
    """The app setting that holds a key of the resource. Better leave it out: then the app's managed identity is used, which
    needs the role Cognitive Services User on the resource."""
    harms: bool = True
    """Ask for hate, sexual, violence and self-harm."""
    prompt_shields: bool = True
    """Ask for attacks in users' prompts and in documents."""
    protected_material: bool = True
    """Ask for known text and known code in answers."""
    groundedness: bool = False
    """Ask, at the end of a streamed answer, what it claims that the documents of its prompt do not; not in every region."""
    blocklists: tuple[str, ...] = ()
    """Names of blocklists in the resource that prompts and answers are checked against, whatever the policy; a hit blocks."""
    timeout_s: float = Field(default=10.0, gt=0, le=60)
    """How long one question may take, waiting for its turn and retries included."""
    calls_at_once: int = Field(default=16, ge=1, le=256)
    """How many calls of one process may be under way."""
    most_calls: int = Field(default=256, ge=1)
    """How many calls one request may need; one that needs more is refused with a 400. A call takes 10,000 characters, of one
    prompt or input."""

    _service: ContentSafety | None = PrivateAttr(default=None)

    @field_validator("endpoint")
    @classmethod
    def _without_slash(cls, endpoint: str) -> str:
        return endpoint.rstrip("/")

    @property
    def service(self) -> ContentSafety:
        """The connected service; ``startup`` connects it."""
        if self._service is None:
            raise RuntimeError("startup has not run")
        return self._service

    def connect(self) -> None:
        """Prepare the client; nothing is sent yet.

        Raises:
            StartupError: The app setting with the key is not set.
        """
        key = os.environ.get(self.key_setting, "") if self.key_setting else None
        if key == "":
            raise StartupError(
                f"[plugins.azure_content_safety] names the app setting {self.key_setting}, which is not set"
            )
        self._service = ContentSafety(Asking(self.endpoint, key, timeout_s=self.timeout_s, at_once=self.calls_at_once))

    async def close(self) -> None:
        """Close the client."""
        if self._service is not None:
            await self._service.close()
