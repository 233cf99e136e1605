// The same request to copy: for a shell, for Python, and for vLLM's own server with our plugin.

import { address } from "./api.js";

/** The route and the body of a task. */
export function requestOf({ task, model, text, controls, settings }) {
  const body = { model, ...settings, ...(controls.length ? { controls } : {}) };
  if (task === "chat") return ["v1/chat/completions", { ...body, messages: [{ role: "user", content: text }] }];
  if (task === "complete") return ["v1/completions", { ...body, prompt: text }];
  if (task === "classify") return ["v1/classify", { model, input: text, ...(controls.length ? { controls } : {}) }];
  const { temperature, seed, ...writing } = body; // translations are not sampled
  return ["v1/translations", { ...writing, text }];
}

const quoted = (text) => `'${text.replaceAll("'", String.raw`'\''`)}'`;

function curl(request, hasKey) {
  const [path, body] = requestOf(request);
  const key = hasKey ? ' \\\n  -H "Authorization: Bearer $NEURODIAL_API_KEY"' : "";
  return `curl -s ${quoted(address(path))}${key} \\\n  -H 'Content-Type: application/json' \\\n  -d ${quoted(JSON.stringify(body))}`;
}

/** A value as Python writes it. */
export function python(value) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}: ${python(item)}`).join(", ")}}`;
  return JSON.stringify(value);
}

const key = (hasKey) => (hasKey ? 'os.environ["NEURODIAL_API_KEY"]' : '"none"');

function client(request, hasKey) {
  const [path, { controls, ...body }] = requestOf(request);
  const os = hasKey ? "import os\n\n" : "";
  if (request.task === "translate" || request.task === "classify") {
    const headers = hasKey ? ',\n    headers={"Authorization": f"Bearer {os.environ[\'NEURODIAL_API_KEY\']}"}' : "";
    const show = request.task === "translate" ? '["translations"][0]["text"]' : '["data"][0]';
    return `${os}import httpx\n\nanswer = httpx.post(\n    ${python(address(path))},\n    json=${python({ ...body, ...(controls ? { controls } : {}) })}${headers},\n)\nprint(answer.json()${show})`;
  }
  const method = request.task === "chat" ? "chat.completions" : "completions";
  const extra = controls ? `,\n    extra_body={"controls": ${python(controls)}}` : "";
  const fields = Object.entries(body).map(([name, value]) => `    ${name}=${python(value)}`).join(",\n");
  const show = request.task === "chat" ? "message.content" : "text";
  return `${os}from openai import OpenAI\n\nclient = OpenAI(base_url=${python(address("v1"))}, api_key=${key(hasKey)})\nanswer = client.${method}.create(\n${fields}${extra},\n)\nprint(answer.choices[0].${show})`;
}

function vllm(request) {
  const [, { controls = [], ...body }] = requestOf(request);
  return JSON.stringify({ ...body, vllm_xargs: { controls: JSON.stringify(controls) } }, null, 2);
}

/** [name, code] of every way to ask. */
export function snippets(request, hasKey) {
  const made = [["curl", curl(request, hasKey)], ["Python", client(request, hasKey)]];
  return request.task === "complete" || request.task === "chat" ? [...made, ["vllm_xargs", vllm(request)]] : made;
}
