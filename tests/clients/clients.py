"""What each client does: `python clients.py NAME ADDRESS`, in an environment that has the client and nothing of ours.

Every function takes the server's address, yields what it has done, and raises where an answer is not what its users
expect.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TRANSLATOR, WRITER, SENTENCE = "en-es", "en-lm", "The boy opens the door."
PAST = {"controls": [{"set": "tense", "to": "past"}]}


def curl(address: str) -> Iterator[str]:
    def asked(*arguments: str) -> str:
        command = ["curl", "-sS", "--fail-with-body", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    body = json.dumps({"model": TRANSLATOR, "prompt": SENTENCE, **PAST})
    assert "abrió" in json.loads(asked(f"{address}/v1/completions", "-d", body))["choices"][0]["text"]
    yield "completion with a control"
    form = ["-d", f"q={SENTENCE}", "-d", "source=auto", "-d", "target=es"]
    assert json.loads(asked(f"{address}/translate", *form))["translatedText"]
    yield "translate by a form"
    assert asked("-I", f"{address}/ready").startswith("HTTP/1.1 200")
    yield "HEAD"


def openai(address: str) -> Iterator[str]:
    from openai import OpenAI

    client: Any = OpenAI(base_url=f"{address}/v1", api_key="none")
    plain = client.completions.create(model=TRANSLATOR, prompt=SENTENCE).choices[0].text
    past = client.completions.create(model=f"{TRANSLATOR}:tense=past", prompt=SENTENCE).choices[0].text
    assert plain != past
    yield "completion, a control by the model's name"
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.completions.create(model=WRITER, prompt="The boy", max_tokens=8, **options))
    assert chunks[-1].usage.completion_tokens > 0
    yield "stream with usage"
    assert len(client.embeddings.create(model=TRANSLATOR, input=[SENTENCE, "x"]).data) == 2
    yield "embeddings"
    assert len(list(client.models.list())) > 2
    yield "list of models"


def litellm(address: str) -> Iterator[str]:
    import litellm

    options = {"api_base": f"{address}/v1", "api_key": "none"}
    model = f"text-completion-openai/{WRITER}"
    answer: Any = litellm.text_completion(model=model, prompt="The boy", max_tokens=6, **options)
    assert answer.choices[0].text
    yield "text completion"
    found: Any = litellm.embedding(model=f"openai/{TRANSLATOR}", input=[SENTENCE], encoding_format="float", **options)
    assert len(found.data[0]["embedding"]) == 256
    yield "embedding"


def langchain(address: str) -> Iterator[str]:
    from langchain_openai import OpenAI, OpenAIEmbeddings

    options: Any = {"base_url": f"{address}/v1", "api_key": "none"}
    assert OpenAI(model=WRITER, max_tokens=6, **options).invoke("The boy")
    yield "completion"
    assert "".join(OpenAI(model=WRITER, max_tokens=6, **options).stream("The boy"))
    yield "stream"
    embeddings = OpenAIEmbeddings(model=TRANSLATOR, check_embedding_ctx_length=False, **options)
    assert len(embeddings.embed_documents([SENTENCE, "x"])[0]) == 256
    yield "embeddings of texts"


def llama_index(address: str) -> Iterator[str]:
    from llama_index.llms.openai_like import OpenAILike

    llm = OpenAILike(model=WRITER, api_base=f"{address}/v1", api_key="none", is_chat_model=False, max_tokens=6)
    assert llm.complete("The boy").text
    yield "completion"
    assert [piece.delta for piece in llm.stream_complete("The boy")]
    yield "stream"


def lm_eval(address: str) -> Iterator[str]:
    os.environ["HF_HUB_OFFLINE"] = "1"  # the tasks and the tokenizer are here
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    rows = [("The boys", [" are playing.", " is playing."], 0), ("The girl", [" are happy.", " is happy."], 1)]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "rows.jsonl"
        data.write_text("".join(json.dumps({"q": q, "c": c, "a": a, "t": q + c[a]}) + "\n" for q, c, a in rows))
        shared = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
        choice: dict[str, Any] = {"task": "choice", "output_type": "multiple_choice", "doc_to_text": "{{q}}"}
        choice |= {"doc_to_choice": "{{c}}", "doc_to_target": "a", "metric_list": [{"metric": "acc"}]}
        rolling: dict[str, Any] = {"task": "rolling", "output_type": "loglikelihood_rolling", "doc_to_text": ""}
        rolling |= {"doc_to_target": "{{t}}", "metric_list": [{"metric": "word_perplexity"}]}
        for task in (choice, rolling):
            (Path(folder) / f"{task['task']}.yaml").write_text(json.dumps(task | shared))
        lm_demo = Path(__file__).parents[2] / "deploy" / "demo" / "lm"
        arguments = f"base_url={address}/v1/completions,tokenizer_backend=huggingface,tokenizer={lm_demo},max_length=64"
        names, manager = ["choice", "rolling"], TaskManager(include_path=folder)
        found = [
            simple_evaluate(model=model, model_args=given, tasks=names, task_manager=manager, device="cpu")["results"]
            for model, given in (
                ("local-completions", f"model={WRITER},{arguments}"),
                ("hf", f"pretrained={lm_demo},dtype=float32,max_length=64,add_bos_token=False"),
            )
        ]
    assert found[0]["choice"]["acc,none"] == found[1]["choice"]["acc,none"]
    yield "multiple choice, as with the model in its own process"
    ours, theirs = (one["rolling"]["word_perplexity,none"] for one in found)
    assert abs(ours / theirs - 1) < 1e-2, (ours, theirs)
    yield "perplexity, within 1 % of the model in its own process"


def huggingface_hub(address: str) -> Iterator[str]:
    from huggingface_hub import InferenceClient

    client: Any = InferenceClient(base_url=f"{address}/v1")
    said = ""
    try:
        client.chat_completion(messages=[{"role": "user", "content": "hi"}], model=WRITER)
    except Exception as error:  # the demo has no chat model: what counts is that it says so
        said = str(error)
    assert "chat template" in said, said
    yield "a chat with a model that has no template: the reason arrives"


def libretranslatepy(address: str) -> Iterator[str]:
    from libretranslatepy import LibreTranslateAPI

    libre = LibreTranslateAPI(address)
    assert libre.translate(SENTENCE, "en", "es")
    yield "translate"
    assert libre.detect(SENTENCE)[0]["language"] == "en"
    yield "detect"
    assert libre.languages()[0]["code"] == "en"
    yield "languages"


def deep_translator(address: str) -> Iterator[str]:
    from deep_translator import LibreTranslator

    translator = LibreTranslator(source="en", target="es", custom_url=f"{address}/", api_key="any")
    assert translator.translate(SENTENCE)
    yield "translate"


CLIENTS: dict[str, tuple[Callable[[str], Iterator[str]], tuple[str, ...]]] = {
    "curl": (curl, ()),
    "openai": (openai, ("openai",)),
    "litellm": (litellm, ("litellm",)),
    "langchain-openai": (langchain, ("langchain-openai",)),
    "llama-index": (llama_index, ("llama-index-llms-openai-like",)),
    "lm_eval": (lm_eval, ("lm_eval[api]", "torch==2.13.0", "transformers", "accelerate")),
    "huggingface_hub": (huggingface_hub, ("huggingface_hub",)),
    "libretranslatepy": (libretranslatepy, ("libretranslatepy",)),
    "deep-translator": (deep_translator, ("deep-translator",)),
}


if __name__ == "__main__":
    for what in CLIENTS[sys.argv[1]][0](sys.argv[2]):
        print(f"did: {what}", flush=True)
