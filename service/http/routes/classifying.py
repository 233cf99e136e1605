"""What distilled models tell apart: labels of texts, or of their words."""

from fastapi import FastAPI
from fastapi import Request as HttpRequest

from neurodial.service.engine.types import Classified, Finished
from neurodial.service.http.answering.prompts import Prompt, prompts_of
from neurodial.service.http.answering.results import applied_of, head, reading_usage_of
from neurodial.service.http.schemas.reading import Classification, Classifications, ClassifiedWord, ClassifyRequest
from neurodial.service.http.selection import select
from neurodial.service.http.services import Services


def add(app: FastAPI, services: Services) -> None:
    """Adds `/v1/classify`."""

    @app.post("/v1/classify", tags=["reading"])
    async def create_classification(http: HttpRequest, request: ClassifyRequest) -> Classifications:
        """The label of each text, or of each of its words, by a distilled model under the request's controls."""
        chosen = await select(services, http, request.model, request.controls)
        prompts = prompts_of(request.input, "input", services.limits)
        results = await chosen.collect([chosen.row(prompt, task="classify") for prompt in prompts])
        data = [_answer(index, *pair) for index, pair in enumerate(zip(prompts, results, strict=True))]
        return Classifications(**head("classify", request.model), data=data, usage=reading_usage_of(results))


def _answer(index: int, prompt: Prompt, result: Finished) -> Classification:
    words = [_word(prompt.text, found, *found.span) for found in result.payload if found.span is not None]
    if words or not result.payload:  # none of a text without words
        return Classification(index=index, words=words, applied=applied_of(result))
    whole: Classified = result.payload[0]
    probabilities = dict(whole.probabilities)
    return Classification(index=index, label=_likeliest(whole), probabilities=probabilities, applied=applied_of(result))


def _word(text: str, found: Classified, start: int, end: int) -> ClassifiedWord:
    probabilities = dict(found.probabilities)
    return ClassifiedWord(
        text=text[start:end], start=start, end=end, label=_likeliest(found), probabilities=probabilities
    )


def _likeliest(found: Classified) -> str:
    return max(found.probabilities, key=lambda pair: pair[1])[0]
