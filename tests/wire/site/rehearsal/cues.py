"""What the plugins say to the test that plays with them, over the socket that ``REHEARSAL_CUES`` names.

Without one, nothing is said and nobody is waited for.
"""

import asyncio
import os
import socket


def tell(what: str) -> None:
    """Say something; the test has it when this returns."""
    if path := os.environ.get("REHEARSAL_CUES"):
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(path)
            line.sendall(f"tell {what}\n".encode())
            line.recv(1)


async def wait_for(cue: str) -> None:
    """Say that a cue is waited for, and wait until the test gives it."""
    if path := os.environ.get("REHEARSAL_CUES"):
        reader, writer = await asyncio.open_unix_connection(path)
        try:
            writer.write(f"wait {cue}\n".encode())
            await reader.read(1)
        finally:
            writer.close()
