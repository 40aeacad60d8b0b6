"""Models of events, to and from JSON: a dataclass, a TypedDict, or a pydantic model. Pure.

The payload is always a JSON object with the fields of the model, so publishers and handlers may have different models,
or none. pydantic is not imported: its models are recognized by their methods.

Dataclasses and TypedDicts are checked here, strictly: text is not accepted for a number. Types that JSON lacks become
text: ``datetime``, ``date``, ``time`` (ISO 8601), ``UUID``, ``Decimal``; an ``Enum`` becomes its value. A pydantic
model decides what it accepts.
"""

from __future__ import annotations

import inspect
import json
import math
import sys
import typing
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import MISSING, is_dataclass
from dataclasses import fields as dataclass_fields
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Generic, Literal, NamedTuple, TypeVar, Union, cast
from uuid import UUID

from kombu_hake.exceptions import InvalidEvent

__all__ = ["Model"]

T = TypeVar("T")
#: Maximum number of faults that an error lists.
MAX_FAULTS = 10
MAX_FAULT_CHARS = 500
#: Largest int that is also a float.
MAX_FLOAT = int(sys.float_info.max)
_LISTS = (list, Sequence, MutableSequence, tuple)
_SETS = (set, frozenset, AbstractSet)
_MAPPINGS = (dict, Mapping, MutableMapping)
#: Wrappers of a type that do not restrict its values; by name, because typing_extensions has them too.
_WRAPPERS = ("Annotated", "Required", "NotRequired", "ReadOnly", "Final")


class Model(Generic[T]):
    """The model of one event."""

    def __init__(self, cls: Callable[..., T], event: str) -> None:
        """Checks the types of all fields.

        Args:
            cls: A dataclass, a TypedDict class or a pydantic model class.
            event: What errors call the event.
        Raises:
            TypeError: it is none of these, or a field has a type that has no form in JSON.
        """
        if not (_is_structure(cls) or _is_pydantic(cls)):
            raise TypeError(f"The model of {event} must be a dataclass, a TypedDict or a pydantic model, not {cls!r}.")
        self.cls = cls
        self.event = event
        _check(cls, _name(cls))

    def make(self, *args: Any, **kwargs: Any) -> T:
        """An instance from the arguments of the class.

        Raises:
            InvalidEvent: a field is missing or unknown, or the class refuses a value.
        """
        try:
            return self.cls(*args, **kwargs)
        except (TypeError, ValueError) as exc:
            raise self._invalid(_faults_of(exc)) from exc

    def dump(self, value: T | Mapping[str, Any]) -> dict[str, Any]:
        """The payload of an instance, or of its fields as a mapping.

        Raises:
            InvalidEvent: a field is missing or unknown, or has another type than the model says.
        """
        return cast(dict[str, Any], self._converted(value, is_sent=True))

    def parse(self, payload: Any) -> T:
        """The instance of a payload. Fields that the model does not have are ignored: a newer publisher may send them.

        Raises:
            InvalidEvent: a field is missing, or has another type than the model says.
        """
        return cast(T, self._converted(payload, is_sent=False))

    def _converted(self, value: Any, *, is_sent: bool) -> Any:
        try:
            return _convert(self.cls, value, "", is_sent)
        except _Mismatch as exc:
            raise self._invalid(exc.faults) from None

    def _invalid(self, faults: Sequence[str]) -> InvalidEvent:
        shown = [fault.strip()[:MAX_FAULT_CHARS] for fault in faults[:MAX_FAULTS]]
        return InvalidEvent(f"Data of {self.event} does not match {_name(self.cls)}: {'; '.join(shown)}", faults=shown)


class _Mismatch(Exception):
    """A value is not of its type.

    Attributes:
        faults: One text per fault; it begins with the field.
    """

    def __init__(self, *faults: str) -> None:
        super().__init__(*faults)
        self.faults = faults


class _Field(NamedTuple):
    kind: Any
    is_required: bool


def _faults_of(exc: Exception) -> list[str]:
    """The faults of pydantic's ``ValidationError``, or of any other error of a model."""
    errors = getattr(exc, "errors", None)
    if not callable(errors):
        return [str(exc)]
    return [f"{'.'.join(map(str, error['loc']))}: {error['msg']}".removeprefix(": ") for error in errors()]


