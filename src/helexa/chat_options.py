"""What a chat request may say beside its messages and sampling parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from helexa.engine.masks import GrammarSpec
from helexa.errors import InvalidRequest
from helexa.text.grammar.request import CallForm, requested_grammar

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """The options of a chat, checked as far as that needs no model."""

    tools: Sequence[Message] | None = None
    tool_choice: str | Message = "auto"
    response_format: Message | None = None
    enable_thinking: bool | None = None
    template_kwargs: Mapping[str, Any] | None = None
    parallel_tool_calls: bool = True

    def __post_init__(self) -> None:
        if self.enable_thinking is not None and not isinstance(self.enable_thinking, bool):
            raise InvalidRequest(
                f"enable_thinking must be True or False, not {self.enable_thinking!r:.80}",
                param="enable_thinking",
                hint="leave it out to let the model's template decide",
            )
        if not isinstance(self.parallel_tool_calls, bool):
            raise InvalidRequest(
                f"parallel_tool_calls must be True or False, not {self.parallel_tool_calls!r:.80}",
                param="parallel_tool_calls",
                hint="False ends the answer after its first tool call",
            )

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> ChatOptions:
        """From keyword arguments; TypeError for one that does not shape a prompt."""
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                raise TypeError(f"{name!r} does not shape the prompt; these do: {', '.join(known)}")
        return cls(**given)

    @property
    def offered(self) -> Sequence[Message] | None:
        """The tools that the model is shown."""
        return None if self.tool_choice == "none" else self.tools

    def grammar(self, form: CallForm | None) -> GrammarSpec | None:
        """What the answer must fit, for a model that writes tool calls in this form.

        Raises InvalidRequest for options that are wrong, UnsupportedGrammar for what cannot be
        enforced.
        """
        grammar = requested_grammar(
            self.response_format,
            self.tools,
            self.tool_choice,
            parallel=self.parallel_tool_calls,
            form=form,
        )
        if grammar is None or self.enable_thinking is not False:
            return grammar
        return replace(grammar, reasoning=False)

    def variables(self) -> Mapping[str, Any]:
        """What the caller gives the template beside the conversation."""
        given = self.template_kwargs
        if given is None:
            return {}
        if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
            raise InvalidRequest(
                "template_kwargs must be a mapping of names to values",
                param="template_kwargs",
                hint='for example {"enable_thinking": False}',
            )
        return given
