"""Tools and formats in chat completion requests: what may be called, what answers look like."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from fluvial.server.schema import Body, Schema, Text, drop_neutral, only, unsupported
from fluvial.service.tool import NAME, NO_PARAMETERS
from fluvial.types import Grammar, Tool


def _check_name(name: str) -> str:
    if NAME.fullmatch(name) is None:
        raise PydanticCustomError(
            "name", "a name has 1 to 64 of the characters A-Z a-z 0-9 _ and -, nothing else"
        )
    return name


Name = Annotated[str, AfterValidator(_check_name)]


class FunctionSpec(Body):
    """A function that the model may call. `strict` changes nothing: schemas always hold."""

    name: Name
    description: Text = ""
    parameters: Schema | None = None
    strict: bool = False

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, data: Any) -> Any:
        return drop_neutral(data, neutral={})


class ChatTool(Body):
    """A tool: always a function."""

    type: Annotated[Literal["function"], BeforeValidator(only("function"))]
    function: FunctionSpec

    def tool(self) -> Tool:
        """Return the tool as the service takes it."""
        function = self.function
        parameters = NO_PARAMETERS
        if function.parameters is not None:
            parameters = json.dumps(function.parameters, ensure_ascii=False)
        return Tool(name=function.name, description=function.description, parameters=parameters)


class NamedFunction(Body):
    """The name of a function."""

    name: Name


class ToolChoice(Body):
    """Whether calls are allowed, required, or which one is; a plain word is short for its type."""

    type: Literal["none", "auto", "required", "function"]
    function: NamedFunction | None = None

    @model_validator(mode="before")
    @classmethod
    def _read(cls, data: Any) -> Any:
        words = ("none", "auto", "required")
        if isinstance(data, str):
            return {"type": only(*words)(data)}
        if isinstance(data, dict) and data.get("type") != "function":
            raise unsupported(f"as an object only the type 'function' is supported; else {words}")
        if isinstance(data, dict) and "function" not in data:
            raise PydanticCustomError("choice", "function is missing")
        return data


class SchemaSpec(Body):
    """A JSON schema with its name, which changes nothing. `strict` neither: schemas always hold."""

    name: Text = ""
    description: Text = ""
    schema_: Schema | None = Field(None, alias="schema")
    strict: bool = False

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, data: Any) -> Any:
        return drop_neutral(data, neutral={})


class ResponseFormat(Body):
    """What the answer must look like. "grammar" is an extension of Fluvial's."""

    type: Annotated[
        Literal["text", "json_object", "json_schema", "grammar"],
        BeforeValidator(only("text", "json_object", "json_schema", "grammar")),
    ]
    json_schema: SchemaSpec | None = None
    syntax: Literal["lark", "regex"] | None = None
    definition: Text | None = None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise PydanticCustomError("format", 'json_schema belongs to the type "json_schema"')
        given = self.syntax is not None and self.definition is not None
        if given != (self.type == "grammar") or (self.syntax is None) != (self.definition is None):
            raise PydanticCustomError(
                "format", 'syntax and definition belong to the type "grammar", both of them'
            )
        return self

    def grammar(self) -> Grammar | None:
        """Return the grammar that is asked for; None for any text."""
        if self.json_schema is not None and self.json_schema.schema_ is not None:
            text = json.dumps(self.json_schema.schema_, ensure_ascii=False)
            return Grammar(kind="json_schema", text=text)
        if self.syntax is not None and self.definition is not None:
            return Grammar(kind=self.syntax, text=self.definition)
        return None if self.type == "text" else Grammar(kind="json_object")
