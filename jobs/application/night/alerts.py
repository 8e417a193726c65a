"""Tells people and monitoring what a night came to: a message to a webhook, and figures for Prometheus."""

import http.client
import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SECONDS = 10.0  # for the receiver to answer
MOST_TEXT = 3000  # characters; chat services cut longer messages or refuse them
NO_WIDTH = "\u200b"  # a space that is not seen
# What Mattermost, Discord and Teams read in a text besides: mentions, and Markdown's links and pictures.
OBEYED = re.compile(r"@(?=\w)|](?=[(\[:])")
# For Slack: no formatting, and nothing is fetched from addresses in the text. Others pass over these entries.
AS_IT_STANDS = {"mrkdwn": False, "unfurl_links": False, "unfurl_media": False}
HELP = {
    "wordmint_night_finished_timestamp_seconds": "when the last night ended",
    "wordmint_night_exit_code": "0 good, 1 some failed, 2 not started, 3 cut short, 4 the gate said no",
    "wordmint_night_seconds": "how long it took",
    "wordmint_night_done": "concepts with a word",
    "wordmint_night_failed": "concepts that failed",
    "wordmint_night_retired": "words whose row is gone and that are kept",
    "wordmint_night_held": "new words that the gate held back",
    "wordmint_night_reconstruction": "mean image similarity over the words",
    "wordmint_night_editability": "mean text similarity over the words",
}


class AlertError(Exception):
    """An alert or the figures could not be delivered. The message has no address, because a webhook's is a secret."""


@dataclass(frozen=True, slots=True)
class Alerts:
    """webhook: receives a POST of {"text": ...}, as Slack, Teams and Mattermost read it. prometheus: a file for node_exporter's
    textfile collector, or the URL of a Pushgateway's group, such as http://pushgateway:9091/metrics/job/wordmint.
    Raises ValueError with the option.
    """

    webhook: str | None = field(default=None, repr=False)
    prometheus: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.webhook is not None and not _is_web(self.webhook):
            scheme, separator, _ = self.webhook.partition("://")
            shown = f"{scheme[:20]}://..." if separator else "..."  # the rest is secret
            raise ValueError(f"--webhook {shown}: it takes a URL that begins with https:// or http://")
        if (
            self.prometheus is not None
            and not _is_web(self.prometheus)
            and not Path(self.prometheus).absolute().parent.is_dir()
        ):
            raise ValueError(
                f"--prometheus {self.prometheus}: there is no folder {Path(self.prometheus).absolute().parent}"
            )

    def send(self, text: str, **fields: object) -> None:
        """Raises AlertError."""
        if self.webhook:
            content = {"text": said_in_chat(text[:MOST_TEXT]), **AS_IT_STANDS, **fields}
            _request("--webhook", self.webhook, "POST", json.dumps(content).encode(), "application/json")

    def export(self, figures: Mapping[str, float]) -> None:
        """Raises AlertError."""
        if self.prometheus is None:
            return
        data = prometheus_text(figures).encode()
        if _is_web(self.prometheus):
            _request("--prometheus", self.prometheus, "PUT", data, "text/plain; version=0.0.4")
            return
        try:
            part = Path(f"{self.prometheus}.part")  # the collector must not read half a file
            part.write_bytes(data)
            part.replace(self.prometheus)
        except OSError as error:
            raise AlertError(f"--prometheus {self.prometheus}: {error}") from error


def said_in_chat(text: str) -> str:
    """The text as chat services show it, with nothing in it that calls people, hides an address or fetches a picture.

    Names and reasons come from manifests and files. Escaped as https://docs.slack.dev/messaging/formatting-message-text says.

    >>> said_in_chat("<!channel> Q&A")
    '&lt;!channel&gt; Q&amp;A'
    """
    for sign, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(sign, escaped)
    return OBEYED.sub(lambda sign: sign[0] + NO_WIDTH, text)


def prometheus_text(figures: Mapping[str, float]) -> str:
    """In Prometheus' text format. figures: names of HELP -> value.

    >>> print(prometheus_text({"wordmint_night_done": 3}), end="")
    # HELP wordmint_night_done concepts with a word
    # TYPE wordmint_night_done gauge
    wordmint_night_done 3
    """
    return "".join(
        f"# HELP {name} {HELP[name]}\n# TYPE {name} gauge\n{name} {value!r}\n" for name, value in figures.items()
    )


def _is_web(url: str) -> bool:
    return url.startswith(("https://", "http://"))


def _request(option: str, url: str, method: str, data: bytes, kind: str) -> None:
    try:
        asked = urllib.request.Request(url, data, {"Content-Type": kind}, method=method)  # noqa: S310 - checked to be http(s)
        urllib.request.urlopen(asked, timeout=SECONDS).close()  # noqa: S310
    except urllib.error.HTTPError as error:
        raise AlertError(f"{option}: the server answered {error.code}") from None
    except http.client.InvalidURL:  # its text has a part of the address
        raise AlertError(
            f"{option}: the address cannot be used; it takes no spaces, no user name and no password"
        ) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise AlertError(f"{option}: the server was not reached: {type(error).__name__}") from None