def _is_structure(kind: Any) -> bool:
    return isinstance(kind, type) and (is_dataclass(kind) or _is_typed_dict(kind))


def _is_typed_dict(kind: Any) -> bool:
    """Also for those of typing_extensions."""
    return isinstance(kind, type) and dict in kind.__mro__ and hasattr(kind, "__required_keys__")


def _is_pydantic(kind: Any) -> bool:
    return isinstance(kind, type) and all(
        callable(getattr(kind, name, None)) for name in ("model_validate", "model_validate_json", "model_dump")
    )


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind).replace("typing.", "")


def _bare(kind: Any) -> Any:
    """A type without wrappers, NewTypes and aliases."""
    while True:
        origin = typing.get_origin(kind)
        # Annotated[int, …] has its type as origin where get_origin() is not asked.
        if getattr(origin, "__name__", getattr(origin, "_name", None)) in _WRAPPERS:
            kind = typing.get_args(kind)[0]
        elif hasattr(kind, "__supertype__"):
            kind = kind.__supertype__
        elif type(kind).__name__ == "TypeAliasType":
            kind = kind.__value__
        elif kind is None:
            return NoneType
        else:
            return kind


@cache
def _fields(cls: Any) -> dict[str, _Field]:
    """The fields of a dataclass or a TypedDict."""
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError as exc:
        raise TypeError(
            f"The types of {cls.__name__}'s fields cannot be read: {exc}. Import them outside of TYPE_CHECKING."
        ) from exc
    if _is_typed_dict(cls):
        return {name: _Field(_bare(hint), _is_required(cls, name, hint)) for name, hint in hints.items()}
    return {
        field.name: _Field(_bare(hints[field.name]), field.default is MISSING and field.default_factory is MISSING)
        for field in dataclass_fields(cls)
        if field.init
    }


def _is_required(cls: Any, name: str, hint: Any) -> bool:
    # With `from __future__ import annotations` the class itself takes NotRequired[…] for required.
    origin = typing.get_origin(hint)
    said = getattr(origin, "__name__", getattr(origin, "_name", None))
    return said == "Required" or (said != "NotRequired" and name in cls.__required_keys__)


def _check(kind: Any, where: str, path: tuple[Any, ...] = ()) -> set[Any]:
    """Raise TypeError if a type has no form in JSON. Returns the structures that contain it and that it contains.

    Args:
        path: The structures that contain it.
    """
    kind = _bare(kind)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind in (Any, object) or kind in _SCALARS or origin is Literal or _is_enum(kind) or _is_pydantic(kind):
        return set()
    if _is_structure(kind):
        return {kind} if kind in path else _check_structure(kind, where, path)
    if origin in (Union, UnionType):
        inner = args
    elif (origin or kind) in (*_LISTS, *_SETS):
        inner = tuple(arg for arg in args if arg is not Ellipsis)
    elif (origin or kind) in _MAPPINGS:
        if args and _bare(args[0]) is not str:
            raise TypeError(f"{where} is {_name(kind)}: an object of JSON has text as keys.")
        inner = args[1:]
    else:
        raise TypeError(
            f"{where} has type {_name(kind)}, which has no form in JSON here: use another type, or a pydantic model."
        )
    found = [_check(each, where, path) for each in inner]
    if origin in (Union, UnionType) and sum(map(bool, found)) > 1:
        # Each level of a payload would be tried as each type: a small message could keep a worker busy for years.
        raise TypeError(f"{where} has several types that contain {_name(path[0])} again: use a pydantic model.")
    return set().union(*found)


def _check_structure(kind: Any, where: str, path: tuple[Any, ...]) -> set[Any]:
    if not _is_typed_dict(kind):
        kept = {field.name for field in dataclass_fields(kind) if field.init}
        if others := set(inspect.signature(kind).parameters) - kept:
            raise TypeError(f"{where} takes {sorted(others)[0]!r}, which is no field that its instances keep.")
    found = [_check(field.kind, f"{where}.{name}", (*path, kind)) for name, field in _fields(kind).items()]
    return set().union(*found) - {kind}


