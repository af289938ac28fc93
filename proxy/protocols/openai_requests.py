"""What a request of OpenAI's API holds: its fields, each of its type, and how much they amount to.

The texts are counted, not inspected.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

import orjson

from proxy.protocols.openai_meter import letters
from proxy.protocols.openai_paths import Question
from proxy.protocols.v2_messages import check_text, shown
from proxy.rules import PARAMETER, ROWS_PER_REQUEST, SHAPE, SYNTAX, VALUE, Refusal

_MOST: Final = 2**31 - 1
# Of these media servers take the bytes themselves; anything else is fetched, or read from a disk.
_EMBEDDED: Final = re.compile(r"data:image/[a-z0-9.+-]{1,32};base64,")
_REMOTE: Final = re.compile(r"https?://[!-~]+")


@dataclass(frozen=True, slots=True)
class Volume:
    """How much a request holds, and how much it asks for.

    Attributes:
        prompts: conversations, prompts, or texts to be embedded.
        choices: answers to each that the server makes, told or not.
        characters: of text.
        tokens: of prompts that were sent as tokens.
        media: characters of embedded media.
        parts: how many of those there are.
    """

    prompts: int
    choices: int
    characters: int
    tokens: int
    media: int
    parts: int

    @property
    def items(self) -> int:
        """Answers to be made."""
        return self.prompts * self.choices


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= _MOST


def _is_several(value: Any) -> TypeGuard[int]:
    return type(value) is int and 1 <= value <= _MOST


def _is_integer(value: Any) -> bool:
    return type(value) is int


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_flag(value: Any) -> bool:
    return type(value) is bool


def _is_text(value: Any) -> bool:
    return type(value) is str


def _is_object(value: Any) -> bool:
    return type(value) is dict


def _is_texts(value: Any) -> bool:
    return type(value) is str or (
        type(value) is list and all(type(one) is str for one in value) and len(value) > 0
    )


def _is_texts_by_name(value: Any) -> bool:
    return type(value) is dict and all(type(one) is str for one in value.values())


def _is_numbers_by_name(value: Any) -> bool:
    return type(value) is dict and all(_is_number(one) for one in value.values())


def _is_choice(value: Any) -> bool:
    return type(value) in (str, dict)


def _is_functions(value: Any) -> bool:
    return type(value) is list and all(type(one) is dict for one in value)


def _is_tools(value: Any) -> bool:
    # Tools of other types are the server's own: it searches, fetches and executes.
    return _is_functions(value) and all(one.get("type") == "function" for one in value)


def _is_called(value: Any) -> bool:
    return (
        type(value) is dict
        and value.keys() <= {"name", "arguments"}
        and all(type(one) is str for one in value.values())
    )


def _is_calls(value: Any) -> bool:
    return _is_tools(value) and all(_is_called(one.get("function")) for one in value)


def _is_stream_options(value: Any) -> bool:
    return (
        type(value) is dict
        and value.keys() <= {"include_usage", "include_obfuscation"}
        and all(type(one) is bool for one in value.values())
    )


def _is_encoding(value: Any) -> bool:
    return value in ("float", "base64")


def _is_anything(value: Any) -> bool:
    return True


Check = Callable[[Any], bool]

_SAMPLING: Final[dict[str, Check]] = {
    "frequency_penalty": _is_number,
    "logit_bias": _is_numbers_by_name,
    "max_tokens": _is_count,
    "n": _is_several,
    "presence_penalty": _is_number,
    "seed": _is_integer,
    "stop": _is_texts,
    "stream": _is_flag,
    "stream_options": _is_stream_options,
    "temperature": _is_number,
    "top_p": _is_number,
    "user": _is_text,
}
_FIELDS: Final[dict[Question, dict[str, Check]]] = {
    "chat": {
        "model": _is_text,
        "messages": _is_anything,
        **_SAMPLING,
        "function_call": _is_choice,
        "functions": _is_functions,
        "logprobs": _is_flag,
        "max_completion_tokens": _is_count,
        "metadata": _is_texts_by_name,
        "parallel_tool_calls": _is_flag,
        "prediction": _is_object,
        "prompt_cache_key": _is_text,
        "reasoning_effort": _is_text,
        "response_format": _is_object,
        "safety_identifier": _is_text,
        "tool_choice": _is_choice,
        "tools": _is_tools,
        "top_logprobs": _is_count,
        "verbosity": _is_text,
    },
    "completions": {
        "model": _is_text,
        "prompt": _is_anything,
        **_SAMPLING,
        "best_of": _is_several,
        "echo": _is_flag,
        "logprobs": _is_count,
        "suffix": _is_text,
    },
    "embeddings": {
        "model": _is_text,
        "input": _is_anything,
        "dimensions": _is_several,
        "encoding_format": _is_encoding,
        "user": _is_text,
    },
}
_PROMPTS: Final[dict[Question, str]] = {
    "chat": "messages",
    "completions": "prompt",
    "embeddings": "input",
}
# Of the content more is asked.
_MESSAGE: Final[dict[str, Check]] = {
    "annotations": _is_functions,
    "audio": _is_object,
    "content": _is_anything,
    "function_call": _is_called,
    "name": _is_text,
    "reasoning_content": _is_text,
    "refusal": _is_text,
    "role": _is_text,
    "tool_call_id": _is_text,
    "tool_calls": _is_calls,
}


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads requests, and refuses what is not known or is too much.

    Args:
        max_items: prompts times choices of one request.
        max_characters: of its text and media; None: as many as a body holds.
        max_tokens: that it may ask for, over all its choices; None: any number.
        models: that may be asked for; none: any.
        parameters: further fields that the operator vouches for.
        remote: whether the server may be told to fetch images.
    """

    max_items: int
    max_characters: int | None = None
    max_tokens: int | None = None
    models: Collection[str] = ()
    parameters: Collection[str] = ()
    remote: bool = False

    def read(self, question: Question, document: Any) -> tuple[dict[str, Any], Volume]:
        """The fields of a request in their canonical order, and what they amount to.

        A field that is null counts as left out.

        Raises:
            Refusal: SYNTAX, PARAMETER, SHAPE, VALUE or ROWS_PER_REQUEST.
        """
        if type(document) is not dict:
            raise Refusal(SYNTAX, "the body is not an object")
        given = {key: value for key, value in document.items() if value is not None}
        known = _FIELDS[question]
        for key, value in given.items():
            check = known.get(key)
            if check is None:
                if key not in self.parameters:
                    raise Refusal(PARAMETER, shown(key))
            elif not check(value):
                raise Refusal(VALUE, f"{key} has a value that it cannot have")
        self._check_model(given)
        volume = self._volume(question, given)
        if volume.items > self.max_items:
            raise Refusal(
                ROWS_PER_REQUEST,
                f"{volume.prompts} inputs, {volume.choices} answers each; "
                f"at most {self.max_items} in all",
            )
        if self.max_characters is not None:
            size = volume.characters + volume.media
            if size > self.max_characters:
                detail = f"{size} characters; at most {self.max_characters}"
                raise Refusal(ROWS_PER_REQUEST, detail)
        if self.max_tokens is not None and question != "embeddings":
            self._check_tokens(given, volume)
        names = [*(key for key in known if key in given), *sorted(given.keys() - known.keys())]
        return {key: given[key] for key in names}, volume

    def _check_model(self, given: Mapping[str, Any]) -> None:
        model = given.get("model")
        if model is not None:
            check_text("model", model)
        if self.models and model not in self.models:
            raise Refusal(PARAMETER, "model: not one that is served here")

    def _check_tokens(self, given: Mapping[str, Any], volume: Volume) -> None:
        counts = (given.get("max_tokens"), given.get("max_completion_tokens"))
        asked = [count for count in counts if _is_count(count)]
        if not asked:
            raise Refusal(VALUE, f"say max_tokens: at most {self.max_tokens} in all")
        # Some servers take none for no limit.
        if min(asked) < 1:
            raise Refusal(VALUE, "max_tokens is at least 1")
        if max(asked) * volume.items > (self.max_tokens or 0):
            raise Refusal(VALUE, f"max_tokens over all answers is at most {self.max_tokens}")

    def _volume(self, question: Question, given: Mapping[str, Any]) -> Volume:
        name = _PROMPTS[question]
        if name not in given:
            raise Refusal(SYNTAX, f"{name} is missing")
        media = parts = tokens = 0
        if question == "chat":
            prompts = 1
            media, parts = _media(given[name], remote=self.remote)
            characters = sum(map(_said, given[name])) - media
        else:
            prompts, characters, tokens = _prompts(name, given[name])
        for key, value in given.items():
            if key not in (name, "model"):
                characters += _written(value)
        counts = (given.get("n"), given.get("best_of"))
        choices = max([count for count in counts if _is_several(count)], default=1)
        return Volume(prompts, choices, characters, tokens, media, parts)


