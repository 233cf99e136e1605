// The server's public routes. The key is kept in this module's memory alone, and gone with the page.

const ROOT = new URL(".", document.baseURI);
const PATIENCE_MS = 120_000;
let key = "";

/** What the server, or the way to it, said. */
export class ApiError extends Error {
  constructor(status, error, retryAfter) {
    super(error.message);
    this.status = status;
    this.param = error.param;
    this.code = error.code;
    this.retryAfter = retryAfter;
    this.title = titleOf(status);
  }
}

function titleOf(status) {
  if (status === 0) return "The server does not answer";
  if (status === 401) return "A key is needed";
  if (status === 403) return "The key does not allow this";
  if (status === 429 || status === 503) return "The server is busy";
  return status >= 500 ? "The server failed" : "The server refused this";
}

export const setKey = (value) => { key = value.trim(); };
export const hasKey = () => key !== "";

/** The address of a route, for code to copy. */
export const address = (path) => new URL(path, ROOT).href;

async function send(path, { method, body, query, signal, file } = {}) {
  const url = new URL(path, ROOT);
  for (const [name, value] of Object.entries(query ?? {})) if (value !== undefined && value !== null) url.searchParams.set(name, value);
  const headers = {};
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  if (file) headers["Content-Type"] = "application/octet-stream";
  const limit = AbortSignal.timeout(PATIENCE_MS);
  let answer;
  try {
    answer = await fetch(url, {
      method: method ?? (body || file ? "POST" : "GET"), headers, body: file ?? (body && JSON.stringify(body)),
      signal: signal ? AbortSignal.any([signal, limit]) : limit, cache: "no-store",
    });
  } catch (error) {
    throw lost(error);
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

function lost(error) {
  if (error.name === "AbortError") return error;
  const late = error.name === "TimeoutError";
  return new ApiError(0, { message: late ? "Nothing came back within two minutes." : "The connection was refused or lost. Is it running?" });
}

async function refusal(answer) {
  let said = null;
  try {
    said = (await answer.json()).error;
  } catch {
    said = null; // a proxy's page, not the server's envelope
  }
  const error = new ApiError(answer.status, said ?? { message: `HTTP ${answer.status}` }, answer.headers.get("Retry-After"));
  if (answer.status === 401) document.dispatchEvent(new CustomEvent("key-needed"));
  return error;
}

/** A route's JSON. */
export async function ask(path, options) {
  const answer = await send(path, options);
  try {
    return await answer.json();
  } catch (error) {
    throw lost(error);
  }
}

/** A route's text. */
export const askText = async (path, options) => (await send(path, options)).text();

/** The events of a stream, as objects, until `[DONE]`. */
export async function* stream(path, body, signal) {
  const answer = await send(path, { body: { ...body, stream: true }, signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    while (true) {
      const { done, value } = await reader.read().catch((error) => { throw lost(error); });
      if (done) throw new ApiError(0, { message: "The answer broke off before its end." });
      held += value;
      const events = held.split("\n\n");
      held = events.pop();
      for (const event of events) {
        const data = event.replace(/^data: /, "");
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new ApiError(500, chunk.error);
        yield chunk;
      }
    }
  } finally {
    reader.cancel().catch(() => undefined); // closed already
  }
}