def _convert(kind: Any, value: Any, where: str, is_sent: bool) -> Any:
    """A value as JSON has it, if it is sent, or as the model has it.

    Args:
        kind: A type that :func:`_check` has accepted.
        where: The field, for errors.
    Raises:
        _Mismatch: it is not of that type.
    """
    kind = _bare(kind)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind in (Any, object):
        return value
    if kind in _SCALARS:
        return _scalar(kind, value, where, is_sent)
    if _is_pydantic(kind):
        return _pydantic(kind, value, where, is_sent)
    if _is_structure(kind):
        return _structure(kind, value, where, is_sent)
    if _is_enum(kind):
        return _enum(kind, value, where, is_sent)
    if origin is Literal:
        if any(value == each and type(value) is type(each) for each in args):
            return value
        raise _wrong(kind, value, where)
    if origin in (Union, UnionType):
        return _union(kind, args, value, where, is_sent)
    outer = origin or kind
    if outer in _MAPPINGS:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise _wrong(kind, value, where)
        inner = args[1] if args else Any
        return _each({key: (inner, item) for key, item in value.items()}, lambda key: f"{where}[{key!r}]", is_sent)
    return _items(kind, outer, args, value, where, is_sent)


def _wrong(kind: Any, value: Any, where: str) -> _Mismatch:
    found = "None" if value is None else type(value).__name__
    return _Mismatch(f"{where} must be {_name(kind)}, not {found}")


def _each(parts: Mapping[Any, tuple[Any, Any]], where: Callable[[Any], str], is_sent: bool) -> dict[Any, Any]:
    """Convert several values by their types, and collect the faults of all.

    Args:
        parts: A type and a value each.
        where: The field of a key, for errors.
    """
    found: dict[Any, Any] = {}
    faults: list[str] = []
    for key, (kind, value) in parts.items():
        try:
            found[key] = _convert(kind, value, where(key), is_sent)
        except _Mismatch as exc:
            faults += exc.faults
            if len(faults) >= MAX_FAULTS:
                break
    if faults:
        raise _Mismatch(*faults)
    return found


def _structure(kind: Any, value: Any, where: str, is_sent: bool) -> Any:
    fields = _fields(kind)
    if not _is_typed_dict(kind) and isinstance(value, kind):
        if not is_sent:
            return value
        value = {name: getattr(value, name) for name in fields}
    if not isinstance(value, Mapping):
        raise _wrong(kind, value, where)
    prefix = f"{where}." if where else ""
    faults = [
        f"{prefix}{name} is missing: it must be {_name(field.kind)}"
        for name, field in fields.items()
        if field.is_required and name not in value
    ]
    if is_sent:
        faults += [f"{prefix}{name} is not a field of {_name(kind)}" for name in value if name not in fields]
    known = {name: (fields[name].kind, item) for name, item in value.items() if name in fields}
    try:
        found = _each(known, lambda name: f"{prefix}{name}", is_sent)
    except _Mismatch as exc:
        raise _Mismatch(*faults, *exc.faults) from None
    if faults:
        raise _Mismatch(*faults)
    if is_sent or _is_typed_dict(kind):
        return found
    try:
        return kind(**found)
    except (TypeError, ValueError) as exc:  # of its __post_init__
        raise _Mismatch(f"{where or _name(kind)}: {exc}") from exc


def _items(kind: Any, outer: Any, args: tuple[Any, ...], value: Any, where: str, is_sent: bool) -> Any:
    is_set = outer in _SETS
    allowed = (set, frozenset, list, tuple) if is_set else (list, tuple)
    if not isinstance(value, allowed):
        raise _wrong(kind, value, where)
    if outer is tuple and args and Ellipsis not in args:
        kinds = tuple(each for each in args if each != ())
        if len(value) != len(kinds):
            raise _Mismatch(f"{where} must be {_name(kind)}, not {len(value)} items")
    else:
        kinds = (args[0] if args else Any,) * len(value)
    parts = dict(enumerate(zip(kinds, value, strict=True)))
    found = list(_each(parts, lambda number: f"{where}[{number}]", is_sent).values())
    if is_sent:
        return found
    if is_set:
        return frozenset(found) if outer is frozenset else set(found)
    return tuple(found) if outer is tuple else found


