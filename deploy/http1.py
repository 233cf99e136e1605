"""HTTP/1.1 for clients that would rather speak HTTP/2: an offer of `h2c` is declined by answering in HTTP/1.1.

Java's default client offers it with every first request. uvicorn's parser takes what follows such a head for HTTP/2
and drops the body. Loaded in the process of Ray Serve's proxy, too, without torch.
"""

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

NAME = "neurodial.deploy.http1:Http1"
_OFFER = (b"upgrade", b"http2-settings", b"connection")


class Http1(HttpToolsProtocol):
    """uvicorn's protocol, which reads a request that offers an upgrade again, without the offer."""

    @property
    def _is_declined(self) -> bool:
        return bool(self.parser.should_upgrade()) and not self._should_upgrade()

    def data_received(self, data: bytes) -> None:
        """Takes what has arrived."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as stopped:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
                return
            head = self._without_offer()
            self.parser = httptools.HttpRequestParser(self)
            self.data_received(head + data[stopped.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    def on_headers_complete(self) -> None:
        """Starts on the request, unless it has to be read again."""
        if not self._is_declined:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Ends the request, unless it has to be read again."""
        if not self._is_declined:
            super().on_message_complete()

    def _without_offer(self) -> bytes:
        first = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        kept = [b"%s: %s" % (name, value) for name, value in self.headers if name not in _OFFER]
        return b"\r\n".join([first, *kept, b"", b""])
