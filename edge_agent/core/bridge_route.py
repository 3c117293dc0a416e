"""What a gateway's messages mean: topics in and out, and which payload member is which field.

Topics are templates with at most one named wildcard, ``plant/{machine}/readings``: it stands for
one level, and its text goes into the topics that are answered on. Left out: ``#``, several
wildcards, arithmetic on values.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_agent.errors import InputError, SettingsError

TOPIC_CHARS_MAX = 1_024
_NAMED = re.compile(r"\{([a-z][a-z0-9_]{0,31})\}\Z")
_MISSING = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeRoute:
    """Where messages come from and where answers go.

    Attributes:
        topic_in: Template of what is listened to.
        topic_out: Template of answers.
        topic_error: Template of errors, "" for none.
    """

    topic_in: str
    topic_out: str
    topic_error: str = ""

    def __post_init__(self) -> None:
        """Check the templates; raises SettingsError."""
        names = _names(self.topic_in, "topic_in")
        if len(names) > 1:
            raise SettingsError(
                f"topic_in {self.topic_in!r} names {len(names)} wildcards, 1 at most"
            )
        for setting in ("topic_out", "topic_error"):
            template = getattr(self, setting)
            if not template and setting == "topic_error":
                continue
            unknown = [name for name in _names(template, setting) if name not in names]
            if unknown:
                raise SettingsError(
                    f"{setting} {template!r} names {{{unknown[0]}}}, which topic_in does not"
                )
            if _may_meet(self.topic_in, template):
                raise SettingsError(
                    f"{setting} {template!r} would be heard as topic_in {self.topic_in!r}:"
                    " the bridge would answer itself"
                )

    @property
    def subscription(self) -> str:
        """The MQTT filter of ``topic_in``.

        >>> BridgeRoute(topic_in="plant/{machine}/in", topic_out="out").subscription
        'plant/+/in'
        """
        return "/".join("+" if _NAMED.match(level) else level for level in _levels(self.topic_in))

    def answer_topic(self, topic: str) -> str:
        """Return where the answer to a message on ``topic`` goes.

        >>> route = BridgeRoute(topic_in="plant/{machine}/in", topic_out="out/{machine}")
        >>> route.answer_topic("plant/press-3/in")
        'out/press-3'
        """
        return self._fill(self.topic_out, topic)

    def error_topic(self, topic: str) -> str:
        """Return where an error with a message on ``topic`` goes, "" for nowhere."""
        return self._fill(self.topic_error, topic)

    def _fill(self, template: str, topic: str) -> str:
        pairs = zip(_levels(self.topic_in), _levels(topic), strict=False)
        known = {level: text for level, text in pairs if _NAMED.match(level)}
        return "/".join(known.get(level, level) for level in _levels(template))


def pick_fields(payload: Mapping[str, Any], fields: Mapping[str, str]) -> dict[str, Any]:
    """Take the schema's fields out of a payload.

    Args:
        payload: Decoded.
        fields: Field name to the path of its value, levels apart by a dot; empty takes the
            payload's members as they are named.

    Raises:
        InputError: The payload has nothing at a path.

    >>> pick_fields({"t": {"in": 21.5}, "door": 1}, {"heat": "t.in", "door": "door"})
    {'heat': 21.5, 'door': 1}
    """
    if not fields:
        return dict(payload)
    picked = {}
    for name, path in fields.items():
        value: Any = payload
        for level in path.split("."):
            value = value.get(level, _MISSING) if isinstance(value, Mapping) else _MISSING
        if value is _MISSING:
            raise InputError(f"the payload has no {path}, which is field {name} of the model")
        picked[name] = value
    return picked


def _levels(topic: str) -> list[str]:
    return topic.split("/")


def _names(template: str, setting: str) -> list[str]:
    if not 1 <= len(template.encode()) <= TOPIC_CHARS_MAX or template.startswith("$"):
        raise SettingsError(
            f"{setting} must be a topic of 1 to {TOPIC_CHARS_MAX} bytes that does not begin with"
            f" '$', got {template!r:.80}"
        )
    names = []
    for level in _levels(template):
        if named := _NAMED.match(level):
            names.append(named[1])
        elif any(sign in level for sign in "+#{}\0"):
            raise SettingsError(
                f"{setting} {template!r:.80}: level {level!r:.40} must be plain text or one whole"
                " {name} of small letters"
            )
    return names


def _may_meet(one: str, other: str) -> bool:
    """Tell whether some topic fits both templates."""
    pairs = list(zip(_levels(one), _levels(other), strict=False))
    is_same_depth = len(_levels(one)) == len(_levels(other))
    return is_same_depth and all(a == b or _NAMED.match(a) or _NAMED.match(b) for a, b in pairs)
