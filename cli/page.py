"""One page of a frontend, read over HTTP: for the commands that show what it says. Blocking."""

import http.client
import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass

from cli.trust import Trust


@dataclass(frozen=True, slots=True)
class Frontend:
    """Where it is, and the key that it wants."""

    url: str
    api_key: str | None = None
    context: ssl.SSLContext | None = None
    """None: without TLS."""

    @classmethod
    def checked(cls, url: str, api_key: str | None, trust: Trust) -> "Frontend":
        """Raises ConfigError for certificates that cannot be used."""
        return cls(url.rstrip("/"), api_key, trust.for_https(url))

    def read(self, path: str, timeout_s: float = 10.0) -> bytes:
        """Raises OSError for an answer that is not the page, ValueError for a URL that cannot be one."""
        if not self.url.startswith(("http://", "https://")):
            raise ValueError("the address must start with http:// or https://")
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        request = urllib.request.Request(self.url + path, headers=headers)
        # A proxy for the web is not the way to a server that the user names by address.
        handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self.context)
        try:
            with urllib.request.build_opener(*handlers).open(request, timeout=timeout_s) as response:
                return bytes(response.read())
        except http.client.HTTPException as error:
            raise OSError(f"not an answer: {error!r}") from error
        except urllib.error.HTTPError as error:
            raise OSError(f"{error.code} {_message(error) or error.reason}") from error


def _message(error: urllib.error.HTTPError) -> str:
    """The server's own words, if it has any."""
    try:
        return str(json.loads(error.read())["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return ""