def _prompts(name: str, value: Any) -> tuple[int, int, int]:
    """Prompts, characters and tokens of a text, texts, tokens, or several of those."""
    if type(value) is str:
        return 1, len(value), 0
    if type(value) is not list or not value:
        raise Refusal(SYNTAX, f"{name} is neither a text nor a list of texts or tokens")
    kinds = set(map(type, value))
    if kinds == {str}:
        return len(value), sum(map(len, value)), 0
    if kinds == {int}:
        return 1, 0, _count(name, value)
    if kinds == {list}:
        return len(value), 0, sum([_count(name, tokens) for tokens in value])
    raise Refusal(SHAPE, f"{name} mixes texts, tokens and other things")


def _count(name: str, tokens: list[Any]) -> int:
    if not tokens or set(map(type, tokens)) != {int} or min(tokens) < 0 or max(tokens) > _MOST:
        raise Refusal(VALUE, f"{name} holds what are not tokens")
    return len(tokens)


def _said(message: dict[str, Any]) -> int:
    """The characters of a message, its media among them."""
    return letters(message.get("content")) + sum(
        [_written(value) for key, value in message.items() if key != "content"]
    )


def _written(value: Any) -> int:
    """The characters of a text, and of an object or a list as JSON: so calls, schemas and
    definitions, with their names and numbers, become part of the prompt."""
    if type(value) is str:
        return len(value)
    return len(orjson.dumps(value).decode()) if type(value) in (dict, list) else 0


