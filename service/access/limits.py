"""What one request may ask for; a deployment's configuration sets it."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from neurodial.control.controls import Control
from neurodial.control.errors import BadInput, LimitError


class Limits(BaseModel):
    """Limits at admission: what is over them is refused before it costs anything."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_body_bytes: int = Field(default=1_048_576, ge=1024, description="largest request body, in bytes")
    max_text_chars: int = Field(default=20_000, ge=1, description="longest single text, in characters")
    max_prompt_tokens: int | None = Field(
        default=None, ge=1, description="most tokens of one prompt; as many as the model reads where absent"
    )
    max_prompts: int = Field(default=128, ge=1, description="most texts in one request")
    max_tokens: int = Field(default=512, ge=1, description="most tokens that a request may ask to generate per text")
    default_max_tokens: int | None = Field(
        default=None, ge=1, description="tokens generated at most where a request does not say; absent: what is left"
    )
    max_controls: int = Field(default=16, ge=0, description="most controls in one request")
    max_neurons: int = Field(
        default=100_000, ge=1, description="most neurons that controls may touch; one counts for each control"
    )
    max_activations: int = Field(
        default=262_144,
        ge=1,
        description="most numbers that a request may ask for: neurons times tokens, over all texts",
    )
    max_set_bytes: int = Field(default=67_108_864, ge=1024, description="largest neuron-set file, in bytes")
    max_beams: int = Field(default=8, ge=1, description="most beams of a beam search")
    request_timeout_s: float = Field(default=120.0, gt=0, description="seconds after which a request is given up")

    def check_texts(
        self,
        texts: Sequence[str | Sequence[int]],
        field: str,
        *,
        single: bool,
        blank: bool = False,
        most: int | None = None,
    ) -> list[str]:
        """Checks every text of a request and returns the exact field of each.

        Args:
            texts: the texts, in order, each a string or its tokens.
            field: the request's field, such as `prompt`.
            single: whether the field holds one text rather than a list.
            blank: whether a text may be empty.
            most: texts in the request; `max_prompts` where absent.

        Raises:
            BadInput: for no text or an empty one.
            LimitError: for too many texts or a text that is too long.
        """
        if not texts:
            raise BadInput(f"{field} is an empty list", hint="give at least one text", param=field)
        most = most or self.max_prompts
        if len(texts) > most:
            raise LimitError(f"{field} has {len(texts)} texts; at most {most} are accepted", param=field)
        names = [field] if single else [f"{field}[{i}]" for i in range(len(texts))]
        for text, name in zip(texts, names, strict=True):
            part, unit = ("word", "characters") if isinstance(text, str) else ("token", "tokens")
            if not (blank or (text.strip() if isinstance(text, str) else text)):
                raise BadInput(f"{name} is empty", hint=f"give a text with at least one {part}", param=name)
            if len(text) > self.max_text_chars:  # a token is a character at least, but for special ones
                limit = f"at most {self.max_text_chars:,} are accepted"
                raise LimitError(f"{name} has {len(text):,} {unit}; {limit}", hint="split the text", param=name)
        return names

    def check_generation(self, max_tokens: int | None, num_beams: int) -> None:
        """Checks how a request wants to generate.

        Raises:
            LimitError: for too many tokens or beams.
        """
        if max_tokens is not None and max_tokens > self.max_tokens:
            raise LimitError(f"max_tokens is {max_tokens}; at most {self.max_tokens} are accepted", param="max_tokens")
        if num_beams > self.max_beams:
            raise LimitError(f"num_beams is {num_beams}; at most {self.max_beams} are accepted", param="num_beams")

    def check_choices(self, num_choices: int, num_texts: int, num_beams: int) -> None:
        """Checks how many choices are asked for.

        Raises:
            LimitError: for more than a request may have texts.
            BadInput: for several choices of a beam search, which would all be the same.
        """
        if num_choices * num_texts > self.max_prompts:
            asked = f"n is {num_choices} for {num_texts} texts"
            raise LimitError(f"{asked}; at most {self.max_prompts} choices are accepted", param="n")
        if num_choices > 1 and num_beams > 1:
            raise BadInput("n must be 1 with beam search", hint="drop num_beams and set a temperature", param="n")

    def check_controls(self, controls: Sequence[Control]) -> None:
        """Checks the number of controls.

        Raises:
            LimitError: for too many.
        """
        if len(controls) > self.max_controls:
            message = f"{len(controls)} controls; at most {self.max_controls} are accepted"
            raise LimitError(message, param="controls")
