"""Answers: instances of the SDK's models, built from parsed JSON as its `construct_type` does, but by compiled plans.

`construct_type` looks at annotations anew for each value. Here that is done once per type, and the plan is kept: a
function from the JSON value to what `construct_type` makes of it. Values and types that no plan covers are left to
`construct_type`. A plan is valid for the text of the SDK's functions it was derived from; with any other text, nothing
is planned (`_DIGESTS`). tests/clients/test_answer_plans.py compares both over all models of the installed SDK.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, ForwardRef, Literal, Union, get_args, get_origin

import pydantic
from openai import BaseModel
from pydantic_core import PydanticUndefined

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic.fields import FieldInfo

    Plan = Callable[[Any], Any]

# Private, and perhaps not there in another version: then nothing is planned.
_models: Final[Any] = sys.modules.get("openai._models")
_base: Final[Any] = sys.modules.get("openai._base_client")
# Of the SDK's functions that the plans repeat, without comments and spaces: openai 2.47 to 3.57.
_DIGESTS: Final = frozenset(
    {
        "1c9a1d1f8310141b",
        "b2f35ba2cda4d233",
        "ff06f8c79f9558e1",
    }
)
_REPEATED: Final = (
    "    def construct(",
    "def _construct_field(",
    "def _get_extra_fields_type(",
    "def construct_type(",
    "def validate_type(",
    "    def _validate_non_model_type(",
)
# Plans that are kept. An application that makes types as it goes gets new plans from time to time.
MOST_PLANS: Final = 4096

# The hook that builds answers, unless another class or library has its own.
PROCESS: Final = getattr(getattr(_base, "BaseClient", None), "_process_response_data", None)
_CONSTRUCT_TYPE: Final = getattr(_models, "construct_type", None)
_CONSTRUCT: Final[Any] = BaseModel.__dict__.get("construct")
_LEAVES: Final = frozenset({str, int, bool, object, Any, type(None)})
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
# Keys of a model that `construct` takes for its own parameters.
_CONTROLS: Final = frozenset({"_fields_set", "_BaseModel__cls"})
_MISSING: Final = object()
_set: Final = object.__setattr__


def construct(cast_to: Any, data: Any) -> Any:
    """`data` as the SDK would build it for `cast_to`; None if that is left to the SDK."""
    # Another library may have replaced what the plans repeat.
    if _models.construct_type is not _CONSTRUCT_TYPE or BaseModel.__dict__["construct"] is not _CONSTRUCT:
        return None
    try:
        plan: Any = _answers.get(cast_to, _MISSING)
        if plan is _MISSING:
            if len(_answers) >= MOST_PLANS:
                _answers.clear()
            plan = _answers[cast_to] = _plan_of_answer(cast_to)
        return None if plan is None else plan(data)
    except Exception:  # noqa: BLE001  # the SDK then raises its own, or does better
        return None


_answers: Final[dict[Any, Plan | None]] = {}
_models_planned: Final[dict[type, Plan]] = {}


@functools.cache
def known() -> bool:
    """Whether the installed SDK constructs models in the way that the plans repeat."""
    return digest() in _DIGESTS and pydantic.VERSION.startswith("2.")


def digest() -> str:
    """Of the SDK's functions that the plans repeat."""
    try:
        text = Path(_models.__file__).read_text(encoding="utf-8")
    except (AttributeError, OSError, TypeError):  # not a file, as in a zip archive
        return ""
    found = "".join(_block(text, start) for start in _REPEATED)
    return hashlib.sha256(found.encode()).hexdigest()[:16]


def _block(text: str, start: str) -> str:
    """The function whose first line begins with `start`, without comments and spaces."""
    _, found, rest = text.partition(f"\n{start}")
    indent = " " * (len(start) - len(start.lstrip()))
    end = re.search(rf"\n{indent}(?:[A-Za-z@#])", rest)
    return re.sub(r"#.*|\s+", "", found + (rest[: end.start()] if end else rest))


def _plan_of_answer(cast_to: Any) -> Plan | None:
    if not known() or hasattr(cast_to, "build"):  # of the SDK's `ModelBuilderProtocol`
        return None
    return _plan(cast_to)


# Plans by kind of type.


def _by_sdk(type_: Any, metadata: Any = None) -> Plan:
    def by_sdk(value: Any) -> Any:
        return _models.construct_type(value=value, type_=type_, metadata=metadata)

    return by_sdk


def _plan(type_: Any, metadata: list[Any] | None = None) -> Plan:
    """What `construct_type(type_=type_, metadata=metadata)` does."""
    given, about = type_, tuple(metadata or ())
    if not about and get_origin(type_) is Annotated:
        type_, *rest = get_args(type_)
        about = tuple(rest)
    origin, args = get_origin(type_), get_args(type_)
    plan = _by_sdk(given, metadata)
    if type_ in _LEAVES or origin is Literal:
        plan = _as_is
    elif origin in {Union, types.UnionType}:
        plan = _plan_of_union(type_, args, about)
    elif origin is dict and len(args) == 2:
        plan = _plan_of_dict(plan, _plan(args[1]))
    elif origin is list and len(args) == 1:
        plan = _plan_of_list(plan, _plan(args[0]))
    elif type_ is float:
        plan = _float
    elif origin is None and inspect.isclass(type_) and issubclass(type_, BaseModel):
        plan = _plan_of_model(type_)
    return plan


def _as_is(value: Any) -> Any:
    return value


def _float(value: Any) -> Any:
    if type(value) is int and -(2**53) <= value <= 2**53:
        return float(value)
    return value if type(value) is float else _models.construct_type(value=value, type_=float)


