// What is asked of the server, with the key of this tab. Knows addresses and errors, and draws nothing.

const KEPT = "tandem-key";

export const key = {
  get: () => sessionStorage.getItem(KEPT) || "",
  set: (value) => (value ? sessionStorage.setItem(KEPT, value) : sessionStorage.removeItem(KEPT)),
};

export class Refused extends Error {
  // `status` is 0 where there was no answer at all.
  constructor(status, message, more = {}) {
    super(message);
    this.status = status;
    Object.assign(this, more);
  }
}

// A header holds bytes: a key of other letters is sent as UTF-8.
const asBytes = (text) => String.fromCharCode(...new TextEncoder().encode(text));

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (key.get()) headers.Authorization = `Bearer ${asBytes(key.get())}`;
  let answer;
  try {
    answer = await fetch(new URL(path, document.baseURI), { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "the server does not answer");
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function refusal(answer) {
  let told = {};
  try {
    told = (await answer.json()).error || {};
  } catch {
    // not ours: a proxy's page, or nothing
  }
  const message = told.message || `${answer.status} ${answer.statusText}`;
  const retry =
    Number(answer.headers.get("retry-after-ms")) / 1000 || Number(answer.headers.get("retry-after")) || null;
  return new Refused(answer.status, message, {
    param: told.param || null,
    requestId: answer.headers.get("x-request-id"),
    retryAfter: retry,
  });
}

export const getJson = async (path, signal) => (await ask(path, { signal })).json();

// Gives each event of a chat completion's stream. A failure after the headers is thrown, too.
export async function* chat(body, signal) {
  const headers = { "Content-Type": "application/json", "x-tandem-timing": "1" };
  const answer = await ask("v1/chat/completions", { method: "POST", headers, body: JSON.stringify(body), signal });
  for await (const data of events(answer.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Refused(200, chunk.error.message, { param: chunk.error.param });
    yield chunk;
  }
  throw new Refused(0, "the stream broke off");
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) for (const line of part.split("\n")) if (line.startsWith("data: ")) yield line.slice(6);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
