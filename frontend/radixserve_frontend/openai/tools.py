"""The shape of ``tools`` and ``tool_choice``. What tools must be like is for ``tool_checks.py``."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator
from pydantic_core import PydanticCustomError

from radixserve_frontend.conversation import NamedTool, ToolChoice
from radixserve_frontend.strict import StrictModel
from radixserve_frontend.tool_checks import MAX_TOOLS


class Function(StrictModel):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(StrictModel):
    type: str
    function: Function

    @field_validator("type")
    @classmethod
    def _only_functions(cls, value: str) -> str:
        if value != "function":
            raise PydanticCustomError(
                "unsupported",
                "tools of type '{kind}' are not supported; this server has functions only",
                {"kind": value[:40]},
            )
        return value

    def as_dict(self) -> dict[str, Any]:
        """The tool as chat templates read it: what was sent, and nothing else."""
        return {"type": "function", "function": self.function.model_dump(exclude_unset=True)}


class ChosenFunction(StrictModel):
    name: str


class ChosenTool(StrictModel):
    type: Literal["function"]
    function: ChosenFunction


def _form_of_choice(value: Any) -> str | None:
    if isinstance(value, str):
        return "<word>"
    return "<tool>" if isinstance(value, dict) else None


Choice = Annotated[
    Annotated[Literal["auto", "none", "required"], Tag("<word>")]
    | Annotated[ChosenTool, Tag("<tool>")],
    Discriminator(
        _form_of_choice,
        custom_error_type="invalid_type",
        custom_error_message='must be "auto", "none", "required" or an object that names a tool',
    ),
]

Tools = Annotated[list[FunctionTool], Field(fail_fast=True, max_length=MAX_TOOLS)]


def tool_choice(choice: Choice | None) -> ToolChoice:
    """The choice that a request makes; silence leaves it to the model."""
    if choice is None:
        return "auto"
    return NamedTool(choice.function.name) if isinstance(choice, ChosenTool) else choice
