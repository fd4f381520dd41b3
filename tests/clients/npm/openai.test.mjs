// OpenAI's JavaScript client.

import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { ALIAS, ANSWER, HTTP, MODEL, QUESTION } from "./served.mjs";

const client = new OpenAI({ baseURL: `${HTTP}/v1`, apiKey: "none", maxRetries: 0 });
const asked = { model: MODEL, messages: [{ role: "user", content: QUESTION }], temperature: 0 };
const Place = z.object({ kind: z.enum(["city", "river"]), size: z.number().int().min(0).max(9) });
const tool = {
  type: "function",
  function: {
    name: "get_weather",
    parameters: { type: "object", properties: { unit: { enum: ["C", "F"] } }, required: ["unit"] },
  },
};

test("an answer", async () => {
  const answer = await client.chat.completions.create(asked);
  assert.equal(answer.choices[0].message.content, ANSWER);
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
});

test("a stream", async () => {
  let text = "";
  let parts = 0;
  for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
    text += chunk.choices[0]?.delta?.content ?? "";
    parts += 1;
  }
  assert.equal(text, ANSWER);
  assert.ok(parts > 5);
});

test("a typed answer", async () => {
  const answer = await client.chat.completions.parse({ ...asked, response_format: zodResponseFormat(Place, "place") });
  assert.ok(Place.safeParse(answer.choices[0].message.parsed).success);
});

test("a tool, whole and streamed", async () => {
  const calling = { ...asked, tools: [tool], tool_choice: "required", parallel_tool_calls: false };
  const [call] = (await client.chat.completions.create(calling)).choices[0].message.tool_calls;
  assert.equal(call.function.name, "get_weather");
  const final = await client.chat.completions.stream(calling).finalChatCompletion();
  assert.deepEqual(final.choices[0].message.tool_calls[0].function, call.function);
  assert.ok(["C", "F"].includes(JSON.parse(call.function.arguments).unit));
});

test("completions, embeddings and models", async () => {
  const text = await client.completions.create({ model: MODEL, prompt: "Once", max_tokens: 4, temperature: 0 });
  assert.equal(text.usage.completion_tokens, 4);
  const vectors = await client.embeddings.create({ model: MODEL, input: ["a", "b"] });
  assert.equal(vectors.data.length, 2);
  assert.ok(Math.abs(vectors.data[0].embedding.reduce((sum, value) => sum + value * value, 0) - 1) < 1e-3);
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  assert.deepEqual(names, [MODEL, ALIAS]);
});

test("responses", async () => {
  const first = await client.responses.create({ model: MODEL, input: QUESTION, temperature: 0 });
  assert.equal(first.output_text, ANSWER);
  const kinds = [];
  for await (const event of await client.responses.create({ model: MODEL, input: QUESTION, temperature: 0, stream: true })) {
    kinds.push(event.type);
  }
  assert.equal(kinds.at(0), "response.created");
  assert.equal(kinds.at(-1), "response.completed");
});

test("errors", async () => {
  await assert.rejects(client.chat.completions.create({ ...asked, model: "gpt" }), OpenAI.NotFoundError);
  await assert.rejects(client.chat.completions.create({ ...asked, temperature: 3 }), (error) => {
    return error instanceof OpenAI.BadRequestError && error.param === "temperature";
  });
});

test("a stream that is left ends", async () => {
  const stream = await client.chat.completions.create({ ...asked, stream: true });
  for await (const chunk of stream) {
    if (chunk.choices[0]?.delta?.content) break;
  }
  assert.ok(stream.controller.signal.aborted);
});