def _union(kind: Any, args: tuple[Any, ...], value: Any, where: str, is_sent: bool) -> Any:
    """Convert to the first type that fits; the value's own type comes before types that it can be converted to."""
    kinds = sorted(map(_bare, args), key=lambda each: each is not type(value))
    others = [each for each in kinds if each is not NoneType]
    if value is not None and len(others) == 1 and (_is_structure(others[0]) or _is_pydantic(others[0])):
        return _convert(others[0], value, where, is_sent)  # whose faults name its fields
    for each in kinds:
        try:
            return _convert(each, value, where, is_sent)
        except _Mismatch:
            continue
    raise _wrong(kind, value, where)


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum)


def _enum(kind: type[Enum], value: Any, where: str, is_sent: bool) -> Any:
    if isinstance(value, kind):
        return value.value if is_sent else value
    if is_sent:
        raise _wrong(kind, value, where)
    try:
        return kind(value)
    except (ValueError, TypeError):
        raise _Mismatch(f"{where} must be one of {[each.value for each in kind]}") from None


def _pydantic(kind: Any, value: Any, where: str, is_sent: bool) -> Any:
    prefix = f"{where}." if where else ""
    try:
        if not is_sent:
            return value if isinstance(value, kind) else kind.model_validate_json(json.dumps(value, default=_as_json))
        made = value if isinstance(value, kind) else kind.model_validate(value)
        sent = made.model_dump(mode="json", by_alias=True, warnings=False)
        # An instance may have been changed, or made, without a check: send only what a handler can read.
        kind.model_validate_json(json.dumps(sent))
    except (TypeError, ValueError) as exc:  # pydantic's are ValueErrors
        raise _Mismatch(*(prefix + fault for fault in _faults_of(exc))) from exc
    if not where and not isinstance(sent, dict):
        raise _Mismatch(f"{_name(kind)} is not an object in JSON")
    return sent


def _as_json(value: Any) -> Any:
    """Undo what kombu's JSON decodes beyond plain JSON."""
    for kind, scalar in _SCALARS.items():
        if scalar.dump is not None and isinstance(value, kind):
            return scalar.dump(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


class _Scalar(NamedTuple):
    """How values of a type without parts are in JSON.

    Attributes:
        dump: To text; None if JSON has them.
        parse: From JSON; raises ValueError. For types that JSON has: from a subclass to the type itself.
    """

    dump: Callable[[Any], str] | None
    parse: Callable[[Any], Any]


def _scalar(kind: Any, value: Any, where: str, is_sent: bool) -> Any:
    scalar = _SCALARS[kind]
    if _is_of(kind, value):
        if kind in (float, Decimal) and not math.isfinite(value):
            raise _Mismatch(f"{where} must be a finite number")
        return value if scalar.dump is not None and not is_sent else (scalar.dump or scalar.parse)(value)
    if is_sent or scalar.dump is None:
        raise _wrong(kind, value, where)
    try:
        return scalar.parse(value)
    except (ValueError, TypeError, AttributeError, InvalidOperation):
        raise _Mismatch(f"{where} must be {_name(kind)}, as text") from None


def _is_of(kind: Any, value: Any) -> bool:
    """As ``isinstance``, but a bool is not a number, a datetime is not a date, and an int may be a float."""
    if isinstance(value, bool):
        return kind is bool
    if kind is date:
        return isinstance(value, date) and not isinstance(value, datetime)
    if kind is float and isinstance(value, int):
        return abs(value) <= MAX_FLOAT
    return isinstance(value, kind)


def _to_datetime(text: str) -> datetime:
    return datetime.fromisoformat(text.removesuffix("Z") + "+00:00" if text.endswith("Z") else text)


def _to_decimal(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("not a number")
    found = Decimal(str(value))
    if not found.is_finite():
        raise ValueError("not finite")
    return found


_SCALARS: dict[Any, _Scalar] = {
    NoneType: _Scalar(None, lambda value: value),
    bool: _Scalar(None, bool),
    str: _Scalar(None, str.__str__),  # plain text of an enum that is a str
    int: _Scalar(None, int),
    float: _Scalar(None, float),
    datetime: _Scalar(datetime.isoformat, _to_datetime),
    date: _Scalar(date.isoformat, date.fromisoformat),
    time: _Scalar(time.isoformat, time.fromisoformat),
    UUID: _Scalar(str, UUID),
    Decimal: _Scalar(str, _to_decimal),
}