def _plan_of_dict(sdk: Plan, of_item: Plan) -> Plan:
    def build_dict(value: Any) -> Any:
        if type(value) is dict:
            return value.copy() if of_item is _as_is else {key: of_item(item) for key, item in value.items()}
        return value if type(value) in _SCALARS else sdk(value)

    return build_dict


def _plan_of_list(sdk: Plan, of_item: Plan) -> Plan:
    def build_list(value: Any) -> Any:
        if type(value) is list:
            return value.copy() if of_item is _as_is else [of_item(item) for item in value]
        return value if type(value) in _SCALARS else sdk(value)

    return build_list


def _plan_of_union(union: Any, args: tuple[Any, ...], about: tuple[Any, ...]) -> Plan:
    """The SDK validates first: then a value of exactly one of the types stays as it is."""
    literals = {item for arg in args if get_origin(arg) is Literal for item in get_args(arg)}
    plain = {arg for arg in args if get_origin(arg) is not Literal}
    if plain <= _SCALARS:
        # An int may be a valid float, too, and become one.
        same = plain - {int, float} if {int, float} <= plain else plain
        # Another string may be a number, or a boolean.
        same |= {str} if plain <= {type(None)} and all(type(item) is str for item in literals) else set()
        sdk = _validated(union, args, about)
        return lambda value: value if type(value) in same else sdk(value)
    return _validated(union, args, about)


def _validated(union: Any, args: tuple[Any, ...], about: tuple[Any, ...]) -> Plan:
    plans: list[Plan] = []
    validate: Plan | None = None

    def build_variant(value: Any) -> Any:
        nonlocal validate
        try:
            # Kept, as the SDK looks it up by all types of the union.
            found = validate = validate or _models.TypeAdapter(union).validate_python
            return found(value)
        except Exception:  # noqa: BLE001, S110  # as the SDK
            pass
        details = _models._build_discriminated_union_meta(union=union, meta_annotations=about)  # noqa: SLF001
        if details and isinstance(value, dict):
            name = value.get(details.field_alias_from or details.field_name)
            variant = details.mapping.get(name) if name and isinstance(name, str) else None
            if variant:
                return _plan(variant)(value)
        plans[:] = plans or map(_plan, args)
        for plan in plans:
            try:
                return plan(value)
            except Exception:  # noqa: BLE001, S112  # as the SDK
                continue
        raise RuntimeError(f"Could not convert data into a valid instance of {union}")

    return build_variant


def _plan_of_model(cls: type[BaseModel]) -> Plan:
    """Planned when it is first needed: models may contain themselves."""

    def planned_first(value: Any) -> Any:
        plan = _models_planned.get(cls)
        if plan is None:
            if len(_models_planned) >= MOST_PLANS:
                _models_planned.clear()
            plan = _models_planned[cls] = _plan_of_fields(cls) or _by_sdk(cls)
        return plan(value)

    return _models_planned.get(cls, planned_first)


def _plan_of_fields(cls: type[BaseModel]) -> Plan | None:
    """What `cls.construct` does; None if that is left to the SDK."""
    construct_of: Any = cls.construct
    if construct_of.__func__ is not _CONSTRUCT.__func__ or _types_extras(cls):
        return None
    fields = [_field(cls, name, field) for name, field in cls.model_fields.items()]
    planned = [field for field in fields if field is not None]
    return _plan_of_instance(cls, planned) if len(planned) == len(fields) else None


def _field(cls: type[BaseModel], name: str, field: FieldInfo) -> tuple[str, str, Any, Plan] | None:
    """Name, key in the JSON object, default, and plan; None if its class is left to the SDK."""
    default, annotation = field.get_default(), field.annotation
    if default is PydanticUndefined:
        default = None
    key = name if field.alias is None else field.alias
    two_keys = key != name and cls.model_config.get("populate_by_name")
    if type(default) not in _SCALARS or annotation is None or _is_open(annotation) or two_keys or name in _CONTROLS:
        return None
    return name, key, default, _plan(annotation, field.metadata)


def _plan_of_instance(cls: type[BaseModel], fields: list[tuple[str, str, Any, Plan]]) -> Plan:
    names = frozenset(cls.model_fields)
    aliased = any(name != key for name, key, _, _ in fields)
    sdk = _by_sdk(cls)

    def build(value: Any) -> Any:
        kind = type(value)
        if kind is not dict:
            if kind is list:
                return [build(entry) if isinstance(entry, Mapping) else entry for entry in value]
            return value if kind in _SCALARS else sdk(value)
        values: dict[str, Any] = {}
        fields_set = set()
        get = value.get
        for name, key, default, plan in fields:
            item = get(key, _MISSING)
            if item is _MISSING:
                values[name] = default
            else:
                fields_set.add(name)
                values[name] = default if item is None else item if plan is _as_is else plan(item)
        extra: dict[str, Any] = {}
        if aliased or len(fields_set) < len(value):
            extra = {key: item for key, item in value.items() if key not in names}
            if not _CONTROLS.isdisjoint(extra):
                return sdk(value)
        made = cls.__new__(cls)
        _set(made, "__dict__", values)
        _set(made, "__pydantic_private__", None)
        _set(made, "__pydantic_extra__", extra)
        _set(made, "__pydantic_fields_set__", fields_set)
        return made

    return build


def _types_extras(cls: type[BaseModel]) -> bool:
    """Whether the class says of which type its unknown fields are."""
    ours = cls.__mro__[: cls.__mro__.index(pydantic.BaseModel)]
    return any("__pydantic_extra__" in inspect.get_annotations(each) for each in ours)


def _is_open(annotation: Any) -> bool:
    """Whether it names a type that is not known yet."""
    if isinstance(annotation, str | ForwardRef):
        return True
    return get_origin(annotation) is not Literal and any(
        _is_open(argument) for argument in get_args(annotation) if not isinstance(argument, _models.PropertyInfo)
    )