def _media(messages: Any, *, remote: bool) -> tuple[int, int]:
    """Characters of embedded media in a conversation, and how many media there are."""
    if type(messages) is not list or not messages:
        raise Refusal(SYNTAX, "messages is not a list of messages")
    size = parts = 0
    for message in messages:
        if type(message) is not dict or type(message.get("role")) is not str:
            raise Refusal(SYNTAX, "a message is not an object with a role")
        for key, value in message.items():
            check = _MESSAGE.get(key)
            if check is None:
                raise Refusal(PARAMETER, f"{shown(key)} in a message")
            if value is not None and not check(value):
                raise Refusal(VALUE, f"{key} of a message has a value that it cannot have")
        content = message.get("content")
        if content is None or type(content) is str:
            continue
        if type(content) is not list:
            raise Refusal(SYNTAX, "content is neither a text nor a list of parts")
        for part in content:
            own = _part(part, remote=remote)
            size += own or 0
            parts += own is not None
    return size, parts


def _part(part: Any, *, remote: bool) -> int | None:
    """Characters of the medium that a part is, or None if it is text."""
    kind = part.get("type") if type(part) is dict else None
    # Servers guess at parts that name no type, or other keys than that of their type.
    if type(kind) is not str or part.keys() != {"type", kind}:
        raise Refusal(SYNTAX, "a part is not an object of its type and what that names")
    value = part[kind]
    if kind in ("text", "refusal") and type(value) is str:
        return None
    if kind == "image_url":
        if type(value) is dict and value.keys() <= {"url", "detail"}:
            _check_detail(value.get("detail", "auto"))
            value = value.get("url")
        if type(value) is str:
            return _address(value, remote=remote)
    if kind == "input_audio" and type(value) is dict and value.keys() == {"data", "format"}:
        data = value["data"]
        if type(data) is str and type(value["format"]) is str:
            return len(data)
    raise Refusal(PARAMETER, f"a part of type {shown(kind)}")


def _check_detail(value: Any) -> None:
    if type(value) is not str or len(value) > 16:
        raise Refusal(SYNTAX, "detail is not a word")


def _address(value: str, *, remote: bool) -> int:
    if _EMBEDDED.match(value) is not None:
        return len(value)
    if remote and _REMOTE.fullmatch(value) is not None:
        return len(value)
    raise Refusal(PARAMETER, "an image that is not embedded as data:image/…;base64,…")
